/* A 1x1 convolution and the depthwise one that reads it, a few channels at a time: what lies between
 * them is never written to memory, it stays in the cache. */

#include "block.h"
#include "depthwise.h"
#include "stage.h"

/* x, its pitch, tiles and threads of the product are those of the first, y and columns of the second. */
int excise_pair(const pair *q, const product *p, const window *g, const finish *f) {
    depthwise d;
    const matrix *a = q->a;
    const int64_t wide = p->tiles * LANES;
    const int64_t vectors = (q->columns + LANES - 1) / LANES, pitch = vectors * LANES;
    const int64_t across = (vectors + p->tiles - 1) / p->tiles;
    const int64_t groups = (a->rows + q->each - 1) / q->each;
    int failed = made_ready(&d, g);
#pragma omp parallel num_threads((int)p->threads) if (p->threads > 1)
    {
        float *between = scratch(4 * q->each * pitch), *copy = scratch(d.copy);
        float *dense = scratch(4 * a->block * wide), *partial = scratch(4 * q->each * wide);
        if (!between || !copy || !dense || !partial) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < p->images * groups; unit++) {
            if (failed) continue;
            const int64_t image = unit / groups, from = unit % groups * q->each;
            const int64_t to = at_most(a->rows, from + q->each);
            const float *x = p->x + image * p->x_image;
            for (int64_t at = 0; at < across; at++) {
                const int64_t begin = at * vectors / across, end = (at + 1) * vectors / across;
                const int64_t n = begin * LANES, valid = at_most(end * LANES, q->columns) - n;
                const tile w = {.partial = partial, .out = between - from * pitch + n,
                                .out_pitch = pitch, .high = 1, .across = end - begin,
                                .valid = (end - begin) * LANES};
                multiply(a, p, q->f, x + n, valid, from, to, w, dense);
            }
            for (int64_t c = from; c < to; c++)
                weigh(&d, p, f, q->weight, between + (c - from) * pitch, image, c, copy);
        }
        free(between);
        free(copy);
        free(dense);
        free(partial);
    }
    free(d.taps);
    return failed;
}
