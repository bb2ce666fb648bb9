/* Direct convolution: a tile of R output rows by J vectors, and the input rows that it reads.
 *
 * For each channel the tile of inputs holds, for every column dx of the kernel, the rows of the image
 * shifted by dx and thinned by the stride; rows of different remainder by the stride lie in planes of
 * their own. So a tap is an offset to R * J vectors in a row, all of them aligned: a load that crosses
 * a cache line takes twice as long. That pays for writing each input as often as the kernel is wide.
 */

#include "block.h"
#include "image.h"

/* How many remainders of rows by the stride the kernel reads. */
static int64_t planes_of(const window *g) {
    return at_most(g->stride_y, (g->kernel_y - 1) * g->step_y + 1);
}

/* The channels' part of a tile whose outputs begin at (y0, x0). */
static void gathered(const float *x, int64_t plane, int64_t channels, const window *g, int64_t y0,
                     int64_t x0, int64_t deep, int64_t wide, float *to) {
    const int64_t planes = planes_of(g), channel = g->kernel_x * planes * deep * wide;
    for (int64_t dx = 0; dx < g->kernel_x; dx++) {
        const int64_t begin = x0 * g->stride_x + dx * g->step_x - g->pad_x;
        const range in = inside(g->width, begin, g->stride_x, wide);
        for (int64_t py = 0; py < planes; py++)
            for (int64_t r = 0; r < deep; r++, to += wide) {
                const int64_t y = (y0 + r) * g->stride_y + py - g->pad_y;
                const float *row = x + y * g->width;
                if (y < 0 || y >= g->height)
                    for (int64_t c = 0; c < channels; c++) memset(to + c * channel, 0, 4 * wide);
                else
                    for (int64_t c = 0; c < channels; c++)
                        thinned(row + c * plane, in, g->stride_x, wide, 0.0f, to + c * channel);
            }
    }
}

/* A convolution; `index` of the matrix is an offset into a tile of so many rows and vectors, in
 * vectors, and a block is a number of whole channels. */
int excise_direct(const matrix *a, const product *p, const window *g, const finish *f, int64_t rows,
                  int64_t vectors) {
    const int64_t wide = vectors * LANES, taps = g->kernel_y * g->kernel_x;
    const int64_t deep = rows + (g->kernel_y - 1) * g->step_y / g->stride_y;
    const int64_t channel = g->kernel_x * planes_of(g) * deep * wide, each_block = a->block / taps;
    const int64_t blocks = (g->channels + each_block - 1) / each_block;
    const int64_t down = (g->out_y + rows - 1) / rows, across = (g->out_x + wide - 1) / wide;
    const int64_t tiles = p->images * down * across, each = rows_of_piece(a, tiles, p->threads);
    const int64_t split = (a->rows + each - 1) / each;
    int failed = 0;
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *dense = scratch(4 * each_block * channel), *partial = scratch(4 * each * rows * wide);
        if (!dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < tiles * split; unit++) {
            if (failed) continue;
            const int64_t at = unit / split, image = at / (down * across);
            const int64_t y0 = at / across % down * rows, x0 = at % across * wide;
            const int64_t from = unit % split * each, to = at_most(a->rows, from + each);
            const int64_t offset = image * p->y_image + y0 * g->out_x + x0;
            tile w = {.b = dense, .pitch = LANES, .partial = partial, .out = p->y + offset,
                      .out_pitch = p->y_pitch, .high = at_most(rows, g->out_y - y0),
                      .across = vectors, .wide = g->out_x, .valid = at_most(wide, g->out_x - x0),
                      .residual = f->residual ? f->residual + offset : NULL};
            for (int64_t part = 0; part < blocks; part++) {
                const int64_t c0 = part * each_block, c1 = at_most(g->channels, c0 + each_block);
                gathered(p->x + image * p->x_image + c0 * p->x_pitch, p->x_pitch, c1 - c0, g, y0, x0,
                         deep, wide, dense);
                w.first = part == 0;
                w.last = part == blocks - 1;
                BLOCKS[rows * vectors](a, part, from, to, &w, f);
            }
        }
        free(dense);
        free(partial);
    }
    clear_behind_all(p, a->rows);
    return failed;
}
