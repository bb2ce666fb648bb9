/* One block of columns times one tile of T vectors, for a range of places in the order of rows. */

#include "activation.h"
#include "block.h"

/* Two rows at once where the registers hold both: their additions do not wait for each other, and as
 * many branches serve twice the work. */
#if LANES == 16
enum { REGISTERS = 32 };
#else
enum { REGISTERS = 16 };
#endif

/* A finished row of the tile, from where its sums were spilled to. */
static void finished(const float *sum, int64_t m, const tile *w, const finish *f) {
    float *out = w->out + m * w->out_pitch;
    const float *residual = w->residual ? w->residual + m * w->out_pitch : NULL;
    for (int64_t r = 0; r < w->high; r++, out += w->wide, sum += w->across * LANES) {
        for (int64_t n = 0; n < w->valid; n += LANES)
            ended_to(out + n, load(sum + n), residual ? residual + n : NULL, f, w->valid - n);
        if (residual) residual += w->wide;
    }
}

#define EACH(T) _Pragma("GCC unroll 8") for (int t = 0; t < T; t++)

#define START(T, sum, m, partial)                                                                  \
    if (w->first) {                                                                                \
        const vec start = splat(f->bias ? f->bias[m] : 0.0f);                                      \
        EACH(T) sum[t] = start;                                                                    \
    } else {                                                                                       \
        EACH(T) sum[t] = load(partial + t * LANES);                                                \
    }

#define STOP(T, sum, m, partial)                                                                   \
    if (!w->last) {                                                                                \
        EACH(T) store(partial + t * LANES, sum[t]);                                                \
    } else if (w->high == 1 && w->valid == T * LANES) {                                            \
        float *out = w->out + m * w->out_pitch;                                                    \
        const float *residual = w->residual ? w->residual + m * w->out_pitch : NULL;               \
        if (f->activation <= RELU6 && !residual) {                                                 \
            EACH(T) store(out + t * LANES, activated(sum[t], f->activation));                      \
        } else if (f->activation <= RELU6) {                                                       \
            EACH(T) store(out + t * LANES, ended(sum[t], residual + t * LANES, f));                \
        } else {                                                                                     \
            float spill[T * LANES];                                                                \
            EACH(T) store(spill + t * LANES, sum[t]);                                              \
            finished(spill, m, w, f);                                                              \
        }                                                                                          \
    } else {                                                                                       \
        float spill[T * LANES];                                                                    \
        EACH(T) store(spill + t * LANES, sum[t]);                                                  \
        finished(spill, m, w, f);                                                                  \
    }

#define ADD(T, sum, j)                                                                             \
    {                                                                                              \
        const float *b = w->b + (int64_t)index[j] * pitch;                                         \
        __asm__("" : "+r"(b)); /* one register: with two in an address, each load is two steps */  \
        const vec x = splat(value[j]);                                                             \
        EACH(T) sum[t] += x * load(b + t * LANES);                                                 \
    }

/* Four rows without a zero read the same: each vector is loaded once for all of them. */
#define ADD_FOUR(T, j)                                                                             \
    {                                                                                              \
        const float *b = w->b + (int64_t)index[p[0] + j] * pitch;                                  \
        const vec x0 = splat(value[p[0] + j]), x1 = splat(value[p[1] + j]);              \
        const vec x2 = splat(value[p[2] + j]), x3 = splat(value[p[3] + j]);              \
        EACH(T) {                                                                                  \
            const vec v = load(b + t * LANES);                                                     \
            s0[t] += x0 * v;                                                                       \
            s1[t] += x1 * v;                                                                       \
            s2[t] += x2 * v;                                                                       \
            s3[t] += x3 * v;                                                                       \
        }                                                                                          \
    }

#define BLOCK(T)                                                                                   \
    static void block_##T(const matrix *a, int64_t part, int64_t from, int64_t to, const tile *w,  \
                          const finish *f) {                                                       \
        const uint32_t *pointer = a->pointer + part * a->rows, *order = order_of(a, part);         \
        const float *value = a->value;                                                             \
        const uint16_t *index = a->index;                                                          \
        const int64_t pitch = w->pitch;                                                            \
        const uint32_t full = at_most(a->block, a->depth - part * a->block);                       \
        int64_t i = from;                                                                          \
        for (; 4 * T + 5 <= REGISTERS && i + 3 < to && pointer[i + 4] - pointer[i] == 4 * full;    \
             i += 4) {                                                                             \
            const uint32_t *p = pointer + i;                                                       \
            float *at[4];                                                                          \
            for (int r = 0; r < 4; r++) at[r] = w->partial + (order[i + r] - from) * (T * LANES);  \
            vec s0[T], s1[T], s2[T], s3[T];                                                        \
            START(T, s0, order[i], at[0])                                                          \
            START(T, s1, order[i + 1], at[1])                                                      \
            START(T, s2, order[i + 2], at[2])                                                      \
            START(T, s3, order[i + 3], at[3])                                                      \
            for (uint32_t j = 0; j < full; j++) ADD_FOUR(T, j)                                     \
            STOP(T, s0, order[i], at[0])                                                           \
            STOP(T, s1, order[i + 1], at[1])                                                       \
            STOP(T, s2, order[i + 2], at[2])                                                       \
            STOP(T, s3, order[i + 3], at[3])                                                       \
        }                                                                                          \
        for (; 2 * T + 2 <= REGISTERS && i + 1 < to; i += 2) {                                     \
            const int64_t m = order[i], n = order[i + 1];                                          \
            uint32_t j = pointer[i], k = pointer[i + 1];                                           \
            const uint32_t middle = k, end = pointer[i + 2];                                       \
            float *one = w->partial + (m - from) * (T * LANES);                                    \
            float *two = w->partial + (n - from) * (T * LANES);                                    \
            vec sum[T], other[T];                                                                  \
            START(T, sum, m, one)                                                                  \
            START(T, other, n, two)                                                                \
            for (; k < end; j++, k++) {                                                            \
                ADD(T, sum, j)                                                                     \
                ADD(T, other, k)                                                                   \
            }                                                                                      \
            for (; j < middle; j++) ADD(T, sum, j)                                                 \
            STOP(T, sum, m, one)                                                                   \
            STOP(T, other, n, two)                                                                 \
        }                                                                                          \
        for (; i < to; i++) {                                                                      \
            const int64_t m = order[i];                                                            \
            float *one = w->partial + (m - from) * (T * LANES);                                    \
            vec sum[T];                                                                            \
            START(T, sum, m, one)                                                                  \
            for (uint32_t j = pointer[i], end = pointer[i + 1]; j < end; j++) ADD(T, sum, j)       \
            STOP(T, sum, m, one)                                                                   \
        }                                                                                          \
    }

BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7) BLOCK(8)

const block_kernel BLOCKS[MOST_TILES + 1] = {0,       block_1, block_2, block_3, block_4,
                                             block_5, block_6, block_7, block_8};
