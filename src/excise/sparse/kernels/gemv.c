/* One token: bound by memory. */

#include "row.h"

#if LANES >= 8
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

#if LANES == 8
HIDDEN int8_t PLACES[256][8];

__attribute__((constructor)) static void find_places(void) {
    for (int byte = 0; byte < 256; byte++)
        for (int i = 0, seen = 0; i < 8; i++) PLACES[byte][i] = byte >> i & 1 ? (int8_t)seen++ : -1;
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
#elif LANES == 8
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    for (int64_t k = 0; k < words; k++) {
        ask_for(value);
        ask_for(value + 16);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const uint8_t here = (uint8_t)(mask[k] >> (8 * i));
            const __m256 v = spread8(_mm256_loadu_ps(value), here);
            s[i % 4] = _mm256_fmadd_ps(v, _mm256_loadu_ps(x + 64 * k + 8 * i), s[i % 4]);
            value += __builtin_popcount(here);
        }
    }
    return sum_of_all(s);
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
