/* Sparse weights times dense activations, float32. Plain C with vector extensions of GCC and clang:
 * compiled once for each instruction set, chosen when loaded (build.py, library.py). Knows nothing
 * of torch.
 *
 * A weight is kept in blocks of columns. For block b and row m, the nonzero values stand at
 * pointer[b * rows + m] up to pointer[b * rows + m + 1] of `value`, and `index` says which row of
 * the dense tile each is multiplied with. The tile of outputs lies in registers, the block of the
 * dense operand in the first-level cache; that is the whole idea.
 */

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
static void *scratch(size_t bytes) {
    void *p = NULL;
    return posix_memalign(&p, ALIGNMENT, bytes + ALIGNMENT) ? NULL : p;
}

/* ---- one block of columns times one tile of T vectors, for a range of rows ------------------- */

typedef struct {
    const float *b;  /* dense block: row k of it begins at b + k * pitch */
    int64_t pitch;
    float *partial;  /* sums so far, rows x T vectors */
    float *out;      /* row m of the output begins at out + m * out_pitch */
    int64_t out_pitch, valid; /* how many of the tile's columns exist */
    const float *residual;
    int first, last;
} tile;

#define BLOCK(T)                                                                                   \
    static void block_##T(const matrix *a, int64_t part, int64_t from, int64_t to, const tile *w,  \
                          const finish *f) {                                                       \
        const uint32_t *pointer = a->pointer + part * a->rows;                                     \
        const float *value = a->value;                                                             \
        const uint16_t *index = a->index;                                                          \
        const int64_t pitch = w->pitch;                                                            \
        for (int64_t m = from; m < to; m++) {                                                      \
            vec sum[T];                                                                            \
            float *partial = w->partial + (m - from) * (T * LANES);                                \
            const vec start = splat(f->bias ? f->bias[m] : 0.0f);                                  \
            for (int t = 0; t < T; t++) sum[t] = w->first ? start : load(partial + t * LANES);     \
            for (uint32_t j = pointer[m], end = pointer[m + 1]; j < end; j++) {                    \
                const float *b = w->b + (int64_t)index[j] * pitch;                                 \
                const float x = value[j];                                                          \
                _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) sum[t] +=                      \
                    x * load(b + t * LANES);                                                       \
            }                                                                                      \
            if (!w->last) {                                                                        \
                for (int t = 0; t < T; t++) store(partial + t * LANES, sum[t]);                    \
                continue;                                                                          \
            }                                                                                      \
            float *out = w->out + m * w->out_pitch;                                                \
            const float *residual = w->residual ? w->residual + m * w->out_pitch : NULL;           \
            if (w->valid == T * LANES) {                                                           \
                for (int t = 0; t < T; t++) {                                                      \
                    if (residual) sum[t] += load(residual + t * LANES);                            \
                    store(out + t * LANES, activated(sum[t], f->activation));                      \
                }                                                                                  \
            } else {                                                                               \
                float spill[T * LANES] = {0};                                                      \
                if (residual) memcpy(spill, residual, 4 * w->valid);                               \
                for (int t = 0; t < T; t++)                                                        \
                    store(spill + t * LANES,                                                       \
                          activated(sum[t] + load(spill + t * LANES), f->activation));             \
                memcpy(out, spill, 4 * w->valid);                                                  \
            }                                                                                      \
        }                                                                                          \
    }

BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7) BLOCK(8)

typedef void (*block_kernel)(const matrix *, int64_t, int64_t, int64_t, const tile *,
                             const finish *);
static const block_kernel BLOCKS[MOST_TILES + 1] = {0,       block_1, block_2, block_3, block_4,
                                                    block_5, block_6, block_7, block_8};

/* ---- filling a dense tile -------------------------------------------------------------------- */

/* Rows of a channel-major operand: `valid` floats each, zeros up to `wide`. */
static void pack_rows(const float *b, int64_t pitch, int64_t depth, int64_t valid, int64_t wide,
                      float *to) {
    for (int64_t k = 0; k < depth; k++, b += pitch, to += wide) {
        memcpy(to, b, 4 * valid);
        if (valid < wide) memset(to + valid, 0, 4 * (wide - valid));
    }
}

#if defined(__AVX512F__)
static inline __mmask16 head(int64_t n) {
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* Transpose 16 x 16 in registers: pairs, quads, then 128-bit lanes twice. */
static inline void transpose(__m512 r[16]) {
    __m512 s[16];
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        const __m512d a = _mm512_castps_pd(s[i]), b = _mm512_castps_pd(s[i + 1]);
        const __m512d c = _mm512_castps_pd(s[i + 2]), d = _mm512_castps_pd(s[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88);
        s[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        s[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        s[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(s[i], s[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(s[i], s[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(s[4 + i], s[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(s[4 + i], s[12 + i], 0xdd);
    }
}

/* to[j][i] = from[i][j] for i < rows, j < columns; rows beyond are zeros up to `wide`. */
static void turned(const float *from, int64_t from_pitch, int64_t rows, int64_t columns, float *to,
                   int64_t to_pitch, int64_t wide) {
    for (int64_t i = 0; i < wide; i += 16)
        for (int64_t j = 0; j < columns; j += 16) {
            __m512 r[16];
            const __mmask16 across = head(columns - j), down = head(wide - i);
            for (int64_t u = 0; u < 16; u++)
                r[u] = i + u < rows ? _mm512_maskz_loadu_ps(across, from + (i + u) * from_pitch + j)
                                    : _mm512_setzero_ps();
            transpose(r);
            for (int64_t u = 0; u < 16 && j + u < columns; u++)
                _mm512_mask_storeu_ps(to + (j + u) * to_pitch + i, down, r[u]);
        }
}
#else
static void turned(const float *from, int64_t from_pitch, int64_t rows, int64_t columns, float *to,
                   int64_t to_pitch, int64_t wide) {
    for (int64_t j0 = 0; j0 < columns; j0 += 8)
        for (int64_t i = 0; i < wide; i++)
            for (int64_t j = j0; j < columns && j < j0 + 8; j++)
                to[j * to_pitch + i] = i < rows ? from[i * from_pitch + j] : 0.0f;
}
#endif

/* ---- products -------------------------------------------------------------------------------- */

typedef struct {
    const float *x;
    int64_t images, columns, x_image, x_pitch;
    float *y;
    int64_t y_image, y_pitch;
    int64_t tiles, in_place, threads; /* vectors in a tile; read the operand where it is */
} product;

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many pieces rows are split into, so that every thread has a piece of the output. */
static int64_t pieces(int64_t tiles, int64_t threads, int64_t rows) {
    const int64_t wanted = tiles >= threads ? 1 : (threads + tiles - 1) / tiles;
    return at_most(wanted, (rows + 15) / 16);
}

/* How a product is shared out: tiles of outputs, and pieces of the rows of each. */
typedef struct {
    int64_t wide, blocks, across, units; /* floats of a tile; blocks of columns; tiles of an image */
    int64_t split, each;                 /* pieces, and rows of a piece */
} shares;

static shares shared(const matrix *a, int64_t images, int64_t columns, const product *p) {
    shares s = {.wide = p->tiles * LANES, .blocks = (a->depth + a->block - 1) / a->block};
    s.across = (columns + s.wide - 1) / s.wide;
    s.split = pieces(images * s.across, p->threads, a->rows);
    s.each = (a->rows + s.split - 1) / s.split;
    s.units = images * s.across * s.split;
    return s;
}

/* y[i] = weight times x[i], both channel-major: x is (images, depth, columns). */
int excise_spmm(const matrix *a, const product *p, const finish *f) {
    const shares s = shared(a, p->images, p->columns, p);
    int failed = 0;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *dense = scratch(4 * a->block * s.wide), *partial = scratch(4 * s.each * s.wide);
        if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < s.units; unit++) {
            if (failed) continue;
            const int64_t image = unit / s.split / s.across, n = unit / s.split % s.across * s.wide;
            const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
            const int64_t valid = at_most(s.wide, p->columns - n);
            const int vectors = (int)((valid + LANES - 1) / LANES);
            const float *x = p->x + image * p->x_image + n;
            tile w = {.partial = partial, .out = p->y + image * p->y_image + n,
                      .out_pitch = p->y_pitch, .valid = valid,
                      .residual = f->residual ? f->residual + image * p->y_image + n : NULL};
            for (int64_t part = 0; part < s.blocks; part++) {
                const int64_t k = part * a->block, depth = at_most(a->block, a->depth - k);
                if (p->in_place && valid == vectors * LANES) {
                    w.b = x + k * p->x_pitch;
                    w.pitch = p->x_pitch;
                } else {
                    pack_rows(x + k * p->x_pitch, p->x_pitch, depth, valid, vectors * LANES, dense);
                    w.b = dense;
                    w.pitch = vectors * LANES;
                }
                w.first = part == 0;
                w.last = part == s.blocks - 1;
                BLOCKS[vectors](a, part, from, to, &w, f);
            }
        }
        free(dense);
        free(partial);
    }
    return failed;
}

/* y = x times the transposed weight, both token-major: x is (columns, depth), y (columns, rows). */
int excise_linear(const matrix *a, const product *p, const finish *f) {
    const shares s = shared(a, 1, p->columns, p);
    int failed = 0;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *dense = scratch(4 * a->block * s.wide), *partial = scratch(4 * s.each * s.wide);
        if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < s.units; unit++) {
            if (failed) continue;
            const int64_t n = unit / s.split * s.wide, valid = at_most(s.wide, p->columns - n);
            const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
            const int vectors = (int)((valid + LANES - 1) / LANES);
            const int64_t pitch = vectors * LANES;
            const finish inner = {f->bias, NULL, f->residual ? PLAIN : f->activation};
            /* the last block writes into `partial` itself, which is turned into the output */
            tile w = {.b = dense, .pitch = pitch, .partial = partial, .out = partial - from * pitch,
                      .out_pitch = pitch, .valid = pitch};
            for (int64_t part = 0; part < s.blocks; part++) {
                const int64_t k = part * a->block, depth = at_most(a->block, a->depth - k);
                turned(p->x + n * p->x_pitch + k, p->x_pitch, valid, depth, dense, pitch, pitch);
                w.first = part == 0;
                w.last = part == s.blocks - 1;
                BLOCKS[vectors](a, part, from, to, &w, &inner);
            }
            turned(partial, pitch, to - from, valid, p->y + n * p->y_pitch + from, p->y_pitch,
                   to - from);
            if (f->residual)
                for (int64_t i = n; i < n + valid; i++)
                    for (int64_t m = from; m < to; m++) {
                        const int64_t place = i * p->y_pitch + m;
                        p->y[place] = activated_one(p->y[place] + f->residual[place], f->activation);
                    }
        }
        free(dense);
        free(partial);
    }
    return failed;
}

typedef struct {
    int64_t channels, height, width;             /* of an image */
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, step_y, step_x; /* step: dilation */
    int64_t out_y, out_x;
} window;

/* An image with zeros around it, so that windows need no bounds. */
static void padded(const float *x, const window *g, float *to) {
    const int64_t high = g->height + 2 * g->pad_y, wide = g->width + 2 * g->pad_x;
    if (g->pad_y || g->pad_x) memset(to, 0, 4 * g->channels * high * wide);
    for (int64_t c = 0; c < g->channels; c++)
        for (int64_t y = 0; y < g->height; y++)
            memcpy(to + (c * high + y + g->pad_y) * wide + g->pad_x,
                   x + (c * g->height + y) * g->width, 4 * g->width);
}

/* Rows k0 up to k0 + depth of the unfolded image, at output positions n up to n + valid. */
static void unfolded(const float *image, const window *g, int64_t k0, int64_t depth, int64_t n,
                     int64_t valid, int64_t wide, float *to) {
    const int64_t high = g->height + 2 * g->pad_y, across = g->width + 2 * g->pad_x;
    const int64_t taps = g->kernel_y * g->kernel_x;
    for (int64_t k = k0; k < k0 + depth; k++, to += wide) {
        const int64_t tap = k % taps, dy = tap / g->kernel_x * g->step_y;
        const int64_t dx = tap % g->kernel_x * g->step_x;
        const float *plane = image + (k / taps * high + dy) * across + dx;
        for (int64_t done = 0; done < valid;) {
            const int64_t y = (n + done) / g->out_x, x = (n + done) % g->out_x;
            const int64_t run = at_most(g->out_x - x, valid - done);
            const float *from = plane + y * g->stride_y * across + x * g->stride_x;
            if (g->stride_x == 1)
                memcpy(to + done, from, 4 * run);
            else
                for (int64_t i = 0; i < run; i++) to[done + i] = from[i * g->stride_x];
            done += run;
        }
        if (valid < wide) memset(to + valid, 0, 4 * (wide - valid));
    }
}

/* A convolution by tiles of the unfolded image: x is (images, channels, height, width). */
int excise_conv(const matrix *a, const product *p, const window *g, const finish *f) {
    const int64_t columns = g->out_y * g->out_x;
    const shares s = shared(a, 1, columns, p);
    const int64_t high = g->height + 2 * g->pad_y, broad = g->width + 2 * g->pad_x;
    float *image = scratch(4 * g->channels * high * broad);
    int failed = image == NULL;
    for (int64_t i = 0; i < p->images && !failed; i++) {
        padded(p->x + i * p->x_image, g, image);
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
        {
            float *dense = scratch(4 * a->block * s.wide), *partial = scratch(4 * s.each * s.wide);
            if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < s.units; unit++) {
                if (failed) continue;
                const int64_t n = unit / s.split * s.wide, valid = at_most(s.wide, columns - n);
                const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
                const int vectors = (int)((valid + LANES - 1) / LANES);
                const int64_t pitch = vectors * LANES;
                tile w = {.b = dense, .pitch = pitch, .partial = partial,
                          .out = p->y + i * p->y_image + n, .out_pitch = columns, .valid = valid,
                          .residual = f->residual ? f->residual + i * p->y_image + n : NULL};
                for (int64_t part = 0; part < s.blocks; part++) {
                    const int64_t k = part * a->block, depth = at_most(a->block, a->depth - k);
                    unfolded(image, g, k, depth, n, valid, pitch, dense);
                    w.first = part == 0;
                    w.last = part == s.blocks - 1;
                    BLOCKS[vectors](a, part, from, to, &w, f);
                }
            }
            free(dense);
            free(partial);
        }
    }
    free(image);
    return failed;
}

/* ---- direct convolution: a tile of R output rows by J vectors, for strides 1 and 2 ------------- */

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

/* ---- one token: bound by memory -------------------------------------------------------------- */

/* y = weight times x for one x; a single block of columns, so that `index` is the column. */
int excise_gemv(const matrix *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t m = 0; m < a->rows; m++) {
        const float *value = a->value;
        const uint16_t *index = a->index;
        uint32_t j = a->pointer[m];
        const uint32_t end = a->pointer[m + 1];
        float sum[8] = {f->bias ? f->bias[m] : 0.0f};
        for (; j + 8 <= end; j += 8)
            for (int i = 0; i < 8; i++) sum[i] += value[j + i] * x[index[j + i]];
        for (; j < end; j++) sum[0] += value[j] * x[index[j]];
        float total = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
        if (f->residual) total += f->residual[m];
        y[m] = activated_one(total, f->activation);
    }
    return 0;
}

typedef struct {
    const float *value;
    const uint64_t *mask;    /* rows x words: a bit for every column, the lowest first */
    const uint32_t *pointer; /* rows + 1 */
    int64_t rows, words;
} bitmask;

/* The same with a bit for every column; x is padded with zeros to 64 * words, and `value` with 64
 * more that are never used. */
int excise_gemv_mask(const bitmask *a, const float *x, float *y, const finish *f, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1) schedule(static)
    for (int64_t m = 0; m < a->rows; m++) {
        const uint64_t *mask = a->mask + m * a->words;
        const float *value = a->value + a->pointer[m];
        float total = f->bias ? f->bias[m] : 0.0f;
#if defined(__AVX512F__)
        __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                       _mm512_setzero_ps()};
        for (int64_t k = 0; k < a->words; k++) {
            const uint64_t word = mask[k];
            const float *at = x + 64 * k;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __mmask16 here = (__mmask16)(word >> (16 * i));
                const uint64_t before = i ? word << (64 - 16 * i) : 0;
                __m512 v = _mm512_loadu_ps(value + __builtin_popcountll(before));
                __asm__("" : "+v"(v)); /* expansion of a register is twice as fast as of memory */
                s[i] = _mm512_fmadd_ps(_mm512_maskz_expand_ps(here, v), _mm512_loadu_ps(at + 16 * i),
                                       s[i]);
            }
            value += __builtin_popcountll(word);
        }
        total += _mm512_reduce_add_ps(
            _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
#else
        for (int64_t k = 0; k < a->words; k++)
            for (uint64_t word = mask[k]; word; word &= word - 1)
                total += *value++ * x[64 * k + __builtin_ctzll(word)];
#endif
        if (f->residual) total += f->residual[m];
        y[m] = activated_one(total, f->activation);
    }
    return 0;
}

int excise_lanes(void) { return LANES; }

/* Whether this machine runs what a library of so many lanes was compiled to. */
int excise_runs(int lanes) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (lanes == 16)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
    if (lanes == 8) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return lanes == 4;
}
