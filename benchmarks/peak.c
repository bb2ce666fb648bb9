/* What one core can do at most: multiply-adds in registers, and bytes read from memory. */

#include <stddef.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef float reg __attribute__((vector_size(4 * LANES)));

enum { CHAINS = 12 }; /* sums at once: more than the latency of a multiply-add hides */

int lanes(void) { return LANES; }

/* So many times CHAINS vector multiply-adds; the sum is returned, so that none is left out. */
float multiply_adds(long times) {
    reg sum[CHAINS], a = {0}, b = {0};
    a += 1.0000001f;
    b += 0.9999999f;
    for (int i = 0; i < CHAINS; i++) sum[i] = a + (float)i;
    for (long t = 0; t < times; t++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * b + a;
    }
    reg all = {0};
    for (int i = 0; i < CHAINS; i++) all += sum[i];
    float total = 0;
    for (int i = 0; i < LANES; i++) total += all[i];
    return total;
}

/* Reads so many floats once. */
float read_all(const float *p, size_t count) {
    reg sum[8] = {0};
    for (size_t i = 0; i + 8 * LANES <= count; i += 8 * LANES)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sum[j] += *(const vec *)(p + i + j * LANES);
    float total = 0;
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < LANES; i++) total += sum[j][i];
    return total;
}
