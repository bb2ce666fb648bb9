/* One channel of a depthwise convolution. */

#ifndef EXCISE_DEPTHWISE_H
#define EXCISE_DEPTHWISE_H

#include "phases.h"

/* Made ready once for all channels. */
typedef struct {
    const window *g;
    layout l;
    int kind;      /* of those that are unrolled; 0 for any other */
    int64_t *taps; /* of any other */
    size_t copy;   /* bytes that each thread needs for a plane; 0 where it is read in place */
} depthwise;

/* One plane, and what becomes of it. */
typedef struct {
    const float *x, *weight, *residual;
    float bias, *y;
} plane;

/* Not 0: there is no memory. */
HIDDEN int made_ready(depthwise *d, const window *g);
HIDDEN void weigh(const depthwise *d, const plane *p, const finish *f, float *copy);

#endif
