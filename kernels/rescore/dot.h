// PRIVATE: dot products of one query with gathered rows, one implementation an instruction set.
#pragma once

#include <cstdint>

#include "rescore/rescore.h"

namespace attributary::rescore {

// similarity[i] = <query, vector of rows[i]>. A row's result does not depend on its place in the list, so
// that equal vectors tie exactly.
using DotRows = void (*)(const Store& store, const float* query, const std::uint32_t* rows,
                         std::int64_t count, float* similarity);

void dot_f16_portable(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
void dot_i8_portable(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
#if defined(ATTRIBUTARY_X86)
void dot_f16_avx2(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
void dot_i8_avx2(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
void dot_f16_avx512(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
void dot_i8_avx512(const Store&, const float*, const std::uint32_t*, std::int64_t, float*);
#endif

DotRows select_dot(VectorType type, Isa isa) noexcept;

// Rows fetched ahead of use, into the second-level cache: it keeps more misses in flight than the first,
// which was worth 1.4 times at 256 and at 768 dimensions on Zen 4.
constexpr std::int64_t kRowsAhead = 16;

}  // namespace attributary::rescore
