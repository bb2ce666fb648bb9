/* Rows of an image, shifted and thinned, with something around them. */

#ifndef EXCISE_IMAGE_H
#define EXCISE_IMAGE_H

#include "common.h"

/* Which floats of a copied row lie inside of the image: i with from <= i < to. */
typedef struct {
    int64_t begin, from, to; /* begin: where in the image's row the copy begins */
} range;

static inline range inside(int64_t width, int64_t begin, int64_t step, int64_t wide) {
    range in = {.begin = begin};
    in.from = begin < 0 ? at_most(wide, (-begin + step - 1) / step) : 0;
    in.to = begin < width ? at_most(wide, (width - begin + step - 1) / step) : 0;
    if (in.to < in.from) in.to = in.from;
    return in;
}

#if LANES == 16
/* Every second float from `from`, so many as `there` has bits, `other` in the place of the rest. */
static inline __m512 every_second(const float *from, uint32_t there, __m512 other) {
    const uint32_t twice = _pdep_u32(there, 0x55555555u);
    const __m512 one = _mm512_mask_loadu_ps(other, (__mmask16)twice, from);
    const __m512 two = _mm512_mask_loadu_ps(other, (__mmask16)(twice >> 16), from + 16);
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(one, even, two);
}
#endif

/* Every step-th float of an image's row, `fill` outside of it; `wide` is a number of whole vectors. */
static inline void thinned(const float *row, range in, int64_t step, int64_t wide, float fill,
                           float *to) {
    row += in.begin;
#if LANES == 16
    if (step <= 2) {
        const __m512 other = _mm512_set1_ps(fill);
        for (int64_t n = 0; n < wide; n += 16, row += 16 * step) {
            const int64_t a = in.from - n, b = in.to - n;
            const uint32_t low = a <= 0 ? 0 : a >= 16 ? 0xffff : (1u << a) - 1;
            const uint32_t high = b <= 0 ? 0 : b >= 16 ? 0xffff : (1u << b) - 1;
            const uint32_t there = high & ~low;
            if (step == 1)
                _mm512_store_ps(to + n, _mm512_mask_loadu_ps(other, (__mmask16)there, row));
            else
                _mm512_store_ps(to + n, every_second(row, there, other));
        }
        return;
    }
#endif
    for (int64_t n = 0; n < in.from; n++) to[n] = fill;
    if (step == 1 && in.to > in.from)
        memcpy(to + in.from, row + in.from, 4 * (in.to - in.from));
    else
        for (int64_t n = in.from; n < in.to; n++) to[n] = row[n * step];
    for (int64_t n = in.to; n < wide; n++) to[n] = fill;
}

/* A short run of floats, `step` apart where they are read. */
static inline void run_of(const float *from, int64_t n, int64_t step, float *to) {
#if LANES == 16
    if (step <= 2) {
        for (; n > 0; n -= 16, from += 16 * step, to += 16) {
            const uint32_t there = n >= 16 ? 0xffff : (1u << n) - 1;
            const __m512 v = step == 1 ? _mm512_maskz_loadu_ps((__mmask16)there, from)
                                       : every_second(from, there, _mm512_setzero_ps());
            _mm512_mask_storeu_ps(to, (__mmask16)there, v);
        }
        return;
    }
#endif
    if (step == 1)
        memcpy(to, from, 4 * n);
    else
        for (int64_t i = 0; i < n; i++) to[i] = from[i * step];
}

#endif
