#include "common/isa.h"

#if defined(ATTRIBUTARY_X86)
#include <cpuid.h>
#endif

namespace attributary {

namespace {

#if defined(ATTRIBUTARY_X86)
struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Asked of the processor itself: __builtin_cpu_supports asks the compiler's runtime, and zig's says no to
// everything.
Cpuid cpuid(unsigned leaf) noexcept {
  Cpuid found;
  __get_cpuid_count(leaf, 0, &found.eax, &found.ebx, &found.ecx, &found.edx);
  return found;
}

bool has(unsigned features, unsigned wanted) noexcept { return (features & wanted) == wanted; }

// The registers that the operating system keeps for a thread (XCR0): an instruction set is of no use without
// them.
unsigned kept_registers() noexcept {
  if (!has(cpuid(1).ecx, bit_OSXSAVE)) return 0;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

constexpr unsigned kAvxRegisters = 0x06, kAvx512Registers = 0xe6;
#endif

Isa detect() noexcept {
#if defined(ATTRIBUTARY_X86)
  const Cpuid base = cpuid(1), more = cpuid(7);
  const unsigned kept = kept_registers();
  const bool avx2 =
      has(kept, kAvxRegisters) && has(base.ecx, bit_AVX | bit_FMA | bit_F16C) && has(more.ebx, bit_AVX2);
  const bool avx512 = avx2 && has(kept, kAvx512Registers) &&
                      has(more.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL) &&
                      has(more.ecx, bit_AVX512VBMI | bit_AVX512VNNI);
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

}  // namespace

Isa best_isa() noexcept {
  // Asked once: in a virtual machine each CPUID leaves it, which takes longer than re-scoring some hundred
  // rows.
  static const Isa best = detect();
  return best;
}

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

}  // namespace attributary
