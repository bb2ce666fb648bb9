/* What the files for one token share: asking for memory early, and the end of a row. */

#ifndef EXCISE_ROW_H
#define EXCISE_ROW_H

#include "activation.h"

enum { AHEAD = 2048 }; /* bytes of a weight that are asked for before they are needed */

static inline void ask_for(const void *p) {
    __builtin_prefetch((const char *)p + AHEAD, 0, 3); /* past a buffer's end nothing happens */
}

/* Output m: bias, residual and activation on top. */
static inline void finished(float total, int64_t m, float *y, const finish *f) {
    if (f->bias) total += f->bias[m];
    y[m] = ended_one(total, f->residual ? f->residual + m : NULL, f);
}

#endif
