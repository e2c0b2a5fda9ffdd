// Everything for one instruction set: LEVEL is its name, and VECTOR_BYTES the width of its vectors.

namespace LEVEL {
#include "vectors.hpp"
#include "ahead.hpp"
#include "tiles.hpp"
#include "channels.hpp"
#include "taps.hpp"
#include "winograd.hpp"
#include "wide.hpp"
#include "storage.hpp"
#include "gather.hpp"
#include "pools.hpp"
#include "grids.hpp"
#include "stages.hpp"
#include "weave.hpp"
#include "inverted.hpp"
#include "inverted_back.hpp"
}  // namespace LEVEL

#define EXPORT_NAMED(pass, name, T, level, Jobs) \
    extern "C" void archgrad_##pass##_##name##_##level(const Jobs* jobs, int64_t n) { level::pass<T>(jobs, n); }
#define EXPORT_AT(pass, level, Jobs)                 \
    EXPORT_NAMED(pass, f32, float, level, Jobs) \
    EXPORT_NAMED(pass, f64, double, level, Jobs)
#define EXPORT(pass, level) EXPORT_AT(pass, level, Job)  // once more, so that LEVEL is replaced first
#define EXPORT_INVERTED(pass, level) EXPORT_AT(pass, level, Inverted)

EXPORT(transform, LEVEL)
EXPORT(combine, LEVEL)
EXPORT(reduce, LEVEL)
EXPORT(backpropagate, LEVEL)
EXPORT(weave, LEVEL)
EXPORT(unweave, LEVEL)
EXPORT_INVERTED(covary, LEVEL)
EXPORT_INVERTED(widen, LEVEL)
EXPORT_INVERTED(narrow, LEVEL)
EXPORT_INVERTED(narrow_back, LEVEL)
EXPORT_INVERTED(widen_back, LEVEL)

#undef EXPORT
#undef EXPORT_INVERTED
#undef EXPORT_AT
#undef EXPORT_NAMED
#undef VECTOR_BYTES
#undef LEVEL
