// PRIVATE: working memory of one thread; it grows to the largest query seen, so that a warm query allocates nothing.
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
  std::vector<std::uint32_t> positive;   // places in rows whose weight is above 0
  std::vector<std::uint32_t> slot;       // beside positive: the group's number
  std::vector<std::uint64_t> keys;       // of the top-k
  CodeTable table;
  std::vector<float> best;               // by group number
  std::vector<double> total;             // by group, then by creator number
  std::vector<std::int32_t> items;       // by creator number
  std::vector<std::uint32_t> order;      // creator numbers
};

}  // namespace attributary::rescore
