// Compiled with AVX2, FMA and F16C flags: no inline library code may be instantiated here, or a plain machine
// could run it.
#include <immintrin.h>

#include "rescore/dot.h"

namespace attributary::rescore {
namespace {

constexpr int kBlock = 4;           // rows that share a load of the query
constexpr std::int64_t kWide = 16;  // dimensions a step: two registers of 8

struct Half {
  using Element = std::uint16_t;
  static __m256 load(const Element* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

struct Int8 {
  using Element = std::int8_t;
  static __m256 load(const Element* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
};

inline float sum_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// `ahead` are the rows to fetch while this block is computed.
template <typename Type, int kRows>
inline void dot_block(const float* query, const typename Type::Element* const* vectors,
                      const typename Type::Element* const* ahead, std::int64_t dim, float* out) {
  using Element = typename Type::Element;
  __m256 even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = _mm256_setzero_ps();
  std::int64_t d = 0;
  for (; d + kWide <= dim; d += kWide) {
    const __m256 q0 = _mm256_loadu_ps(query + d);
    const __m256 q1 = _mm256_loadu_ps(query + d + 8);
    for (int r = 0; r < kRows; ++r) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead[r] + d), _MM_HINT_T1);
      even[r] = _mm256_fmadd_ps(Type::load(vectors[r] + d), q0, even[r]);
      odd[r] = _mm256_fmadd_ps(Type::load(vectors[r] + d + 8), q1, odd[r]);
    }
  }
  if (d < dim) {
    alignas(32) float rest_query[kWide] = {};
    for (std::int64_t j = d; j < dim; ++j) rest_query[j - d] = query[j];
    for (int r = 0; r < kRows; ++r) {
      alignas(32) Element rest[kWide] = {};
      for (std::int64_t j = d; j < dim; ++j) rest[j - d] = vectors[r][j];
      even[r] = _mm256_fmadd_ps(Type::load(rest), _mm256_load_ps(rest_query), even[r]);
      odd[r] = _mm256_fmadd_ps(Type::load(rest + 8), _mm256_load_ps(rest_query + 8), odd[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) out[r] = sum_lanes(_mm256_add_ps(even[r], odd[r]));
}

}  // namespace
}  // namespace attributary::rescore

#include "rescore/dot_rows.h"

namespace attributary::rescore {
void dot_f16_avx2(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                  float* similarity) {
  dot_all<Half>(store, query, rows, count, similarity);
}

void dot_i8_avx2(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                 float* similarity) {
  dot_all<Int8>(store, query, rows, count, similarity);
  for (std::int64_t i = 0; i < count; ++i) similarity[i] *= store.scales[rows[i]];
}

}  // namespace attributary::rescore
