// Which instruction set the kernels run on: found at run time, forced by tests.
#pragma once

#include <cstdint>

namespace attributary {

// Ordered: a machine that has one level has every level below it.
enum class Isa : std::int32_t {
  kPortable = 0,  // plain C++
  kAvx2 = 1,      // AVX2, FMA, F16C
  kAvx512 = 2,    // AVX-512 F, BW, VL, VBMI and VNNI (Ice Lake, Zen 4 and later)
};

// The highest level of this machine that was also compiled in.
Isa best_isa() noexcept;

// "portable", "avx2" or "avx512".
const char* isa_name(Isa isa) noexcept;

}  // namespace attributary
