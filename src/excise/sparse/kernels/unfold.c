/* A convolution by tiles of the unfolded image: any kernel, stride, padding and dilation. */

#include "block.h"
#include "image.h"

/* An image with zeros around it, so that windows need no bounds. */
static void padded(const float *x, int64_t plane, const window *g, float *to) {
    const int64_t high = g->height + 2 * g->pad_y, wide = g->width + 2 * g->pad_x;
    if (g->pad_y || g->pad_x) memset(to, 0, 4 * g->channels * high * wide);
    for (int64_t c = 0; c < g->channels; c++)
        for (int64_t y = 0; y < g->height; y++)
            memcpy(to + (c * high + y + g->pad_y) * wide + g->pad_x,
                   x + c * plane + y * g->width, 4 * g->width);
}

/* Rows k0 up to k0 + depth of the unfolded image, at output positions n up to n + valid. */
static void unfolded(const float *image, const window *g, int64_t k0, int64_t depth, int64_t n,
                     int64_t valid, int64_t wide, float *to) {
    const int64_t high = g->height + 2 * g->pad_y, across = g->width + 2 * g->pad_x;
    const int64_t taps = g->kernel_y * g->kernel_x, down = g->stride_y * across;
    const int64_t y = n / g->out_x, x = n % g->out_x; /* once: a division takes longer than a run */
    const int64_t first = y * down + x * g->stride_x;
    int64_t channel = k0 / taps, dy = k0 % taps / g->kernel_x, dx = k0 % taps % g->kernel_x;
    for (int64_t k = 0; k < depth; k++, to += wide) {
        const float *row = image + (channel * high + dy * g->step_y) * across + dx * g->step_x;
        int64_t run = at_most(g->out_x - x, valid);
        run_of(row + first, run, g->stride_x, to);
        row += (y + 1) * down;
        for (int64_t done = run; done < valid; done += run, row += down) {
            run = at_most(g->out_x, valid - done);
            run_of(row, run, g->stride_x, to + done);
        }
        if (valid < wide) memset(to + valid, 0, 4 * (wide - valid));
        if (++dx == g->kernel_x) {
            dx = 0;
            if (++dy == g->kernel_y) {
                dy = 0;
                channel++;
            }
        }
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
        padded(p->x + i * p->x_image, p->x_pitch, g, image);
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
        {
            float *dense = scratch(4 * a->block * s.wide), *partial = scratch(4 * s.each * s.wide);
            if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < s.units; unit++) {
                if (failed) continue;
                const int64_t at = unit / s.split, n = tile_start(&s, at);
                const int64_t valid = at_most(tile_start(&s, at + 1), columns) - n;
                const int64_t from = unit % s.split * s.each, to = at_most(a->rows, from + s.each);
                const int vectors = (int)((valid + LANES - 1) / LANES);
                const int64_t pitch = vectors * LANES;
                tile w = {.b = dense, .pitch = pitch, .partial = partial,
                          .out = p->y + i * p->y_image + n, .out_pitch = p->y_pitch, .high = 1,
                          .across = vectors, .valid = valid,
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
    clear_behind_all(p, a->rows);
    return failed;
}
