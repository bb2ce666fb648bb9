/* One token: bound by memory. */

#include "row.h"

#if defined(__AVX512F__)
/* Four floats at the places that four indices of 16 bits name; faster than the machine's own gather
 * where that is slow, and as fast where it is not. */
static inline __m128 gathered(const float *x, uint64_t four) {
    __m128 r = _mm_load_ss(x + (four & 0xffff));
    r = _mm_insert_ps(r, _mm_load_ss(x + ((four >> 16) & 0xffff)), 0x10);
    r = _mm_insert_ps(r, _mm_load_ss(x + ((four >> 32) & 0xffff)), 0x20);
    return _mm_insert_ps(r, _mm_load_ss(x + (four >> 48)), 0x30);
}

static inline float sum_of(__m128 v) {
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(v) + _mm_cvtss_f32(_mm_movehdup_ps(v));
}

/* One row: so many values, each times the float of x that its index names. */
static inline float picked(const float *value, const uint16_t *index, int64_t count, const float *x) {
    __m128 s[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
    int64_t j = 0;
    for (; j + 16 <= count; j += 16) {
        uint64_t places[4];
        memcpy(places, index + j, sizeof places);
        ask_for(value + j);
        ask_for(index + j);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            s[i] = _mm_fmadd_ps(_mm_loadu_ps(value + j + 4 * i), gathered(x, places[i]), s[i]);
    }
    float total = sum_of(_mm_add_ps(_mm_add_ps(s[0], s[1]), _mm_add_ps(s[2], s[3])));
    for (; j < count; j++) total += value[j] * x[index[j]];
    return total;
}
#else
static inline float picked(const float *value, const uint16_t *index, int64_t count, const float *x) {
    float sum[8] = {0};
    int64_t j = 0;
    for (; j + 8 <= count; j += 8)
        for (int i = 0; i < 8; i++) sum[i] += value[j + i] * x[index[j + i]];
    for (; j < count; j++) sum[0] += value[j] * x[index[j]];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}
#endif

/* y = weight times x for one x; a single block of columns, so that `index` is the column. */
int excise_gemv(const matrix *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->rows; i++) {
        const uint32_t from = a->pointer[i], count = a->pointer[i + 1] - from;
        finished(picked(a->value + from, a->index + from, count, x), order_of(a, 0)[i], y, f);
    }
    return 0;
}

typedef struct {
    const float *value;
    const uint64_t *mask;    /* rows x words: a bit for every column, the lowest first */
    const uint32_t *pointer; /* rows + 1 */
    int64_t rows, words;
} bitmask;

/* One row: its values spread out to the columns that their bits name. */
static inline float spread(const float *value, const uint64_t *mask, int64_t words, const float *x) {
#if defined(__AVX512F__)
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                   _mm512_setzero_ps()};
    for (int64_t k = 0; k < words; k++) {
        const uint64_t word = mask[k];
        ask_for(value);
        ask_for(value + 16);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __mmask16 here = (__mmask16)(word >> (16 * i));
            const uint64_t before = i ? word << (64 - 16 * i) : 0;
            __m512 v = _mm512_loadu_ps(value + __builtin_popcountll(before));
            __asm__("" : "+v"(v)); /* expansion of a register is twice as fast as of memory */
            s[i] = _mm512_fmadd_ps(_mm512_maskz_expand_ps(here, v),
                                   _mm512_loadu_ps(x + 64 * k + 16 * i), s[i]);
        }
        value += __builtin_popcountll(word);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
#else
    float total = 0.0f;
    for (int64_t k = 0; k < words; k++)
        for (uint64_t word = mask[k]; word; word &= word - 1)
            total += *value++ * x[64 * k + __builtin_ctzll(word)];
    return total;
#endif
}

/* The same with a bit for every column; x is padded with zeros to 64 * words, and `value` with 64
 * more that are never used. */
int excise_gemv_mask(const bitmask *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t m = 0; m < a->rows; m++)
        finished(spread(a->value + a->pointer[m], a->mask + m * a->words, a->words, x), m, y, f);
    return 0;
}
