#include "rescore/candidates.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace attributary::rescore {
namespace {

constexpr int kRowBits = 31;  // every row is below 2^31
// Wide digits take fewer passes; their counters cost as much as some thousand rows.
constexpr int kNarrow = 8, kWide = 11;
constexpr std::size_t kMany = 4096;
// Below this many rows a comparison sort is faster than clearing the radix sort's counters.
constexpr std::size_t kSmall = 256;

template <int kBits>
void radix_sort(std::vector<std::uint32_t>& rows, std::vector<std::uint32_t>& other, std::uint32_t largest) {
  constexpr int kPasses = (kRowBits + kBits - 1) / kBits;
  constexpr std::uint32_t kDigits = 1u << kBits;
  other.resize(rows.size());
  int passes = 1;
  while (passes < kPasses && (largest >> (passes * kBits)) != 0) ++passes;
  std::uint32_t counts[kPasses][kDigits];
  std::memset(counts, 0, sizeof(counts[0]) * static_cast<std::size_t>(passes));
  for (const std::uint32_t row : rows) {
    for (int pass = 0; pass < passes; ++pass) ++counts[pass][(row >> (pass * kBits)) & (kDigits - 1)];
  }
  for (int pass = 0; pass < passes; ++pass) {
    std::uint32_t start = 0;
    for (std::uint32_t& count : counts[pass]) start += std::exchange(count, start);
    const int shift = pass * kBits;
    const std::uint32_t* source = rows.data();
    std::uint32_t* target = other.data();
    for (std::size_t i = 0; i < rows.size(); ++i)
      target[counts[pass][(source[i] >> shift) & (kDigits - 1)]++] = source[i];
    rows.swap(other);
  }
}

}  // namespace

std::int64_t gather_rows(const std::int64_t* candidates, std::int64_t width, std::int64_t store_rows,
                         const std::uint8_t* allowed, Scratch& scratch) {
  std::vector<std::uint32_t>& rows = scratch.rows;
  rows.resize(static_cast<std::size_t>(width));
  std::size_t kept = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t row = candidates[i];
    if (row < 0) continue;
    if (row >= store_rows) return row;
    const bool take = allowed == nullptr || ((allowed[row >> 3] >> (row & 7)) & 1) != 0;
    rows[kept] = static_cast<std::uint32_t>(row);
    kept += take ? 1 : 0;
  }
  rows.resize(kept);
  if (kept < kSmall) {
    std::sort(rows.begin(), rows.end());
  } else {
    const auto largest = static_cast<std::uint32_t>(store_rows - 1);
    if (kept < kMany) {
      radix_sort<kNarrow>(rows, scratch.rows_next, largest);
    } else {
      radix_sort<kWide>(rows, scratch.rows_next, largest);
    }
  }
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return -1;
}

std::int64_t gather_scored(const std::int64_t* candidates, const float* similarity, std::int64_t width,
                           std::int64_t store_rows, Scratch& scratch) {
  std::vector<std::uint64_t>& keys = scratch.keys;  // row, then place
  keys.clear();
  for (std::int64_t i = 0; i < width; ++i) {
    if (candidates[i] < 0) continue;
    if (candidates[i] >= store_rows) return candidates[i];
    keys.push_back((static_cast<std::uint64_t>(candidates[i]) << 32) | static_cast<std::uint32_t>(i));
  }
  std::sort(keys.begin(), keys.end());
  scratch.rows.clear();
  scratch.similarity.clear();
  for (const std::uint64_t key : keys) {
    const auto row = static_cast<std::uint32_t>(key >> 32);
    if (!scratch.rows.empty() && scratch.rows.back() == row) continue;
    scratch.rows.push_back(row);
    scratch.similarity.push_back(similarity[key & 0xffffffffu]);
  }
  return -1;
}

}  // namespace attributary::rescore
