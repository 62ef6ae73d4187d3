// The queries of a dynamic batch, requests joined, and their answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace attributary::triton {

// What is asked of one embedding beside its values.
struct Query {
  bool has_prompt = false;
  std::int32_t top_k = 1;
  std::int32_t top_creators = 0;
  std::ptrdiff_t filter = -1;  // offset of its bitmap in Batch::filters; -1: none
};

struct Batch {
  std::vector<float> embeddings;      // [Q, D]
  std::vector<Query> queries;         // [Q]
  std::vector<std::uint8_t> filters;  // bitmaps of ceil(N / 8) bytes, one after the other

  void clear() {
    embeddings.clear();
    queries.clear();
    filters.clear();
  }
};

// Row-major; unused places hold -1 and 0. Vectors keep their memory from batch to batch.
struct Answers {
  std::size_t top_k = 0;         // largest of the batch: the stride of an item row
  std::size_t top_creators = 0;  // largest of the batch, at least 1: the stride of a creator row
  std::vector<std::int64_t> row;
  std::vector<float> similarity, share;
  std::vector<float> diffuse, peak;  // [Q]
  std::vector<std::int32_t> creator, creator_items;
  std::vector<float> creator_share;
  float search_ms = 0, rescore_ms = 0;  // of the whole batch
};

}  // namespace attributary::triton
