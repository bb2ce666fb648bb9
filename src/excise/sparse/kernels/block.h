/* One block of columns times one tile of T vectors, and how a product is shared out. */

#ifndef EXCISE_BLOCK_H
#define EXCISE_BLOCK_H

#include "common.h"

typedef struct {
    const float *b; /* dense block: row k of it begins at b + k * pitch */
    int64_t pitch;
    float *partial; /* sums so far, rows x T vectors */
    float *out;     /* row m of the weight writes at out + m * out_pitch ... */
    int64_t out_pitch, high, across, wide, valid; /* ... `high` rows of `across` vectors, `wide` floats
                                                     apart; of each, so many floats exist */
    const float *residual;
    int first, last;
} tile;

typedef void (*block_kernel)(const matrix *, int64_t, int64_t, int64_t, const tile *,
                             const finish *);
HIDDEN extern const block_kernel BLOCKS[MOST_TILES + 1]; /* by T; none of no vectors */

/* A tile of a product: rows `from` up to `to` of the weight, `valid` columns of the operand from x on;
 * what the tile says of its own operand and of the block is filled in. `dense` takes a block of it. */
HIDDEN void multiply(const matrix *a, const product *p, const finish *f, const float *x, int64_t valid,
                     int64_t from, int64_t to, tile w, float *dense);

/* How a product is shared out: tiles of outputs, all but equally wide, and pieces of the rows of each. */
typedef struct {
    int64_t wide, blocks, across, units; /* most floats of a tile; blocks of columns; tiles of an image */
    int64_t split, each;                 /* pieces, and rows of a piece */
    int64_t vectors;                     /* of an image */
} shares;

static inline shares shared(const matrix *a, int64_t images, int64_t columns, const product *p) {
    shares s = {.wide = p->tiles * LANES, .blocks = parts_of(a)};
    s.across = (columns + s.wide - 1) / s.wide;
    s.vectors = (columns + LANES - 1) / LANES;
    s.each = rows_of_piece(a, images * s.across, p->threads);
    s.split = (a->rows + s.each - 1) / s.each;
    s.units = images * s.across * s.split;
    return s;
}

/* Where the tile of an image begins, in floats. */
static inline int64_t tile_start(const shares *s, int64_t at) {
    return at * s->vectors / s->across * LANES;
}

#endif
