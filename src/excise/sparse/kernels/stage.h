/* Every kernel, and a call of one with all that it is told. */

#ifndef EXCISE_STAGE_H
#define EXCISE_STAGE_H

#include "common.h"

int excise_spmm(const matrix *, const product *, const finish *);
int excise_linear(const matrix *, const product *, const finish *);
int excise_conv(const matrix *, const product *, const window *, const finish *);
int excise_direct(const matrix *, const product *, const window *, const finish *, int64_t, int64_t);
int excise_depthwise(const float *, const product *, const window *, const finish *);
int excise_largest(const product *, const window *);
int excise_mean(const product *);
int excise_gemv(const matrix *, const float *, float *, const finish *, int64_t);
int excise_gemv_mask(const bitmask *, const float *, float *, const finish *, int64_t);

typedef struct { /* a 1x1 convolution and the depthwise one that alone reads it */
    const matrix *a;
    const finish *f;       /* of the first */
    int64_t columns, each; /* of the first; channels at a time: a number of whole spans */
    const float *weight;   /* of the second */
} pair;

int excise_pair(const pair *, const product *, const window *, const finish *);

enum { SPMM, LINEAR, CONV, DIRECT, DEPTHWISE, LARGEST, MEAN, GEMV, GEMV_MASK, PAIR };

typedef struct {
    int64_t kind;
    const void *weight; /* as the kernel takes it */
    const product *p;   /* input, output and threads of all of them */
    const window *g;
    const finish *f;
    int64_t rows, vectors; /* of a tile of DIRECT */
} stage;

#endif
