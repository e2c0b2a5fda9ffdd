// Compiled once for each instruction set that is worth telling apart; `library.py` picks the one of the machine.

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "job.hpp"

// What library.py compares with its own, lest a build of other sources misread its jobs.
extern "C" int64_t archgrad_interface() { return INTERFACE * 10000 + int64_t(sizeof(Job) + sizeof(Inverted)); }

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#define LEVEL baseline
#define VECTOR_BYTES 16
#include "level.hpp"

#if defined(__x86_64__) && !defined(__clang__)  // Clang does not heed the pragmas below
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LEVEL avx2
#define VECTOR_BYTES 32
#include "level.hpp"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#define LEVEL avx512
#define VECTOR_BYTES 64
#include "level.hpp"
#pragma GCC pop_options
#endif
