/* What the files of kernels share: vectors, a sparse weight, what happens to an output. Plain C with
 * vector extensions of GCC and clang: compiled once for each instruction set (compile.py), chosen when
 * loaded (library.py). Knows nothing of torch.
 *
 * A weight is kept in blocks of columns. Within a block, and within each span of so many rows, the rows
 * stand in the order of how many values they have, so that the end of a loop over them can be
 * predicted. For block b and place i, the values stand at pointer[b * rows + i] up to
 * pointer[b * rows + i + 1] of `value`, and `index` says which row of the dense tile each is
 * multiplied with; which row of the weight that is stands at order[b * rows + i], behind the
 * pointers. The tile of outputs lies in registers, the block of the dense operand in the first-level
 * cache; that is the whole idea.
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
#include <immintrin.h>
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define HIDDEN __attribute__((visibility("hidden"))) /* shared by the files, not by libraries */

enum { MOST_TILES = 8, ALIGNMENT = 64 };
enum { PLAIN, RELU, RELU6, GELU, GELU_TANH, SILU, HARDSWISH, SIGMOID, TANH };

typedef struct {
    const float *value;
    const uint16_t *index;
    const uint32_t *pointer;
    int64_t rows, depth, block; /* of the weight; columns in a block */
    int64_t span;               /* rows are sorted within so many */
} matrix;

typedef struct { /* the same with a bit for every column */
    const float *value;
    const uint64_t *mask;    /* rows x words: a bit for every column, the lowest first */
    const uint32_t *pointer; /* rows + 1 */
    int64_t rows, words;
} bitmask;

typedef struct { /* what happens to an output before it is written */
    const float *bias;     /* one for each row, or null */
    const float *residual; /* laid out as the output, or null */
    int64_t activation;
    int64_t late; /* the residual is added after the activation, not before */
} finish;

/* Not `x + (vec){0}`, for which the compiler has to keep the addition: it turns -0 into 0. */
static inline vec splat(float x) {
#if LANES == 16
    return (vec)_mm512_set1_ps(x);
#elif LANES == 8
    return (vec)_mm256_set1_ps(x);
#else
    return (vec){x, x, x, x};
#endif
}
static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }

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

/* Values of `in_place`: never, for whole tiles, or always, as the buffer goes on behind each row. */
enum { PACKED, WHOLE, SLACK };

/* What lies behind a plane of outputs is read by whole vectors, and never used. It is zero all the same:
 * numbers too small for their exponent would be slow. */
static inline void clear_behind(const product *p, float *plane) {
    for (int64_t n = p->columns; n < p->y_pitch; n++) plane[n] = 0.0f;
}

static inline void clear_behind_all(const product *p, int64_t planes) {
    for (int64_t i = 0; p->y_pitch > p->columns && i < p->images; i++)
        for (int64_t c = 0; c < planes; c++) clear_behind(p, p->y + i * p->y_image + c * p->y_pitch);
}

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct {
    int64_t channels, height, width;             /* of an image */
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, step_y, step_x; /* step: dilation */
    int64_t out_y, out_x;
} window;

static inline int64_t parts_of(const matrix *a) { return (a->depth + a->block - 1) / a->block; }

/* Which rows of the weight stand at the places of a block. */
static inline const uint32_t *order_of(const matrix *a, int64_t part) {
    return a->pointer + parts_of(a) * a->rows + 1 + part * a->rows;
}

/* How many spans of rows a piece of the output has, so that every thread gets a piece. */
static inline int64_t rows_of_piece(const matrix *a, int64_t tiles, int64_t threads) {
    const int64_t wanted = tiles >= threads ? 1 : (threads + tiles - 1) / tiles;
    const int64_t spans = (a->rows + a->span - 1) / a->span;
    return (spans + wanted - 1) / wanted * a->span;
}

#endif
