/* What was compiled, and whether this machine runs it. */

#include "common.h"

int excise_lanes(void) { return LANES; }

/* Whether this machine runs what a library of so many lanes was compiled to. */
int excise_runs(int lanes) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (lanes == 16)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
    if (lanes == 8) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return lanes == 4;
}
