// Exact re-scoring of a query's candidates: similarities, top-k, calibrated shares, creator totals.
// Definitions and shapes are in the docstrings of attributary.kernels; this is their compiled form.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace attributary::rescore {

enum class VectorType : std::int32_t { kFloat16, kInt8 };

// The bundle's vectors and what is known of each item. Rows are contiguous; nothing is owned.
struct Store {
  const void* vectors = nullptr;  // [rows, dim]
  VectorType type = VectorType::kFloat16;
  const float* scales = nullptr;  // [rows], kInt8 only: value = scale * int8
  std::int64_t rows = 0;          // below 2^31
  std::int64_t dim = 0;
  const std::int32_t* creators = nullptr;  // [rows]
  const std::int32_t* groups = nullptr;    // [rows] near-duplicate group
};

// How the similarities of one query become shares. The order is that of the columns of a [Q, 9] array.
struct Calibration {
  float temperature = 1;    // T, above 0
  float threshold = 0;      // u, in [0, 1)
  float background = 0;     // b, similarity of the null item; may be minus infinity
  float floor = 0;          // f, in [0, 1): nobody's, whatever the query resembles
  float foreign_below = 0;  // a query whose best similarity is below this gives everything to nobody
  float margin = 0;  // above it the shares rise from nothing to whole over this much similarity; 0: at once
  float reach = 0;   // K: at most so many near-duplicate groups get a share; 0: all of them
  float reach_cut = 1;   // a, in [0, 1]: the part of the weight of group K + 1 that the K lose
  float reach_null = 1;  // c, above 0: times that weight is nobody's
};

// Q queries with R candidates each. Similarities are computed from `queries` and the store's vectors, or
// given.
struct Batch {
  const float* queries = nullptr;            // [count, dim], or null where similarities are given
  const std::int64_t* candidates = nullptr;  // [count, width], -1 = no candidate
  const float* similarity = nullptr;         // [count, width], or null
  std::int64_t count = 0;
  std::int64_t width = 0;
  const Calibration* calibration = nullptr;  // [count]
  const std::uint8_t* visible = nullptr;     // bitmap over the store's rows, or null: all of them
};

// Where the answers go; every place must be preset to "unused" (-1 and 0, diffuse 1) by the caller.
struct Result {
  std::int64_t* rows = nullptr;           // [count, top_k]
  float* similarity = nullptr;            // [count, top_k]
  float* share = nullptr;                 // [count, top_k]
  float* diffuse = nullptr;               // [count]
  float* withheld = nullptr;              // [count]
  float* peak = nullptr;                  // [count]
  std::int32_t* creators = nullptr;       // [count, top_creators]
  float* creator_share = nullptr;         // [count, top_creators]
  std::int32_t* creator_items = nullptr;  // [count, top_creators]
  std::int64_t top_k = 0;
  std::int64_t top_creators = 0;
};

enum class FaultKind : std::int32_t { kNone, kOutOfRange, kNotFinite };

// What stopped a query; the fault of the lowest query is reported.
struct Fault {
  FaultKind kind = FaultKind::kNone;
  std::int64_t query = 0;
  std::int64_t row = 0;
};

// Answers the whole batch on up to `threads` threads. `isa` must not exceed best_isa(). Candidates that are
// not visible take part in the shares and show up nowhere but in `withheld`.
Fault rescore(const Store& store, const Batch& batch, const Result& result, Isa isa, int threads);

// Only the best rows and their similarities: fills `rows` and `similarity` of the result. Candidates that are
// not visible are no candidates.
Fault rank(const Store& store, const Batch& batch, const Result& result, Isa isa, int threads);

}  // namespace attributary::rescore
