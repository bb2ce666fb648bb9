/* One token: bound by memory. */

#include "activation.h"

/* y = weight times x for one x; a single block of columns, so that `index` is the column. */
int excise_gemv(const matrix *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->rows; i++) {
        const int64_t m = order_of(a, 0)[i];
        const float *value = a->value;
        const uint16_t *index = a->index;
        uint32_t j = a->pointer[i];
        const uint32_t end = a->pointer[i + 1];
        float sum[8] = {f->bias ? f->bias[m] : 0.0f};
        for (; j + 8 <= end; j += 8)
            for (int u = 0; u < 8; u++) sum[u] += value[j + u] * x[index[j + u]];
        for (; j < end; j++) sum[0] += value[j] * x[index[j]];
        float total = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
        y[m] = ended_one(total, f->residual ? f->residual + m : NULL, f);
    }
    return 0;
}

typedef struct {
    const float *value;
    const uint64_t *mask;    /* rows x words: a bit for every column, the lowest first */
    const uint32_t *pointer; /* rows + 1 */
    int64_t rows, words;
} bitmask;

/* The same with a bit for every column; x is padded with zeros to 64 * words, and `value` with 64
 * more that are never used. */
int excise_gemv_mask(const bitmask *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t m = 0; m < a->rows; m++) {
        const uint64_t *mask = a->mask + m * a->words;
        const float *value = a->value + a->pointer[m];
        float total = f->bias ? f->bias[m] : 0.0f;
#if defined(__AVX512F__)
        __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                       _mm512_setzero_ps()};
        for (int64_t k = 0; k < a->words; k++) {
            const uint64_t word = mask[k];
            const float *at = x + 64 * k;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __mmask16 here = (__mmask16)(word >> (16 * i));
                const uint64_t before = i ? word << (64 - 16 * i) : 0;
                __m512 v = _mm512_loadu_ps(value + __builtin_popcountll(before));
                __asm__("" : "+v"(v)); /* expansion of a register is twice as fast as of memory */
                s[i] = _mm512_fmadd_ps(_mm512_maskz_expand_ps(here, v), _mm512_loadu_ps(at + 16 * i),
                                       s[i]);
            }
            value += __builtin_popcountll(word);
        }
        total += _mm512_reduce_add_ps(
            _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
#else
        for (int64_t k = 0; k < a->words; k++)
            for (uint64_t word = mask[k]; word; word &= word - 1)
                total += *value++ * x[64 * k + __builtin_ctzll(word)];
#endif
        y[m] = ended_one(total, f->residual ? f->residual + m : NULL, f);
    }
    return 0;
}
