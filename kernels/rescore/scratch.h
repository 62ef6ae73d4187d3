// PRIVATE: working memory of one thread; it grows to the largest query seen, so that a warm query allocates
// nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "rescore/code_table.h"

namespace attributary::rescore {

struct Scratch {
  std::vector<std::uint32_t> rows;       // candidates: sorted, distinct, allowed
  std::vector<std::uint32_t> rows_next;  // the radix sort's other buffer
  std::vector<float> similarity;         // beside rows
  std::vector<float> share;              // beside rows; holds the weights first
  std::vector<std::uint64_t> keys;       // of the top-k
  std::vector<std::uint32_t> nearest;    // places in rows, the most similar first

  std::vector<std::uint32_t> positive;  // places in rows whose weight is above 0
  std::vector<float> weight;            // beside positive: weights, then shares
  std::vector<std::int32_t> groups;     // beside positive
  std::vector<std::int32_t> creators;   // beside positive
  std::vector<std::uint64_t> seen;      // bitmap over hashed groups
  std::vector<std::uint64_t> repeated;  // the same: met more than once

  std::vector<std::uint32_t> shared;        // places in positive of groups that may have several members
  std::vector<std::int32_t> shared_groups;  // beside shared
  std::vector<std::uint32_t> slot;          // beside shared: the group's number
  CodeTable table;
  std::vector<float> best;           // by group number
  std::vector<double> total;         // by group number, later by creator number
  std::vector<std::int32_t> items;   // by creator number
  std::vector<std::uint32_t> order;  // creator numbers
};

}  // namespace attributary::rescore
