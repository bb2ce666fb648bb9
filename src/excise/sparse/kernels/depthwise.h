/* A depthwise convolution, channel by channel. */

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

/* Not 0: there is no memory. */
HIDDEN int made_ready(depthwise *d, const window *g);

/* One channel of one image; x is its plane, weight of all channels. */
HIDDEN void weigh(const depthwise *d, const product *p, const finish *f, const float *weight,
                  const float *x, int64_t image, int64_t channel, float *copy);

#endif
