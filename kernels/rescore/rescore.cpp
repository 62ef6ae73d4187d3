#include "rescore/rescore.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "common/parallel.h"
#include "rescore/candidates.h"
#include "rescore/dot.h"
#include "rescore/shares.h"

namespace attributary::rescore {
namespace {

// Orders by descending similarity, then by ascending place (places ascend with rows).
inline std::uint64_t order_key(float similarity, std::uint32_t place) {
  std::uint32_t bits;
  std::memcpy(&bits, &similarity, sizeof(bits));
  const std::uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return (static_cast<std::uint64_t>(~ascending) << 32) | place;
}

// Leaves the smallest `top` keys, sorted, in scratch.keys.
void select_top(Scratch& scratch, std::size_t top) {
  const std::size_t count = scratch.similarity.size();
  std::vector<std::uint64_t>& keys = scratch.keys;
  keys.clear();
  if (top == 0) return;
  if (top < count / 8) {
    // Few are wanted: a bounded heap whose worst member turns most candidates away with one comparison.
    for (std::size_t i = 0; i < top; ++i)
      keys.push_back(order_key(scratch.similarity[i], static_cast<std::uint32_t>(i)));
    std::make_heap(keys.begin(), keys.end());
    float worst = scratch.similarity[keys.front() & 0xffffffffu];
    for (std::size_t i = top; i < count; ++i) {
      if (!(scratch.similarity[i] > worst)) continue;  // a tie loses to the lower row already inside
      std::pop_heap(keys.begin(), keys.end());
      keys.back() = order_key(scratch.similarity[i], static_cast<std::uint32_t>(i));
      std::push_heap(keys.begin(), keys.end());
      worst = scratch.similarity[keys.front() & 0xffffffffu];
    }
  } else {
    for (std::size_t i = 0; i < count; ++i)
      keys.push_back(order_key(scratch.similarity[i], static_cast<std::uint32_t>(i)));
    if (top < count) {
      std::nth_element(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(top), keys.end());
      keys.resize(top);
    }
  }
  std::sort(keys.begin(), keys.end());
}

// Answers query `q`; returns the row at fault and its kind.
Fault rescore_one(const Store& store, const Batch& batch, const Result& result, DotRows dot, std::int64_t q) {
  static thread_local Scratch scratch;
  const std::int64_t stray =
      gather_rows(batch.candidates + q * batch.width, batch.width, store.rows, batch.allowed, scratch);
  if (stray >= 0) return {FaultKind::kOutOfRange, q, stray};

  const auto count = static_cast<std::int64_t>(scratch.rows.size());
  scratch.similarity.resize(scratch.rows.size());
  dot(store, batch.queries + q * store.dim, scratch.rows.data(), count, scratch.similarity.data());
  for (std::int64_t i = 0; i < count; ++i) {
    float& similarity = scratch.similarity[static_cast<std::size_t>(i)];
    similarity += 0.0f;  // -0 ties with 0
    if (!std::isfinite(similarity))
      return {FaultKind::kNotFinite, q, scratch.rows[static_cast<std::size_t>(i)]};
  }

  result.diffuse[q] =
      compute_shares(store, {batch.temperature[q], batch.threshold[q], batch.background[q]}, scratch);
  const std::int64_t kept = std::min(result.top_k, count);
  select_top(scratch, static_cast<std::size_t>(kept));
  for (std::int64_t i = 0; i < kept; ++i) {
    const auto place = static_cast<std::size_t>(scratch.keys[static_cast<std::size_t>(i)] & 0xffffffffu);
    result.rows[q * result.top_k + i] = scratch.rows[place];
    result.similarity[q * result.top_k + i] = scratch.similarity[place];
    result.share[q * result.top_k + i] = scratch.share[place];
  }
  total_creators(scratch, result.top_creators, result.creators + q * result.top_creators,
                 result.creator_share + q * result.top_creators,
                 result.creator_items + q * result.top_creators);
  return {};
}

}  // namespace

Fault rescore(const Store& store, const Batch& batch, const Result& result, Isa isa, int threads) {
  const DotRows dot = select_dot(store.type, isa);
  Fault first;
  std::mutex first_mutex;
  parallel_for(batch.count, threads, [&](std::int64_t q) {
    const Fault fault = rescore_one(store, batch, result, dot, q);
    if (fault.kind == FaultKind::kNone) return;
    const std::lock_guard<std::mutex> lock(first_mutex);
    if (first.kind == FaultKind::kNone || fault.query < first.query) first = fault;
  });
  return first;
}

}  // namespace attributary::rescore
