/* One block of columns times one tile of T vectors, and how a product is shared out. */

#ifndef EXCISE_BLOCK_H
#define EXCISE_BLOCK_H

#include "common.h"

typedef struct {
    const float *b;  /* dense block: row k of it begins at b + k * pitch */
    int64_t pitch;
    float *partial;  /* sums so far, rows x T vectors */
    float *out;      /* row m of the output begins at out + m * out_pitch */
    int64_t out_pitch, valid; /* how many of the tile's columns exist */
    const float *residual;
    int first, last;
} tile;

typedef void (*block_kernel)(const matrix *, int64_t, int64_t, int64_t, const tile *,
                             const finish *);
HIDDEN extern const block_kernel BLOCKS[MOST_TILES + 1]; /* by T; none of no vectors */

/* How a product is shared out: tiles of outputs, and pieces of the rows of each. */
typedef struct {
    int64_t wide, blocks, across, units; /* floats of a tile; blocks of columns; tiles of an image */
    int64_t split, each;                 /* pieces, and rows of a piece */
} shares;

static inline shares shared(const matrix *a, int64_t images, int64_t columns, const product *p) {
    shares s = {.wide = p->tiles * LANES, .blocks = (a->depth + a->block - 1) / a->block};
    s.across = (columns + s.wide - 1) / s.wide;
    s.split = pieces(images * s.across, p->threads, a->rows);
    s.each = (a->rows + s.split - 1) / s.split;
    s.units = images * s.across * s.split;
    return s;
}

#endif
