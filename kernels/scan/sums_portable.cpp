#include "scan/sums.h"

namespace attributary::scan {

void sum_portable(const std::uint8_t* codes, std::int64_t rows, std::int64_t dim, const Weights& weights,
                  float* sums) {
  for (std::int64_t i = 0; i < rows; ++i, codes += dim) {
    std::int64_t sum = 0;
    for (std::int64_t d = 0; d < dim; ++d) sum += std::int32_t{codes[d]} * weights.whole[d];
    sums[i] = static_cast<float>(sum);
  }
}

SumRows select_sums(Isa isa) noexcept {
#if defined(ATTRIBUTARY_X86)
  if (isa == Isa::kAvx512) return sum_avx512;
  if (isa == Isa::kAvx2) return sum_avx2;
#else
  (void)isa;
#endif
  return sum_portable;
}

}  // namespace attributary::scan
