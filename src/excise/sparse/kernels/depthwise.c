/* Depthwise convolution: dense, each channel by itself.
 *
 * Sixteen columns at a time, from the first row of the image to the last: each row is read once, and
 * added to all rows of outputs that it belongs to. With instructions that leave out what a mask says
 * the image is read where it is; without, in a copy with zeros around it.
 */

#include "activation.h"
#include "depthwise.h"

enum { MOST = 7 }; /* rows and columns of a kernel that is unrolled */

/* What a plane is weighed with, and where it goes. */
typedef struct {
    const float *weight, *residual;
    float bias, *y;
} plane;

/* Rows as they are read: the first that the kernel touches, for all columns of a tile. */
typedef struct {
    const float *at;
    int64_t pitch, from, to; /* rows from `from` up to `to` exist; others are zeros */
#if LANES == 16
    __mmask16 in[MOST + 1];
#else
    int64_t wide; /* of a phase */
#endif
} rows;

#if LANES == 16
/* Which of 16 columns from `begin` are inside of a row. */
static inline __mmask16 within(int64_t begin, int64_t width) {
    const int64_t low = begin < 0 ? at_most(-begin, 16) : 0;
    const int64_t high = width > begin ? at_most(width - begin, 16) : 0;
    return (__mmask16)(((1u << high) - 1) & ~((1u << low) - 1));
}

/* What K columns of the kernel read of one row, S floats apart. */
__attribute__((always_inline)) static inline void read_row(const rows *r, int64_t y, vec *v,
                                                           const int K, const int S) {
    const float *at = r->at + y * r->pitch;
    if (S == 1) {
#pragma GCC unroll 8
        for (int dx = 0; dx < K; dx++) v[dx] = (vec)_mm512_maskz_loadu_ps(r->in[dx], at + dx);
        return;
    }
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
#pragma GCC unroll 8
    for (int dx = 0; dx < K; dx += 2) {
        const __m512 a = _mm512_maskz_loadu_ps(r->in[dx], at + dx);
        const __m512 b = _mm512_maskz_loadu_ps(r->in[dx + 1], at + dx + 16);
        v[dx] = (vec)_mm512_permutex2var_ps(a, even, b);
        if (dx + 1 < K) v[dx + 1] = (vec)_mm512_permutex2var_ps(a, odd, b);
    }
}

static inline rows rows_at(const float *x, const depthwise *d, int64_t n, const int K, const int S) {
    const window *g = d->g;
    const int64_t begin = n * S - g->pad_x;
    rows r = {.at = x + begin - g->pad_y * g->width, .pitch = g->width, .from = g->pad_y,
              .to = g->pad_y + g->height};
#pragma GCC unroll 8
    for (int i = 0; i < K + S - 1; i++)
        r.in[i] = within(begin + (S == 1 ? i : i / 2 * 2 + i % 2 * 16), g->width);
    return r;
}
#else
__attribute__((always_inline)) static inline void read_row(const rows *r, int64_t y, vec *v,
                                                           const int K, const int S) {
    const float *at = r->at + y * r->pitch;
#pragma GCC unroll 8
    for (int dx = 0; dx < K; dx++) v[dx] = load(at + dx % S * r->wide + dx / S);
}

static inline rows rows_at(const float *copy, const depthwise *d, int64_t n, const int K,
                           const int S) {
    (void)K, (void)S;
    return (rows){.at = copy + n, .pitch = d->l.pitch, .from = d->g->pad_y,
                  .to = d->g->pad_y + d->g->height, .wide = d->l.wide};
}
#endif

/* A row of the kernel on what was read. */
__attribute__((always_inline)) static inline vec weighted(vec sum, const vec *w, const vec *v,
                                                          const int K) {
#pragma GCC unroll 8
    for (int dx = 0; dx < K; dx++) sum += w[dx] * v[dx];
    return sum;
}

/* Where a column of outputs goes, and what happens to it: all that is asked in the loop over rows. */
typedef struct {
    float *y;
    const float *residual;
    int64_t pitch, valid, high;
    int simple;
    float least, most;
} column;

static inline column column_at(const plane *p, const window *g, const finish *f, int64_t n) {
    return (column){.y = p->y + n, .residual = p->residual ? p->residual + n : NULL,
                    .pitch = g->out_x, .valid = at_most(LANES, g->out_x - n), .high = g->out_y,
                    .simple = !p->residual && f->activation <= RELU6,
                    .least = f->activation == PLAIN ? -__builtin_inff() : 0.0f,
                    .most = f->activation == RELU6 ? 6.0f : __builtin_inff()};
}

__attribute__((always_inline)) static inline void put(column *c, const finish *f, vec sum) {
    if (c->simple)
        part_to(c->y, below(above(sum, c->least), c->most), c->valid);
    else
        ended_to(c->y, sum, c->residual, f, c->valid);
    c->y += c->pitch;
    if (c->residual) c->residual += c->pitch;
}

#define NEXT(k)                                                                                    \
    if (k < K) sum[k] = weighted(k + 1 < K ? sum[k + 1] : start, w + (K - 1 - k) * K, v, K);
#define SAME(k)                                                                                    \
    if (k < K) sum[k] = k + 1 < K ? sum[k + 1] : start;

/* A square kernel of K, one apart. Called with a constant, so that loops unroll. */
__attribute__((always_inline)) static inline void one_apart(const float *x, const plane *p,
                                                            const depthwise *d, const finish *f,
                                                            const int K) {
    const vec start = splat(p->bias);
    vec w[MOST * MOST], sum[MOST], v[MOST + 1];
#pragma GCC unroll 49
    for (int i = 0; i < K * K; i++) w[i] = splat(p->weight[i]);
    for (int64_t n = 0; n < d->g->out_x; n += LANES) {
        const rows r = rows_at(x, d, n, K, 1);
        column c = column_at(p, d->g, f, n);
#pragma GCC unroll 8
        for (int i = 0; i < K; i++) sum[i] = start;
        for (int64_t y = 0; y < c.high + K - 1; y++) {
            if (y >= r.from && y < r.to) {
                read_row(&r, y, v, K, 1);
                NEXT(0) NEXT(1) NEXT(2) NEXT(3) NEXT(4) NEXT(5) NEXT(6)
            } else {
                SAME(0) SAME(1) SAME(2) SAME(3) SAME(4) SAME(5) SAME(6)
            }
            if (y >= K - 1) put(&c, f, sum[0]);
        }
    }
}

/* The same of 3 or 5, two apart: a pair of rows belongs to (K + 1) / 2 rows of outputs. */
__attribute__((always_inline)) static inline void two_apart(const float *x, const plane *p,
                                                            const depthwise *d, const finish *f,
                                                            const int K) {
    const vec start = splat(p->bias);
    vec w[MOST * MOST], v[MOST + 1];
#pragma GCC unroll 49
    for (int i = 0; i < K * K; i++) w[i] = splat(p->weight[i]);
    const int64_t late = K / 2; /* pairs after its first that an output is complete */
    for (int64_t n = 0; n < d->g->out_x; n += LANES) {
        const rows r = rows_at(x, d, n, K, 2);
        column c = column_at(p, d->g, f, n);
        vec one = start, two = start; /* outputs that have begun, the older first */
        for (int64_t j = 0; j < c.high + late; j++) {
            vec done = K == 5 ? one : two;
            if (K == 5) one = two;
            two = start;
            if (2 * j >= r.from && 2 * j < r.to) {
                read_row(&r, 2 * j, v, K, 2);
                done = weighted(done, w + (K - 1) * K, v, K);
                if (K == 5) one = weighted(one, w + 2 * K, v, K);
                two = weighted(two, w, v, K);
            }
            if (2 * j + 1 >= r.from && 2 * j + 1 < r.to) {
                read_row(&r, 2 * j + 1, v, K, 2);
                if (K == 5) one = weighted(one, w + 3 * K, v, K);
                two = weighted(two, w + K, v, K);
            }
            if (j >= late) put(&c, f, done);
        }
    }
}

/* Any kernel, in a copy. */
static void any_weighted(const float *x, const plane *p, const depthwise *d, const finish *f) {
    const window *g = d->g;
    const int64_t count = g->kernel_y * g->kernel_x;
    for (int64_t y0 = 0; y0 < g->out_y; y0++)
        for (int64_t n = 0; n < g->out_x; n += LANES) {
            const float *at = x + y0 * g->stride_y * d->l.pitch + n;
            vec sum = splat(p->bias);
            for (int64_t i = 0; i < count; i++)
                sum += splat(p->weight[i]) * load(at + d->taps[i]);
            const int64_t place = y0 * g->out_x + n;
            ended_to(p->y + place, sum, p->residual ? p->residual + place : NULL, f, g->out_x - n);
        }
}

/* Which kernel is unrolled, by its size and its stride; 0 for any other. */
static int kind_of(const window *g) {
    const int square = g->kernel_y == g->kernel_x && g->stride_y == g->stride_x;
    const int kind = (int)(g->kernel_x * 10 + g->stride_x);
    if (!square || g->step_y != 1 || g->step_x != 1) return 0;
    return kind == 31 || kind == 32 || kind == 51 || kind == 52 || kind == 71 ? kind : 0;
}

int made_ready(depthwise *d, const window *g) {
    *d = (depthwise){.g = g, .l = laid_out(g), .kind = kind_of(g)};
    if (LANES != 16 || !d->kind) d->copy = 4 * d->l.deep * d->l.pitch;
    if (!d->kind) d->taps = taps_of(g, &d->l);
    return !d->kind && !d->taps;
}

void weigh(const depthwise *d, const product *p, const finish *f, const float *weight,
           const float *x, int64_t image, int64_t channel, float *copy) {
    const int64_t place = image * p->y_image + channel * p->y_pitch;
    const plane one = {.weight = weight + channel * d->g->kernel_y * d->g->kernel_x,
                       .residual = f->residual ? f->residual + place : NULL,
                       .bias = f->bias ? f->bias[channel] : 0.0f, .y = p->y + place};
    if (d->copy) {
        spread(x, d->g, &d->l, 0.0f, copy);
        x = copy;
    }
    switch (d->kind) {
    case 31: one_apart(x, &one, d, f, 3); break;
    case 32: two_apart(x, &one, d, f, 3); break;
    case 51: one_apart(x, &one, d, f, 5); break;
    case 52: two_apart(x, &one, d, f, 5); break;
    case 71: one_apart(x, &one, d, f, 7); break;
    default: any_weighted(x, &one, d, f);
    }
    clear_behind(p, one.y);
}

/* A convolution with as many groups as channels: weight is (channels, kernel_y, kernel_x). */
int excise_depthwise(const float *weight, const product *p, const window *g, const finish *f) {
    depthwise d;
    int failed = made_ready(&d, g);
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *copy = scratch(d.copy);
        if (!copy) failed = 1;
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < p->images * g->channels; unit++) {
            if (failed) continue;
            const int64_t image = unit / g->channels, c = unit % g->channels;
            const float *x = p->x + image * p->x_image + c * p->x_pitch;
            weigh(&d, p, f, weight, x, image, c, copy);
        }
        free(copy);
    }
    free(d.taps);
    return failed;
}
