/* One token again, with a weight of bfloat16: half the bytes, and sums in float32. A bfloat16 is the
 * upper half of a float. */

#include "row.h"

typedef struct {
    const uint16_t *value, *index;
    const uint32_t *pointer; /* as in common.h: rows + 1, then which row stands at each place */
    int64_t rows;
} short_matrix;

typedef struct {
    const uint16_t *value;
    const uint64_t *mask;
    const uint32_t *pointer;
    int64_t rows, words;
} short_bitmask;

static inline float widened(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

#if defined(__AVX512F__)
static inline __m512 widened16(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
#elif LANES == 8
static inline __m256 widened8(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
#endif

/* One row: so many values, each times the float of x that its index names. */
static inline float picked(const uint16_t *value, const uint16_t *index, int64_t count,
                           const float *x) {
    int64_t j = 0;
    float total = 0.0f;
#if defined(__AVX512F__)
    __m512 s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (; j + 32 <= count; j += 32) {
        ask_for(value + j);
        ask_for(index + j);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const __m256i *at = (const __m256i *)(index + j + 16 * i);
            const __m512i places = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at));
            s[i] = _mm512_fmadd_ps(widened16(value + j + 16 * i),
                                   _mm512_i32gather_ps(places, x, 4), s[i]);
        }
    }
    total = _mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1]));
#elif LANES == 8
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    for (; j + 16 <= count; j += 16) {
        uint64_t places[4];
        memcpy(places, index + j, sizeof places);
        ask_for(value + j);
        ask_for(index + j);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const __m256 found = _mm256_set_m128(gathered(x, places[2 * i + 1]),
                                                 gathered(x, places[2 * i]));
            s[i] = _mm256_fmadd_ps(widened8(value + j + 8 * i), found, s[i]);
        }
    }
    total = sum_of_all(s);
#endif
    for (; j < count; j++) total += widened(value[j]) * x[index[j]];
    return total;
}

/* y = weight times x for one x of floats; a single block of columns. */
int excise_gemv_short(const short_matrix *a, const float *x, float *y, const finish *f,
                      int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->rows; i++) {
        const uint32_t from = a->pointer[i], count = a->pointer[i + 1] - from;
        const uint32_t m = a->pointer[a->rows + 1 + i];
        finished(picked(a->value + from, a->index + from, count, x), m, y, f);
    }
    return 0;
}

#if defined(__AVX512F__)
/* One row, where the machine multiplies pairs of bfloat16 and spreads 16-bit values out. */
__attribute__((target("avx512bf16,avx512vbmi2"))) static float
dotted(const uint16_t *value, const uint64_t *mask, int64_t words, const uint16_t *x) {
    __m512 s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t k = 0; k < words; k++) {
        const uint64_t word = mask[k];
        ask_for(value);
        ask_for(value + 32);
        __m512i low = _mm512_loadu_si512(value);
        __m512i high = _mm512_loadu_si512(value + __builtin_popcountll(word & 0xffffffffu));
        __asm__("" : "+v"(low), "+v"(high)); /* as in gemv.c: expand registers, not memory */
        low = _mm512_maskz_expand_epi16((__mmask32)word, low);
        high = _mm512_maskz_expand_epi16((__mmask32)(word >> 32), high);
        s[0] = _mm512_dpbf16_ps(s[0], (__m512bh)low, (__m512bh)_mm512_loadu_si512(x + 64 * k));
        s[1] = _mm512_dpbf16_ps(s[1], (__m512bh)high, (__m512bh)_mm512_loadu_si512(x + 64 * k + 32));
        value += __builtin_popcountll(word);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1]));
}

/* One row, where it does not. */
static float spread(const uint16_t *value, const uint64_t *mask, int64_t words, const uint16_t *x) {
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                   _mm512_setzero_ps()};
    for (int64_t k = 0; k < words; k++) {
        const uint64_t word = mask[k];
        ask_for(value);
        ask_for(value + 32);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const uint64_t before = i ? word << (64 - 16 * i) : 0;
            const __m512 v = _mm512_maskz_expand_ps(
                (__mmask16)(word >> (16 * i)), widened16(value + __builtin_popcountll(before)));
            s[i] = _mm512_fmadd_ps(v, widened16(x + 64 * k + 16 * i), s[i]);
        }
        value += __builtin_popcountll(word);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}
#elif LANES == 8
static float dotted(const uint16_t *value, const uint64_t *mask, int64_t words, const uint16_t *x) {
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                   _mm256_setzero_ps()};
    for (int64_t k = 0; k < words; k++) {
        ask_for(value);
        ask_for(value + 32);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const uint8_t here = (uint8_t)(mask[k] >> (8 * i));
            const __m256 v = spread8(widened8(value), here);
            s[i % 4] = _mm256_fmadd_ps(v, widened8(x + 64 * k + 8 * i), s[i % 4]);
            value += __builtin_popcount(here);
        }
    }
    return sum_of_all(s);
}
#define spread dotted
#else
static float dotted(const uint16_t *value, const uint64_t *mask, int64_t words, const uint16_t *x) {
    float total = 0.0f;
    for (int64_t k = 0; k < words; k++)
        for (uint64_t word = mask[k]; word; word &= word - 1)
            total += widened(*value++) * widened(x[64 * k + __builtin_ctzll(word)]);
    return total;
}
#define spread dotted
#endif

/* The same with a bit for every column, for an x of bfloat16, padded as in gemv.c; `dots` as
 * `excise_dots` says it. */
int excise_gemv_mask_short(const short_bitmask *a, const uint16_t *x, float *y, const finish *f,
                           int64_t threads, int64_t dots) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t m = 0; m < a->rows; m++) {
        const uint16_t *value = a->value + a->pointer[m];
        const uint64_t *mask = a->mask + m * a->words;
        finished(dots ? dotted(value, mask, a->words, x) : spread(value, mask, a->words, x), m, y, f);
    }
    return 0;
}

/* Whether this machine multiplies pairs of bfloat16, and the library knows how. */
int excise_dots(void) {
#if defined(__AVX512F__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi2");
#else
    return 0;
#endif
}
