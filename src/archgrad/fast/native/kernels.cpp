// Compiled once for each instruction set that is worth telling apart; `library.py` picks the one of the machine.

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "job.hpp"

// What library.py compares with its own, lest a build of other sources misread its jobs.
extern "C" int64_t archgrad_interface() { return INTERFACE * 10000 + int64_t(sizeof(Job)); }

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#define EXPORT(level)                                                                                            \
    extern "C" {                                                                                                 \
    void archgrad_transform_f32_##level(const Job* jobs, int64_t n) { level::transform<float>(jobs, n); }          \
    void archgrad_transform_f64_##level(const Job* jobs, int64_t n) { level::transform<double>(jobs, n); }         \
    void archgrad_combine_f32_##level(const Job* jobs, int64_t n) { level::combine<float>(jobs, n); }            \
    void archgrad_combine_f64_##level(const Job* jobs, int64_t n) { level::combine<double>(jobs, n); }           \
    void archgrad_reduce_f32_##level(const Job* jobs, int64_t n) { level::reduce<float>(jobs, n); }              \
    void archgrad_reduce_f64_##level(const Job* jobs, int64_t n) { level::reduce<double>(jobs, n); }             \
    void archgrad_backpropagate_f32_##level(const Job* jobs, int64_t n) { level::backpropagate<float>(jobs, n); } \
    void archgrad_backpropagate_f64_##level(const Job* jobs, int64_t n) { level::backpropagate<double>(jobs, n); } \
    }

#define VECTOR_BYTES 16
namespace baseline {
#include "tiles.hpp"
#include "channels.hpp"
#include "pools.hpp"
#include "stages.hpp"
}
EXPORT(baseline)
#undef VECTOR_BYTES

#if defined(__x86_64__) && !defined(__clang__)  // Clang does not heed the pragmas below
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VECTOR_BYTES 32
namespace avx2 {
#include "tiles.hpp"
#include "channels.hpp"
#include "pools.hpp"
#include "stages.hpp"
}
EXPORT(avx2)
#undef VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#define VECTOR_BYTES 64
namespace avx512 {
#include "tiles.hpp"
#include "channels.hpp"
#include "pools.hpp"
#include "stages.hpp"
}
EXPORT(avx512)
#undef VECTOR_BYTES
#pragma GCC pop_options
#endif
