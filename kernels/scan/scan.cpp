#include "scan/scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "common/parallel.h"
#include "scan/sums.h"

namespace attributary::scan {
namespace {

constexpr std::int64_t kChunk = 32;   // queries that visit a list together, while it is in the cache
constexpr std::int64_t kRows = 1024;  // rows of a list whose sums are at hand

// A float's bits in an order of whole numbers that is the order of floats.
inline std::uint32_t ordered(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

// The best rows met so far. A key is a similarity, then the row, the lower first.
class Best {
 public:
  explicit Best(std::int64_t wanted) : wanted_(static_cast<std::size_t>(wanted)) {
    keys_.reserve(2 * wanted_ + kRows);
  }

  float threshold() const { return threshold_; }
  void add(float similarity, std::int64_t row) {
    keys_.push_back(std::uint64_t{ordered(similarity)} << 32 | static_cast<std::uint32_t>(~row));
  }
  // To be called after at most kRows additions.
  void tidy() {
    if (keys_.size() >= 2 * wanted_) cut();
  }
  void write(std::int64_t* found) {
    if (keys_.size() > wanted_) cut();
    std::sort(keys_.begin(), keys_.end(), std::greater<>());
    for (const std::uint64_t key : keys_) *found++ = static_cast<std::uint32_t>(~key);
    std::fill_n(found, wanted_ - keys_.size(), -1);
  }

 private:
  void cut() {
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(wanted_ - 1);
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    const auto bits = static_cast<std::uint32_t>(*last >> 32);
    const std::uint32_t plain = bits ^ (bits >> 31 ? 0x80000000u : 0xffffffffu);
    std::memcpy(&threshold_, &plain, sizeof(threshold_));
    keys_.resize(wanted_);
  }

  std::size_t wanted_;
  float threshold_ = -std::numeric_limits<float>::infinity();
  std::vector<std::uint64_t> keys_;
};

// One query's weights in whole numbers; a similarity is base + unit * sum.
struct Query {
  std::vector<std::int16_t> whole;
  std::vector<std::int8_t> high, low;
  float unit = 0;
  Best best;

  Query(const float* weights, std::int64_t dim, std::int64_t wanted) : best(wanted) {
    const auto size = static_cast<std::size_t>(dim);
    whole.resize(size), high.resize(size), low.resize(size);
    float most = 0;
    for (std::size_t d = 0; d < size; ++d) most = std::max(most, std::abs(weights[d]));
    unit = most / kMostWeight;
    // What is too small to be divided by is nothing.
    const float per = unit >= std::numeric_limits<float>::min() ? 1 / unit : 0;
    for (std::size_t d = 0; d < size; ++d) {
      const int value = static_cast<int>(std::lrint(weights[d] * per));
      const int lower = static_cast<std::int8_t>(value & 0xff);
      whole[d] = static_cast<std::int16_t>(value);
      low[d] = static_cast<std::int8_t>(lower);
      high[d] = static_cast<std::int8_t>((value - lower) / 256);
    }
  }
};

bool passes(const Batch& batch, std::int64_t row) {
  return batch.allowed == nullptr ||
         (row < batch.allowed_rows && (batch.allowed[row >> 3] >> (row & 7) & 1) != 0);
}

void visit(const Lists& lists, const Batch& batch, std::int64_t list, float base, SumRows sum_rows,
           Query& query) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(lists.codes[list]);
  const auto* rows = reinterpret_cast<const std::int64_t*>(lists.rows[list]);
  const Weights weights{query.whole.data(), query.high.data(), query.low.data()};
  float sums[kRows];
  for (std::int64_t start = 0; start < lists.sizes[list]; start += kRows) {
    const std::int64_t here = std::min(kRows, lists.sizes[list] - start);
    sum_rows(codes + start * lists.dim, here, lists.dim, weights, sums);
    // Few are better than what is there: they are told by counting, since a branch would be guessed wrong.
    const float threshold = query.best.threshold();
    std::int32_t better[kRows];
    std::int64_t met = 0;
    for (std::int64_t i = 0; i < here; ++i) sums[i] = base + query.unit * sums[i];
    for (std::int64_t i = 0; i < here; ++i) {
      better[met] = static_cast<std::int32_t>(i);
      met += sums[i] >= threshold;
    }
    for (std::int64_t m = 0; m < met; ++m) {
      const std::int64_t row = rows[start + better[m]];
      if (passes(batch, row)) query.best.add(sums[better[m]], row);
    }
    query.best.tidy();
  }
}

// Queries first to last, list by list, so that a list is read from memory once.
void scan_some(const Lists& lists, const Batch& batch, std::int64_t first, std::int64_t last,
               std::int64_t wanted, SumRows sum_rows, std::int64_t* found) {
  std::vector<Query> queries;
  queries.reserve(static_cast<std::size_t>(last - first));
  for (std::int64_t q = first; q < last; ++q)
    queries.emplace_back(batch.weights + q * lists.dim, lists.dim, wanted);
  // A query's nearest list first where it is alone: what is found there keeps the most of the rest out.
  std::vector<std::int64_t> visits(static_cast<std::size_t>((last - first) * batch.probes));
  std::iota(visits.begin(), visits.end(), first * batch.probes);
  if (last - first > 1) {
    std::sort(visits.begin(), visits.end(), [&](std::int64_t a, std::int64_t b) {
      return batch.lists[a] != batch.lists[b] ? batch.lists[a] < batch.lists[b] : a < b;
    });
  }
  for (const std::int64_t at : visits) {
    const std::int64_t list = batch.lists[at];
    if (list < 0) continue;
    visit(lists, batch, list, batch.base[at], sum_rows,
          queries[static_cast<std::size_t>(at / batch.probes - first)]);
  }
  for (std::int64_t q = first; q < last; ++q)
    queries[static_cast<std::size_t>(q - first)].best.write(found + q * wanted);
}

}  // namespace

void scan(const Lists& lists, const Batch& batch, std::int64_t wanted, std::int64_t* found, Isa isa,
          int threads) {
  if (wanted == 0 || batch.count == 0) return;
  const SumRows sum_rows = select_sums(isa);
  const std::int64_t chunks = (batch.count + kChunk - 1) / kChunk;
  parallel_for(chunks, threads, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kChunk;
    scan_some(lists, batch, first, std::min(first + kChunk, batch.count), wanted, sum_rows, found);
  });
}

}  // namespace attributary::scan
