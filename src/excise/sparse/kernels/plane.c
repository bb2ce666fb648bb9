/* What works on each channel's plane alone, without weights: the largest of a window, the mean. */

#include "activation.h"
#include "phases.h"

static inline vec larger(vec v, vec most) {
#if LANES == 16
    const __m512 a = (__m512)v, b = _mm512_max_ps(a, (__m512)most); /* a NaN in `most` stays */
    return (vec)_mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
#else
    return chosen((bits)(v > most) | (bits)(v != v), v, most);
#endif
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
            clear_behind(p, y);
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
