/* What works on each channel's plane alone: depthwise convolution (dense), largest of a window, mean. */

#include "activation.h"
#include "image.h"

/* A plane with what is around it, in phases: row y of the copy holds stride_x rows of `wide` floats,
 * so that a column of the kernel is a phase and an offset. */
typedef struct {
    int64_t deep, wide, pitch;
} layout;

enum { MOST_ROWS = 4 }; /* of outputs at once */

static layout laid_out(const window *g) {
    const int64_t reach = (g->kernel_x - 1) * g->step_x / g->stride_x;
    const int64_t rows = (g->out_y + MOST_ROWS - 1) / MOST_ROWS * MOST_ROWS;
    const int64_t across = (g->out_x + LANES - 1) / LANES * LANES;
    layout l = {.deep = (rows - 1) * g->stride_y + (g->kernel_y - 1) * g->step_y + 1};
    l.wide = (across + reach + LANES - 1) / LANES * LANES;
    l.pitch = l.wide * g->stride_x;
    return l;
}

static void spread(const float *x, const window *g, const layout *l, float fill, float *to) {
    for (int64_t px = 0; px < g->stride_x; px++) {
        const range in = inside(g->width, px - g->pad_x, g->stride_x, l->wide);
        for (int64_t y = 0; y < l->deep; y++) {
            const int64_t from = y - g->pad_y;
            float *row = to + y * l->pitch + px * l->wide;
            if (from < 0 || from >= g->height)
                for (int64_t n = 0; n < l->wide; n++) row[n] = fill;
            else
                thinned(x + from * g->width, in, g->stride_x, l->wide, fill, row);
        }
    }
}

/* R rows of outputs at once share what they read. Called with constants, so that all loops unroll. */
__attribute__((always_inline)) static inline void
weighted(const float *x, const window *g, const layout *l, const float *weight, float bias,
         const finish *f, float *y, const float *residual, const int high, const int wide,
         const int down, const int across, const int R) {
    vec w[high * wide];
#pragma GCC unroll 49
    for (int i = 0; i < high * wide; i++) w[i] = splat(weight[i]);
    for (int64_t y0 = 0; y0 < g->out_y; y0 += R)
        for (int64_t n = 0; n < g->out_x; n += LANES) {
            vec sum[MOST_ROWS];
            for (int r = 0; r < R; r++) sum[r] = splat(bias);
            const float *at = x + y0 * down * l->pitch + n;
#pragma GCC unroll 16
            for (int i = 0; i < (R - 1) * down + high; i++)
#pragma GCC unroll 7
                for (int dx = 0; dx < wide; dx++) {
                    const vec v = load(at + i * l->pitch + dx % across * l->wide + dx / across);
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++) {
                        const int dy = i - r * down;
                        if (dy >= 0 && dy < high) sum[r] += w[dy * wide + dx] * v;
                    }
                }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const int64_t place = (y0 + r) * g->out_x + n;
                if (y0 + r < g->out_y)
                    ended_to(y + place, sum[r], residual ? residual + place : NULL, f, g->out_x - n);
            }
        }
}

/* Where the taps of the kernel are in the copy: divisions take too long to be done at every output. */
static int64_t *taps_of(const window *g, const layout *l) {
    int64_t *taps = scratch(sizeof(int64_t) * g->kernel_y * g->kernel_x), *at = taps;
    for (int64_t dy = 0; taps && dy < g->kernel_y; dy++)
        for (int64_t dx = 0; dx < g->kernel_x; dx++) {
            const int64_t step = dx * g->step_x;
            *at++ = dy * g->step_y * l->pitch + step % g->stride_x * l->wide + step / g->stride_x;
        }
    return taps;
}

static inline vec larger(vec v, vec most) {
#if LANES == 16
    const __m512 a = (__m512)v, b = _mm512_max_ps(a, (__m512)most); /* a NaN in `most` stays */
    return (vec)_mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
#else
    return chosen((bits)(v > most) | (bits)(v != v), v, most);
#endif
}

static void any_weighted(const float *x, const window *g, const layout *l, const int64_t *taps,
                         const float *weight, float bias, const finish *f, float *y,
                         const float *residual) {
    const int64_t count = g->kernel_y * g->kernel_x;
    for (int64_t y0 = 0; y0 < g->out_y; y0++)
        for (int64_t n = 0; n < g->out_x; n += LANES) {
            const float *at = x + y0 * g->stride_y * l->pitch + n;
            vec sum = splat(bias);
            for (int64_t i = 0; i < count; i++) sum += splat(weight[i]) * load(at + taps[i]);
            const int64_t place = y0 * g->out_x + n;
            ended_to(y + place, sum, residual ? residual + place : NULL, f, g->out_x - n);
        }
}

#define WEIGHTED(K, S, R) weighted(x, g, l, weight, bias, f, y, residual, K, K, S, S, R)

static void channel(const float *x, const window *g, const layout *l, const int64_t *taps,
                    const float *weight, float bias, const finish *f, float *y,
                    const float *residual) {
    const int square = g->kernel_y == g->kernel_x && g->stride_y == g->stride_x;
    const int plain = square && (g->kernel_x == 1 || (g->step_y == 1 && g->step_x == 1));
    switch (plain ? g->kernel_x * 10 + g->stride_x : 0) {
    case 31: WEIGHTED(3, 1, 4); break;
    case 32: WEIGHTED(3, 2, 2); break;
    case 51: WEIGHTED(5, 1, 2); break;
    case 52: WEIGHTED(5, 2, 1); break;
    case 71: WEIGHTED(7, 1, 2); break;
    default: any_weighted(x, g, l, taps, weight, bias, f, y, residual);
    }
}

/* A convolution with as many groups as channels: weight is (channels, kernel_y, kernel_x). */
int excise_depthwise(const float *weight, const product *p, const window *g, const finish *f) {
    const layout l = laid_out(g);
    const int64_t count = g->kernel_y * g->kernel_x;
    int64_t *taps = taps_of(g, &l);
    int failed = taps == NULL;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *copy = scratch(4 * l.deep * l.pitch);
        if (!copy) failed = 1;
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < p->images * g->channels; unit++) {
            if (failed) continue;
            const int64_t image = unit / g->channels, c = unit % g->channels;
            const int64_t place = image * p->y_image + c * p->y_pitch;
            spread(p->x + image * p->x_image + c * p->x_pitch, g, &l, 0.0f, copy);
            channel(copy, g, &l, taps, weight + c * count, f->bias ? f->bias[c] : 0.0f, f, p->y + place,
                    f->residual ? f->residual + place : NULL);
        }
        free(copy);
    }
    free(taps);
    return failed;
}

/* The largest of each window; a NaN wins, as in torch. */
int excise_largest(const product *p, const window *g) {
    const layout l = laid_out(g);
    const int64_t count = g->kernel_y * g->kernel_x;
    const finish f = {0};
    int64_t *taps = taps_of(g, &l);
    int failed = taps == NULL;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *copy = scratch(4 * l.deep * l.pitch);
        if (!copy) failed = 1;
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < p->images * g->channels; unit++) {
            if (failed) continue;
            const int64_t image = unit / g->channels, c = unit % g->channels;
            float *y = p->y + image * p->y_image + c * p->y_pitch;
            spread(p->x + image * p->x_image + c * p->x_pitch, g, &l, -__builtin_inff(), copy);
            for (int64_t y0 = 0; y0 < g->out_y; y0++)
                for (int64_t n = 0; n < g->out_x; n += LANES) {
                    const float *at = copy + y0 * g->stride_y * l.pitch + n;
                    vec most = load(at + taps[0]);
                    for (int64_t i = 1; i < count; i++) most = larger(load(at + taps[i]), most);
                    ended_to(y + y0 * g->out_x + n, most, NULL, &f, g->out_x - n);
                }
        }
        free(copy);
    }
    free(taps);
    return failed;
}

/* The mean of each of `images` rows of `columns` floats, x_pitch apart. */
int excise_mean(const product *p) {
#pragma omp parallel for num_threads((int)p->threads) if (p->threads > 1) schedule(static)
    for (int64_t i = 0; i < p->images; i++) {
        const float *x = p->x + i * p->x_pitch;
        vec sum[2] = {0};
        int64_t n = 0;
        for (; n + 2 * LANES <= p->columns; n += 2 * LANES) {
            sum[0] += load(x + n);
            sum[1] += load(x + n + LANES);
        }
        float total = 0.0f;
        sum[0] += sum[1];
        for (int t = 0; t < LANES; t++) total += sum[0][t];
        for (; n < p->columns; n++) total += x[n];
        p->y[i] = total / (float)p->columns;
    }
    return 0;
}
