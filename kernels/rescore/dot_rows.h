// The loop over candidates, for each file of vector instructions: `dot_block` and `kBlock` are those of the
// file that includes this, after them. All is local to that file: what one set of instructions made never
// stands for another's.
#pragma once

#include <immintrin.h>

#include "rescore/dot.h"

namespace attributary::rescore {
namespace {

template <typename Type, int kRows>
inline void dot_rows(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                     std::int64_t i, float* similarity) {
  const auto* base = static_cast<const typename Type::Element*>(store.vectors);
  const typename Type::Element *vectors[kRows], *ahead[kRows];
  for (int r = 0; r < kRows; ++r) {
    vectors[r] = base + std::int64_t{rows[i + r]} * store.dim;
    const std::int64_t later = i + r + kRowsAhead;
    ahead[r] = base + std::int64_t{rows[later < count ? later : count - 1]} * store.dim;
  }
  dot_block<Type, kRows>(query, vectors, ahead, store.dim, similarity + i);
}

template <typename Type>
inline void dot_all(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                    float* similarity) {
  // Nobody has fetched the first rows ahead; fetched together, they wait for memory once.
  const auto* base = static_cast<const typename Type::Element*>(store.vectors);
  constexpr std::int64_t kLine = 64 / sizeof(typename Type::Element);
  for (std::int64_t first = 0; first < count && first < kRowsAhead; ++first) {
    const auto* row = base + std::int64_t{rows[first]} * store.dim;
    for (std::int64_t d = 0; d < store.dim; d += kLine)
      _mm_prefetch(reinterpret_cast<const char*>(row + d), _MM_HINT_T1);
  }
  std::int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) dot_rows<Type, kBlock>(store, query, rows, count, i, similarity);
  for (; i < count; ++i) dot_rows<Type, 1>(store, query, rows, count, i, similarity);
}

}  // namespace
}  // namespace attributary::rescore
