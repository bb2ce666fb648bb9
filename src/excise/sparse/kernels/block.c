/* One block of columns times one tile of T vectors, for a range of rows. */

#include "block.h"

#define BLOCK(T)                                                                                   \
    static void block_##T(const matrix *a, int64_t part, int64_t from, int64_t to, const tile *w,  \
                          const finish *f) {                                                       \
        const uint32_t *pointer = a->pointer + part * a->rows;                                     \
        const float *value = a->value;                                                             \
        const uint16_t *index = a->index;                                                          \
        const int64_t pitch = w->pitch;                                                            \
        for (int64_t m = from; m < to; m++) {                                                      \
            vec sum[T];                                                                            \
            float *partial = w->partial + (m - from) * (T * LANES);                                \
            const vec start = splat(f->bias ? f->bias[m] : 0.0f);                                  \
            for (int t = 0; t < T; t++) sum[t] = w->first ? start : load(partial + t * LANES);     \
            for (uint32_t j = pointer[m], end = pointer[m + 1]; j < end; j++) {                    \
                const float *b = w->b + (int64_t)index[j] * pitch;                                 \
                const float x = value[j];                                                          \
                _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) sum[t] +=                      \
                    x * load(b + t * LANES);                                                       \
            }                                                                                      \
            if (!w->last) {                                                                        \
                for (int t = 0; t < T; t++) store(partial + t * LANES, sum[t]);                    \
                continue;                                                                          \
            }                                                                                      \
            float *out = w->out + m * w->out_pitch;                                                \
            const float *residual = w->residual ? w->residual + m * w->out_pitch : NULL;           \
            if (w->valid == T * LANES) {                                                           \
                for (int t = 0; t < T; t++) {                                                      \
                    if (residual) sum[t] += load(residual + t * LANES);                            \
                    store(out + t * LANES, activated(sum[t], f->activation));                      \
                }                                                                                  \
            } else {                                                                               \
                float spill[T * LANES] = {0};                                                      \
                if (residual) memcpy(spill, residual, 4 * w->valid);                               \
                for (int t = 0; t < T; t++)                                                        \
                    store(spill + t * LANES,                                                       \
                          activated(sum[t] + load(spill + t * LANES), f->activation));             \
                memcpy(out, spill, 4 * w->valid);                                                  \
            }                                                                                      \
        }                                                                                          \
    }

BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7) BLOCK(8)

const block_kernel BLOCKS[MOST_TILES + 1] = {0,       block_1, block_2, block_3, block_4,
                                                    block_5, block_6, block_7, block_8};
