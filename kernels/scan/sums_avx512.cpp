// Compiled with AVX-512 flags: no inline library code may be instantiated here, or a plain machine could run
// it.
#include <immintrin.h>

#include "scan/sums.h"

namespace attributary::scan {
namespace {

constexpr int kBlock = 4;              // rows that share a load of the weights
constexpr std::int64_t kWide = 64;     // dimensions a step
constexpr std::int64_t kAhead = 2048;  // bytes fetched ahead of use

// Four times 16 sums of 32 bits, added up in each: together they take up to 36 bits.
inline __m128 added(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512 fa = _mm512_cvtepi32_ps(a), fb = _mm512_cvtepi32_ps(b);
  const __m512 fc = _mm512_cvtepi32_ps(c), fd = _mm512_cvtepi32_ps(d);
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(fa, fb), _mm512_unpackhi_ps(fa, fb));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(fc, fd), _mm512_unpackhi_ps(fc, fd));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all),
                                    _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Sums of the rows that begin at codes + of[0], codes + of[1], ...
[[gnu::always_inline]] inline __m128 block(const std::uint8_t* codes, const std::int64_t (&of)[kBlock],
                                           std::int64_t dim, const Weights& weights) {
  __m512i high[kBlock], low[kBlock];
  for (int r = 0; r < kBlock; ++r) high[r] = low[r] = _mm512_setzero_si512();
  for (std::int64_t d = 0; d < dim; d += kWide) {
    const __mmask64 mask = dim - d >= kWide ? ~__mmask64{0} : (__mmask64{1} << (dim - d)) - 1;
    const __m512i wh = _mm512_maskz_loadu_epi8(mask, weights.high + d);
    const __m512i wl = _mm512_maskz_loadu_epi8(mask, weights.low + d);
    for (int r = 0; r < kBlock; ++r) {
      const std::uint8_t* from = codes + of[r] + d;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      const __m512i code = _mm512_maskz_loadu_epi8(mask, from);
      high[r] = _mm512_dpbusd_epi32(high[r], code, wh);
      low[r] = _mm512_dpbusd_epi32(low[r], code, wl);
    }
  }
  __m512i sum[kBlock];
  for (int r = 0; r < kBlock; ++r) sum[r] = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
  return added(sum[0], sum[1], sum[2], sum[3]);
}

}  // namespace

void sum_avx512(const std::uint8_t* codes, std::int64_t rows, std::int64_t dim, const Weights& weights,
                float* sums) {
  const std::int64_t whole = rows / kBlock * kBlock;
  for (std::int64_t i = 0; i < whole; i += kBlock, codes += kBlock * dim) {
    _mm_storeu_ps(sums + i, block(codes, {0, dim, 2 * dim, 3 * dim}, dim, weights));
  }
  const std::int64_t left = rows - whole;
  if (left == 0) return;
  // The first row stands in for those that are missing.
  const __m128 last = block(codes, {0, left > 1 ? dim : 0, left > 2 ? 2 * dim : 0, 0}, dim, weights);
  _mm_mask_storeu_ps(sums + whole, static_cast<__mmask8>((1u << left) - 1u), last);
}

}  // namespace attributary::scan
