/* A plane of an image copied, with what is around it, so that windows need no bounds. */

#ifndef EXCISE_PHASES_H
#define EXCISE_PHASES_H

#include "image.h"

/* A plane with what is around it, in phases: row y of the copy holds stride_x rows of `wide` floats,
 * so that a column of the kernel is a phase and an offset. */
typedef struct {
    int64_t deep, wide, pitch;
} layout;

enum { MOST_ROWS = 4 }; /* of outputs that are worked on at once in a copy */

static inline layout laid_out(const window *g) {
    const int64_t reach = (g->kernel_x - 1) * g->step_x / g->stride_x;
    const int64_t rows = (g->out_y + MOST_ROWS - 1) / MOST_ROWS * MOST_ROWS;
    const int64_t across = (g->out_x + LANES - 1) / LANES * LANES;
    layout l = {.deep = (rows - 1) * g->stride_y + (g->kernel_y - 1) * g->step_y + 1};
    l.wide = (across + reach + LANES - 1) / LANES * LANES;
    l.pitch = l.wide * g->stride_x;
    return l;
}

static inline void spread(const float *x, const window *g, const layout *l, float fill, float *to) {
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

/* Where the taps of the kernel are in the copy: divisions take too long to be done at every output. */
static inline int64_t *taps_of(const window *g, const layout *l) {
    int64_t *taps = scratch(sizeof(int64_t) * g->kernel_y * g->kernel_x), *at = taps;
    for (int64_t dy = 0; taps && dy < g->kernel_y; dy++)
        for (int64_t dx = 0; dx < g->kernel_x; dx++) {
            const int64_t step = dx * g->step_x;
            *at++ = dy * g->step_y * l->pitch + step % g->stride_x * l->wide + step / g->stride_x;
        }
    return taps;
}

#endif
