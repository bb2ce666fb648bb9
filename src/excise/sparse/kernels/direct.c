/* Direct convolution: a tile of R output rows by J vectors, for strides 1 and 2. */

#include "common.h"

/* Shorter vectors than above: rows of an image are short, and R x J of them fit the registers. */
#if LANES >= 8
#define SHORT 8
#else
#define SHORT 4
#endif
typedef float svec __attribute__((vector_size(4 * SHORT), aligned(4), may_alias));
typedef int32_t sbits __attribute__((vector_size(4 * SHORT), aligned(4), may_alias));

enum { OVERHANG = 8 }; /* floats of a tile's row beyond its outputs: kernels are at most 9 wide */

static inline svec sload(const float *p) { return *(const svec *)p; }
static inline void sstore(float *p, svec v) { *(svec *)p = v; }

static inline svec sactivated(svec x, int64_t activation) {
    if (activation != PLAIN) {
        x = (svec)((sbits)x & ~(sbits)(x < (svec){0}));
        if (activation == RELU6) {
            const svec six = 6.0f + (svec){0};
            const sbits over = (sbits)(x > six);
            x = (svec)(((sbits)six & over) | ((sbits)x & ~over));
        }
    }
    return x;
}

typedef struct {
    const float *dense; /* a block of channels; `index` of the matrix is an offset into it */
    float *partial;
    float *out; /* row m of the weight writes at out + m * plane */
    const float *residual;
    int64_t plane, wide;  /* floats between rows of the weight, and of the output image */
    int64_t rows, valid;  /* how much of the tile exists */
    int first, last;
} spot;

#define DIRECT(R, J)                                                                               \
    static void direct_##R##_##J(const matrix *a, int64_t part, int64_t from, int64_t to,          \
                                 const spot *w, const finish *f) {                                 \
        enum { PITCH = J * SHORT + OVERHANG };                                                     \
        const uint32_t *pointer = a->pointer + part * a->rows;                                     \
        for (int64_t m = from; m < to; m++) {                                                      \
            svec sum[R * J];                                                                       \
            float *partial = w->partial + (m - from) * (R * J * SHORT);                            \
            const svec start = (f->bias ? f->bias[m] : 0.0f) + (svec){0};                          \
            for (int i = 0; i < R * J; i++)                                                        \
                sum[i] = w->first ? start : sload(partial + i * SHORT);                            \
            for (uint32_t j = pointer[m], end = pointer[m + 1]; j < end; j++) {                    \
                const float *b = w->dense + a->index[j];                                           \
                const float x = a->value[j];                                                       \
                _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                \
                    _Pragma("GCC unroll 8") for (int t = 0; t < J; t++)                            \
                        sum[r * J + t] += x * sload(b + r * PITCH + t * SHORT);                    \
            }                                                                                      \
            if (!w->last) {                                                                        \
                for (int i = 0; i < R * J; i++) sstore(partial + i * SHORT, sum[i]);               \
                continue;                                                                          \
            }                                                                                      \
            _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                                  \
                if (r >= w->rows) break;                                                           \
                const int64_t place = m * w->plane + r * w->wide;                                  \
                _Pragma("GCC unroll 8") for (int t = 0; t < J; t++) {                              \
                    const int64_t left = w->valid - t * SHORT;                                     \
                    if (left <= 0) break;                                                          \
                    svec v = sum[r * J + t];                                                       \
                    float *out = w->out + place + t * SHORT;                                       \
                    if (left >= SHORT) {                                                           \
                        if (w->residual) v += sload(w->residual + place + t * SHORT);              \
                        sstore(out, sactivated(v, f->activation));                                 \
                    } else {                                                                       \
                        float spill[SHORT] = {0};                                                  \
                        if (w->residual) memcpy(spill, w->residual + place + t * SHORT, 4 * left); \
                        sstore(spill, sactivated(v + sload(spill), f->activation));                \
                        memcpy(out, spill, 4 * left);                                              \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DIRECT(1, 7) DIRECT(2, 7) DIRECT(2, 4) DIRECT(3, 4) DIRECT(4, 4) DIRECT(4, 2) DIRECT(7, 2)
DIRECT(4, 1) DIRECT(7, 1)

typedef void (*direct_kernel)(const matrix *, int64_t, int64_t, int64_t, const spot *,
                              const finish *);

static direct_kernel direct_of(int64_t rows, int64_t vectors) {
    switch (rows * 16 + vectors) {
    case 1 * 16 + 7: return direct_1_7;
    case 2 * 16 + 7: return direct_2_7;
    case 2 * 16 + 4: return direct_2_4;
    case 3 * 16 + 4: return direct_3_4;
    case 4 * 16 + 4: return direct_4_4;
    case 4 * 16 + 2: return direct_4_2;
    case 7 * 16 + 2: return direct_7_2;
    case 4 * 16 + 1: return direct_4_1;
    case 7 * 16 + 1: return direct_7_1;
    default: return NULL;
    }
}

/* One channel's part of a tile: stride planes in each direction, so that a tap is an offset. Row r of
 * the plane (py, px) holds every stride_x-th float of the padded image's row stride_y * r + py. */
static void gathered(const float *x, const window *g, int64_t y0, int64_t x0, int64_t deep,
                     int64_t pitch, float *to) {
    for (int64_t py = 0; py < g->stride_y; py++)
        for (int64_t px = 0; px < g->stride_x; px++)
            for (int64_t r = 0; r < deep; r++, to += pitch) {
                const int64_t y = (y0 + r) * g->stride_y + py - g->pad_y;
                const int64_t begin = x0 * g->stride_x + px - g->pad_x;
                if (y < 0 || y >= g->height) {
                    memset(to, 0, 4 * pitch);
                    continue;
                }
                const float *row = x + y * g->width;
                int64_t before = begin < 0 ? (-begin + g->stride_x - 1) / g->stride_x : 0;
                int64_t after = begin < g->width
                                    ? (g->width - begin + g->stride_x - 1) / g->stride_x : 0;
                before = at_most(before, pitch);
                after = at_most(after, pitch);
                memset(to, 0, 4 * before);
                if (g->stride_x == 1) {
                    if (after > before) memcpy(to + before, row + begin + before, 4 * (after - before));
                } else {
                    for (int64_t i = before; i < after; i++) to[i] = row[begin + i * g->stride_x];
                }
                if (after < before) after = before;
                memset(to + after, 0, 4 * (pitch - after));
            }
}

/* The convolution again; `index` holds offsets into a tile of so many rows and vectors, and a block is
 * a number of whole channels. Returns 2 where no such tile was compiled. */
int excise_direct(const matrix *a, const product *p, const window *g, const finish *f, int64_t rows,
                  int64_t vectors) {
    const direct_kernel kernel = direct_of(rows, vectors);
    if (!kernel) return 2;
    const int64_t wide = vectors * SHORT, pitch = wide + OVERHANG, taps = g->kernel_y * g->kernel_x;
    const int64_t deep = rows + (g->kernel_y - 1) / g->stride_y * g->step_y;
    const int64_t channel = g->stride_y * g->stride_x * deep * pitch, each_block = a->block / taps;
    const int64_t blocks = (g->channels + each_block - 1) / each_block;
    const int64_t down = (g->out_y + rows - 1) / rows, across = (g->out_x + wide - 1) / wide;
    const int64_t tiles = p->images * down * across, split = pieces(tiles, p->threads, a->rows);
    const int64_t each = (a->rows + split - 1) / split, plane = g->out_y * g->out_x;
    int failed = 0;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *dense = scratch(4 * (each_block * channel + wide));
        float *partial = scratch(4 * each * rows * wide);
        if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < tiles * split; unit++) {
            if (failed) continue;
            const int64_t at = unit / split, image = at / (down * across);
            const int64_t y0 = at / across % down * rows, x0 = at % across * wide;
            const int64_t from = unit % split * each, to = at_most(a->rows, from + each);
            const int64_t offset = image * p->y_image + y0 * g->out_x + x0;
            spot w = {.dense = dense, .partial = partial, .out = p->y + offset, .plane = plane,
                      .residual = f->residual ? f->residual + offset : NULL, .wide = g->out_x,
                      .rows = at_most(rows, g->out_y - y0), .valid = at_most(wide, g->out_x - x0)};
            for (int64_t part = 0; part < blocks; part++) {
                const int64_t c0 = part * each_block, c1 = at_most(g->channels, c0 + each_block);
                for (int64_t c = c0; c < c1; c++)
                    gathered(p->x + image * p->x_image + c * g->height * g->width, g, y0, x0, deep,
                             pitch, dense + (c - c0) * channel);
                w.first = part == 0;
                w.last = part == blocks - 1;
                kernel(a, part, from, to, &w, f);
            }
        }
        free(dense);
        free(partial);
    }
    return failed;
}

int excise_short(void) { return SHORT; }
