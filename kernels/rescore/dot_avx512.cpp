// Compiled with AVX-512 flags: no inline library code may be instantiated here, or a plain machine could run
// it.
#include <immintrin.h>

#include "rescore/dot.h"

namespace attributary::rescore {
namespace {

constexpr int kBlock = 4;           // rows that share a load of the query
constexpr std::int64_t kWide = 32;  // dimensions a step: two registers of 16

struct Half {
  using Element = std::uint16_t;
  static __m512 load(const Element* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 load(const Element* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
};

struct Int8 {
  using Element = std::int8_t;
  static __m512 load(const Element* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static __m512 load(const Element* p, __mmask16 mask) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, p)));
  }
};

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : count <= 0 ? __mmask16(0) : __mmask16((1u << count) - 1u);
}

// `ahead` are the rows to fetch while this block is computed.
template <typename Type, int kRows>
inline void dot_block(const float* query, const typename Type::Element* const* vectors,
                      const typename Type::Element* const* ahead, std::int64_t dim, float* out) {
  __m512 even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = _mm512_setzero_ps();
  std::int64_t d = 0;
  for (; d + kWide <= dim; d += kWide) {
    const __m512 q0 = _mm512_loadu_ps(query + d);
    const __m512 q1 = _mm512_loadu_ps(query + d + 16);
    for (int r = 0; r < kRows; ++r) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead[r] + d), _MM_HINT_T1);
      even[r] = _mm512_fmadd_ps(Type::load(vectors[r] + d), q0, even[r]);
      odd[r] = _mm512_fmadd_ps(Type::load(vectors[r] + d + 16), q1, odd[r]);
    }
  }
  if (d < dim) {
    const __mmask16 m0 = first_lanes(dim - d), m1 = first_lanes(dim - d - 16);
    const __m512 q0 = _mm512_maskz_loadu_ps(m0, query + d);
    const __m512 q1 = _mm512_maskz_loadu_ps(m1, query + d + 16);
    for (int r = 0; r < kRows; ++r) {
      even[r] = _mm512_fmadd_ps(Type::load(vectors[r] + d, m0), q0, even[r]);
      odd[r] = _mm512_fmadd_ps(Type::load(vectors[r] + d + 16, m1), q1, odd[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) out[r] = _mm512_reduce_add_ps(_mm512_add_ps(even[r], odd[r]));
}

}  // namespace
}  // namespace attributary::rescore

#include "rescore/dot_rows.h"

namespace attributary::rescore {
void dot_f16_avx512(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                    float* similarity) {
  dot_all<Half>(store, query, rows, count, similarity);
}

void dot_i8_avx512(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                   float* similarity) {
  dot_all<Int8>(store, query, rows, count, similarity);
  for (std::int64_t i = 0; i < count; ++i) similarity[i] *= store.scales[rows[i]];
}

}  // namespace attributary::rescore
