// Compiled with AVX2 flags: no inline library code may be instantiated here, or a plain machine could run it.
#include <immintrin.h>

#include "scan/sums.h"

namespace attributary::scan {
namespace {

constexpr std::int64_t kStep = 16;  // dimensions: a register of 16-bit numbers

inline __m256i step(__m256i sum, const std::uint8_t* codes, const std::int16_t* weights) {
  const __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(code, weight));
}

inline float added(__m256i sum) {
  // Eight sums of 32 bits together take up to 35.
  const __m256 f = _mm256_cvtepi32_ps(sum);
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(f), _mm256_extractf128_ps(f, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

}  // namespace

void sum_avx2(const std::uint8_t* codes, std::int64_t rows, std::int64_t dim, const Weights& weights,
              float* sums) {
  const std::int64_t whole = dim / kStep * kStep;
  for (std::int64_t i = 0; i < rows; ++i, codes += dim) {
    __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
    std::int64_t d = 0;
    for (; d + 2 * kStep <= whole; d += 2 * kStep) {
      even = step(even, codes + d, weights.whole + d);
      odd = step(odd, codes + d + kStep, weights.whole + d + kStep);
    }
    if (d < whole) even = step(even, codes + d, weights.whole + d);
    std::int32_t rest = 0;
    for (d = whole; d < dim; ++d) rest += std::int32_t{codes[d]} * weights.whole[d];
    sums[i] = added(_mm256_add_epi32(even, odd)) + static_cast<float>(rest);
  }
}

}  // namespace attributary::scan
