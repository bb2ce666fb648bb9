/* What the files of kernels share: vectors, a sparse weight, what happens to an output. Plain C with
 * vector extensions of GCC and clang: compiled once for each instruction set (compile.py), chosen when
 * loaded (library.py). Knows nothing of torch.
 *
 * A weight is kept in blocks of columns. For block b and row m, the nonzero values stand at
 * pointer[b * rows + m] up to pointer[b * rows + m + 1] of `value`, and `index` says which row of
 * the dense tile each is multiplied with. The tile of outputs lies in registers, the block of the
 * dense operand in the first-level cache; that is the whole idea.
 */

#ifndef EXCISE_COMMON_H
#define EXCISE_COMMON_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX2__)
#define LANES 8 /* a 64-byte vector type would be split badly here */
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define HIDDEN __attribute__((visibility("hidden"))) /* shared by the files, not by libraries */

enum { MOST_TILES = 8, ALIGNMENT = 64 };
enum { PLAIN = 0, RELU = 1, RELU6 = 2 };

typedef struct {
    const float *value;
    const uint16_t *index;
    const uint32_t *pointer;
    int64_t rows, depth, block; /* of the weight; columns in a block */
} matrix;

typedef struct { /* what happens to an output before it is written */
    const float *bias;     /* one for each row, or null */
    const float *residual; /* laid out as the output, or null */
    int64_t activation;
} finish;

static inline vec splat(float x) { return x + (vec){0}; }
static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }

/* A comparison gives all ones or all zeros in each lane; a NaN compares as false, and stays. */
static inline vec activated(vec x, int64_t activation) {
    if (activation != PLAIN) {
        x = (vec)((bits)x & ~(bits)(x < (vec){0}));
        if (activation == RELU6) {
            const vec six = splat(6.0f);
            const bits over = (bits)(x > six);
            x = (vec)(((bits)six & over) | ((bits)x & ~over));
        }
    }
    return x;
}

static inline float activated_one(float x, int64_t activation) {
    if (activation != PLAIN && x < 0.0f) x = 0.0f;
    if (activation == RELU6 && x > 6.0f) x = 6.0f;
    return x;
}

/* Scratch memory of a thread; null when there is none, and then nothing is computed. */
static inline void *scratch(size_t bytes) {
    void *p = NULL;
    return posix_memalign(&p, ALIGNMENT, bytes + ALIGNMENT) ? NULL : p;
}

typedef struct {
    const float *x;
    int64_t images, columns, x_image, x_pitch;
    float *y;
    int64_t y_image, y_pitch;
    int64_t tiles, in_place, threads; /* vectors in a tile; read the operand where it is */
} product;

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct {
    int64_t channels, height, width;             /* of an image */
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, step_y, step_x; /* step: dilation */
    int64_t out_y, out_x;
} window;

/* How many pieces rows are split into, so that every thread has a piece of the output. */
static inline int64_t pieces(int64_t tiles, int64_t threads, int64_t rows) {
    const int64_t wanted = tiles >= threads ? 1 : (threads + tiles - 1) / tiles;
    return at_most(wanted, (rows + 15) / 16);
}

#endif
