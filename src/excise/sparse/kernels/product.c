/* Sparse weight times dense operand: of 1x1 convolutions, and of linear layers. */

#include "activation.h"
#include "block.h"

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

void multiply(const matrix *a, const product *p, const finish *f, const float *x, int64_t valid,
              int64_t from, int64_t to, tile w, float *dense) {
    const int64_t blocks = parts_of(a), wide = w.across * LANES;
    const int in_place = p->in_place == SLACK || (p->in_place && valid == wide);
    for (int64_t part = 0; part < blocks; part++, x += a->block * p->x_pitch) {
        w.b = in_place ? x : dense;
        w.pitch = in_place ? p->x_pitch : wide;
        if (!in_place)
            pack_rows(x, p->x_pitch, at_most(a->block, a->depth - part * a->block), valid, wide, dense);
        w.first = part == 0;
        w.last = part == blocks - 1;
        BLOCKS[w.across](a, part, from, to, &w, f);
    }
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
            const int64_t image = unit / s.split / s.across, at = unit / s.split % s.across;
            const int64_t n = tile_start(&s, at), place = image * p->y_image + n;
            const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
            const int64_t valid = at_most(tile_start(&s, at + 1), p->columns) - n;
            const int64_t vectors = (valid + LANES - 1) / LANES;
            const int room = n + vectors * LANES <= p->y_pitch; /* for whole vectors */
            const tile w = {.partial = partial, .out = p->y + place, .out_pitch = p->y_pitch,
                            .high = 1, .across = vectors, .valid = room ? vectors * LANES : valid,
                            .residual = f->residual ? f->residual + place : NULL};
            multiply(a, p, f, p->x + image * p->x_image + n, valid, from, to, w, dense);
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
            const int64_t at = unit / s.split, n = tile_start(&s, at);
            const int64_t valid = at_most(tile_start(&s, at + 1), p->columns) - n;
            const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
            const int vectors = (int)((valid + LANES - 1) / LANES);
            const int64_t pitch = vectors * LANES;
            const int after = f->residual && !f->late; /* the activation waits for the residual */
            const finish inner = {.bias = f->bias, .activation = after ? PLAIN : f->activation};
            const finish outer = {.activation = after ? f->activation : PLAIN};
            /* the last block writes into `partial` itself, which is turned into the output */
            tile w = {.b = dense, .pitch = pitch, .partial = partial, .out = partial - from * pitch,
                      .out_pitch = pitch, .high = 1, .across = vectors, .valid = pitch};
            for (int64_t part = 0; part < s.blocks; part++) {
                const int64_t k = part * a->block, depth = at_most(a->block, a->depth - k);
                turned(p->x + n * p->x_pitch + k, p->x_pitch, valid, depth, dense, pitch, pitch);
                w.first = part == 0;
                w.last = part == s.blocks - 1;
                BLOCKS[vectors](a, part, from, to, &w, &inner);
            }
            turned(partial, pitch, to - from, valid, p->y + n * p->y_pitch + from, p->y_pitch,
                   to - from);
            for (int64_t i = n; f->residual && i < n + valid; i++)
                for (int64_t m = from; m < to; m += LANES) {
                    const int64_t place = i * p->y_pitch + m, left = at_most(LANES, to - m);
                    float sum[LANES] = {0};
                    memcpy(sum, p->y + place, 4 * left);
                    ended_to(p->y + place, load(sum), f->residual + place, &outer, left);
                }
        }
        free(dense);
        free(partial);
    }
    return failed;
}
