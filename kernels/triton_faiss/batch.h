// The queries of a dynamic batch, requests joined, and their answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attributary::triton {

constexpr std::ptrdiff_t kNoFilter = -1;

struct Batch {
  std::vector<float> embeddings;       // [Q, D]
  std::vector<std::ptrdiff_t> filter;  // [Q] offset of the query's bitmap in `bitmaps`, or kNoFilter
  std::vector<std::uint8_t> bitmaps;   // of ceil(N / 8) bytes each, one after the other; 0 beyond row N

  std::size_t count() const noexcept { return filter.size(); }
  void clear() {
    embeddings.clear();
    filter.clear();
    bitmaps.clear();
  }
};

// Vectors keep their memory from batch to batch.
struct Answers {
  std::vector<std::int64_t> row;        // [Q, R] by descending similarity, ties by ascending row; then -1
  std::vector<float> similarity;        // [Q, R]; 0 where the row is -1
  std::vector<std::string> fault;       // [Q] why a query has no answer; empty where it has one
  float search_ms = 0, rescore_ms = 0;  // of the whole batch
};

}  // namespace attributary::triton
