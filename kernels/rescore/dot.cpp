#include "rescore/dot.h"

namespace attributary::rescore {

DotRows select_dot(VectorType type, Isa isa) noexcept {
  const bool f16 = type == VectorType::kFloat16;
#if defined(ATTRIBUTARY_X86)
  if (isa == Isa::kAvx512) return f16 ? dot_f16_avx512 : dot_i8_avx512;
  if (isa == Isa::kAvx2) return f16 ? dot_f16_avx2 : dot_i8_avx2;
#else
  (void)isa;
#endif
  return f16 ? dot_f16_portable : dot_i8_portable;
}

}  // namespace attributary::rescore
