/* What the files for one token share: asking for memory early, and the end of a row. */

#ifndef EXCISE_ROW_H
#define EXCISE_ROW_H

#include "activation.h"

enum { AHEAD = 2048 }; /* bytes of a weight that are asked for before they are needed */

static inline void ask_for(const void *p) {
    __builtin_prefetch((const char *)p + AHEAD, 0, 3); /* past a buffer's end nothing happens */
}

#if LANES >= 8
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
#endif

#if LANES == 8
/* For each byte of a mask: which of the values that follow stands at each of its eight columns, or
 * -1. There is no instruction for that below AVX-512. */
HIDDEN extern int8_t PLACES[256][8];

static inline __m256 spread8(__m256 values, uint8_t here) {
    const __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)PLACES[here]));
    const __m256 none = _mm256_castsi256_ps(_mm256_srai_epi32(from, 31));
    return _mm256_andnot_ps(none, _mm256_permutevar8x32_ps(values, from));
}

static inline float sum_of_all(const __m256 s[4]) {
    const __m256 all = _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3]));
    return sum_of(_mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
#endif

/* Output m: bias, residual and activation on top. */
static inline void finished(float total, int64_t m, float *y, const finish *f) {
    if (f->bias) total += f->bias[m];
    y[m] = ended_one(total, f->residual ? f->residual + m : NULL, f);
}

#endif
