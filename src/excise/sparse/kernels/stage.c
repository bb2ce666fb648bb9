/* A list of kernel calls, one after the other, with nothing in between. */

#include "stage.h"

static int done(const stage *s) {
    const product *p = s->p;
    switch (s->kind) {
    case SPMM: return excise_spmm(s->weight, p, s->f);
    case LINEAR: return excise_linear(s->weight, p, s->f);
    case CONV: return excise_conv(s->weight, p, s->g, s->f);
    case DIRECT: return excise_direct(s->weight, p, s->g, s->f, s->rows, s->vectors);
    case DEPTHWISE: return excise_depthwise(s->weight, p, s->g, s->f);
    case LARGEST: return excise_largest(p, s->g);
    case MEAN: return excise_mean(p);
    case GEMV: return excise_gemv(s->weight, p->x, p->y, s->f, p->threads);
    case GEMV_MASK: return excise_gemv_mask(s->weight, p->x, p->y, s->f, p->threads);
    case PAIR: return excise_pair(s->weight, p, s->g, s->f);
    default: return 1;
    }
}

/* 1 if one of them found no memory; those after it are not run. */
int excise_run(const stage *stages, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (done(stages + i)) return 1;
    return 0;
}
