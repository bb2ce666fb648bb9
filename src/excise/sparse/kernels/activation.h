/* What may happen to an output before it is written; on vectors, and on single floats. */

#ifndef EXCISE_ACTIVATION_H
#define EXCISE_ACTIVATION_H

#include "common.h"

static inline bits of_bits(int32_t x) { return x + (bits){0}; }
static inline vec chosen(bits mask, vec yes, vec no) {
    return (vec)((mask & (bits)yes) | (~mask & (bits)no));
}
/* A NaN stays: of two floats that cannot be compared, the instructions for x86 give the second. */
static inline vec below(vec x, float most) {
#if LANES == 16
    return (vec)_mm512_min_ps((__m512)splat(most), (__m512)x);
#elif LANES == 8
    return (vec)_mm256_min_ps((__m256)splat(most), (__m256)x);
#else
    return chosen((bits)(x > splat(most)), splat(most), x);
#endif
}
static inline vec above(vec x, float least) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)splat(least), (__m512)x);
#elif LANES == 8
    return (vec)_mm256_max_ps((__m256)splat(least), (__m256)x);
#else
    return chosen((bits)(x < splat(least)), splat(least), x);
#endif
}
static inline vec at_least_zero(vec x) { return above(x, 0.0f); }

/* a / b, to a unit in the last place or two; b neither 0 nor infinite. A division takes many times as
 * long as an estimate that is corrected once. */
static inline vec quotient(vec a, vec b) {
#if LANES == 16
    const vec r = (vec)_mm512_rcp14_ps((__m512)b);
    return a * (r * (splat(2.0f) - b * r));
#else
    return a / b;
#endif
}

/* e^x to a unit in the last place or two: 2^n times a polynomial (Cephes, expf). */
static inline vec exponential(vec x) {
    x = above(below(x, 88.0f), -87.0f);
    const float magic = 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer */
    const vec n = (x * splat(1.44269504f) + splat(magic)) - splat(magic);
    const vec r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1.0f);
    const bits power = __builtin_convertvector(n, bits);
    return (vec)((bits)p + (power << 23));
}

/* erf x = x P(x^2) / Q(x^2) on [-4, 4], beyond which it is 1 to float32 (minimax, as in Eigen). */
static inline vec error_function(vec x) {
    x = above(below(x, 4.0f), -4.0f);
    const vec s = x * x;
    vec p = splat(-2.72614225801306e-10f), q = splat(-1.45660718464996e-05f);
    p = p * s + splat(2.77068142495902e-08f);
    p = p * s + splat(-2.10102402082508e-06f);
    p = p * s + splat(-5.69250639462346e-05f);
    p = p * s + splat(-7.34990630326855e-04f);
    p = p * s + splat(-2.95459980854025e-03f);
    p = p * s + splat(-1.60960333262415e-02f);
    q = q * s + splat(-2.13374055278905e-04f);
    q = q * s + splat(-1.68282697438203e-03f);
    q = q * s + splat(-7.37332916720468e-03f);
    q = q * s + splat(-1.42647390514189e-02f);
    return quotient(x * p, q);
}

static inline vec logistic(vec x) {
    return quotient(splat(1.0f), splat(1.0f) + exponential(-x));
}

__attribute__((noinline, unused)) static vec curved(vec x, int64_t activation) {
    switch (activation) {
    case GELU:
        return x * splat(0.5f) * (splat(1.0f) + error_function(x * splat(0.70710678f)));
    case GELU_TANH: { /* (1 + tanh u) / 2 is the logistic function of 2 u */
        const vec u = x * (splat(1.59576912f) + splat(0.07135481f) * x * x);
        return x * logistic(u);
    }
    case SILU: return x * logistic(x);
    case HARDSWISH: return x * below(at_least_zero(x + splat(3.0f)), 6.0f) * splat(1.0f / 6.0f);
    case SIGMOID: return logistic(x);
    default: return splat(2.0f) * logistic(x + x) - splat(1.0f); /* TANH */
    }
}

__attribute__((always_inline)) static inline vec activated(vec x, int64_t activation) {
    if (activation == PLAIN) return x;
    if (activation == RELU) return at_least_zero(x);
    if (activation == RELU6) return below(at_least_zero(x), 6.0f);
    return curved(x, activation);
}

static inline float activated_one(float x, int64_t activation) {
    if (activation > RELU6) return activated(splat(x), activation)[0];
    if (activation != PLAIN && x < 0.0f) x = 0.0f;
    if (activation == RELU6 && x > 6.0f) x = 6.0f;
    return x;
}

/* The whole ending of a vector of sums: what is added, and before or after the activation. */
__attribute__((always_inline)) static inline vec ended(vec x, const float *residual, const finish *f) {
    if (!residual) return activated(x, f->activation);
    if (f->late) return activated(x, f->activation) + load(residual);
    return activated(x + load(residual), f->activation);
}

static inline float ended_one(float x, const float *residual, const finish *f) {
    if (!residual) return activated_one(x, f->activation);
    if (f->late) return activated_one(x, f->activation) + *residual;
    return activated_one(x + *residual, f->activation);
}

/* So many floats of a vector, from one to LANES, written. */
static inline void part_to(float *out, vec x, int64_t n) {
#if LANES == 16
    _mm512_mask_storeu_ps(out, (__mmask16)((1u << n) - 1), (__m512)x);
#else
    float spill[LANES];
    if (n >= LANES) {
        store(out, x);
        return;
    }
    store(spill, x);
    memcpy(out, spill, 4 * n);
#endif
}

/* So many floats of a vector of sums, from one to LANES, ended and written. */
static inline void ended_to(float *out, vec x, const float *residual, const finish *f, int64_t n) {
    if (n >= LANES) {
        store(out, ended(x, residual, f));
        return;
    }
#if LANES == 16
    const __mmask16 there = (__mmask16)((1u << n) - 1);
    float zeros[LANES];
    if (residual) {
        store(zeros, (vec)_mm512_maskz_loadu_ps(there, residual));
        residual = zeros;
    }
    _mm512_mask_storeu_ps(out, there, (__m512)ended(x, residual, f));
    return;
#endif
    float spill[LANES] = {0};
    if (residual) {
        memcpy(spill, residual, 4 * n);
        residual = spill;
    }
    const vec y = ended(x, residual, f);
    store(spill, y);
    memcpy(out, spill, 4 * n);
}

#endif
