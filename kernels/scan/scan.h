// Inverted lists of 8-bit codes, scanned in whole numbers: the candidates of a batch of queries.
// Definitions and shapes are in the docstring of attributary.kernels.scan; this is its compiled form.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace attributary::scan {

// Lists of codes as FAISS keeps them; nothing is owned. An item's code is `dim` bytes.
struct Lists {
  const std::uint64_t* codes = nullptr;  // [count] address of each list's codes, uint8 [size, dim]
  const std::uint64_t* rows = nullptr;   // [count] address of each list's rows, int64 [size], below 2^31
  const std::int64_t* sizes = nullptr;   // [count]
  std::int64_t count = 0;
  std::int64_t dim = 0;  // at most kMostDim
};

// Q queries with P lists each. The similarity of an item in list p is base[p] + <weights, code>.
struct Batch {
  const float* weights = nullptr;       // [count, dim], finite
  const std::int64_t* lists = nullptr;  // [count, probes]; negative: none
  const float* base = nullptr;          // [count, probes]
  std::int64_t count = 0;
  std::int64_t probes = 0;
  const std::uint8_t* allowed = nullptr;  // bitmap over rows, or null: all of them
  std::int64_t allowed_rows = 0;          // rows at or above it are not allowed
};

// Sums of products of one code with 16-bit weights stay within 32 bits.
constexpr std::int64_t kMostDim = 2048;

// The `wanted` best rows of each query, best first, equal ones by ascending row; int64 [count, wanted], -1
// where there are fewer. Which rows they are depends on the query alone, not on what else is in the batch.
void scan(const Lists& lists, const Batch& batch, std::int64_t wanted, std::int64_t* found, Isa isa,
          int threads);

}  // namespace attributary::scan
