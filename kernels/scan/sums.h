// PRIVATE: products of one query's weights with the codes of a list, one implementation an instruction set.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace attributary::scan {

// A query's weights as whole numbers of 16 bits, and the same in two signed bytes: whole = 256 high + low.
struct Weights {
  const std::int16_t* whole = nullptr;  // [dim]
  const std::int8_t* high = nullptr;    // [dim]
  const std::int8_t* low = nullptr;     // [dim]
};

// The largest weight: its bytes, the low one signed, are both within a byte.
constexpr int kMostWeight = 32'512;

// sums[i] = <weights, codes[i]>, exact but for the last rounding to float.
using SumRows = void (*)(const std::uint8_t* codes, std::int64_t rows, std::int64_t dim,
                         const Weights& weights, float* sums);

void sum_portable(const std::uint8_t*, std::int64_t, std::int64_t, const Weights&, float*);
#if defined(ATTRIBUTARY_X86)
void sum_avx2(const std::uint8_t*, std::int64_t, std::int64_t, const Weights&, float*);
void sum_avx512(const std::uint8_t*, std::int64_t, std::int64_t, const Weights&, float*);
#endif

SumRows select_sums(Isa isa) noexcept;

}  // namespace attributary::scan
