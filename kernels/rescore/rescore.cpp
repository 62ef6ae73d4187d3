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

// Candidates of query `q` and their similarities, by ascending row; returns the row at fault and its kind.
Fault gather(const Store& store, const Batch& batch, DotRows dot, std::int64_t q, const std::uint8_t* allowed,
             Scratch& scratch) {
  const std::int64_t* candidates = batch.candidates + q * batch.width;
  if (batch.similarity != nullptr) {
    const std::int64_t stray =
        gather_scored(candidates, batch.similarity + q * batch.width, batch.width, store.rows, scratch);
    if (stray >= 0) return {FaultKind::kOutOfRange, q, stray};
  } else {
    const std::int64_t stray = gather_rows(candidates, batch.width, store.rows, allowed, scratch);
    if (stray >= 0) return {FaultKind::kOutOfRange, q, stray};
    scratch.similarity.resize(scratch.rows.size());
    dot(store, batch.queries + q * store.dim, scratch.rows.data(),
        static_cast<std::int64_t>(scratch.rows.size()), scratch.similarity.data());
  }
  for (std::size_t i = 0; i < scratch.rows.size(); ++i) {
    scratch.similarity[i] += 0.0f;  // -0 ties with 0
    if (!std::isfinite(scratch.similarity[i])) return {FaultKind::kNotFinite, q, scratch.rows[i]};
  }
  return {};
}

// Selects the top-k of what is gathered and writes it; shares too where the result has room for them.
void write_top(const Result& result, std::int64_t q, Scratch& scratch) {
  const std::int64_t kept = std::min(result.top_k, static_cast<std::int64_t>(scratch.rows.size()));
  select_top(scratch, static_cast<std::size_t>(kept));
  for (std::int64_t i = 0; i < kept; ++i) {
    const auto place = static_cast<std::size_t>(scratch.keys[static_cast<std::size_t>(i)] & 0xffffffffu);
    result.rows[q * result.top_k + i] = scratch.rows[place];
    result.similarity[q * result.top_k + i] = scratch.similarity[place];
    if (result.share != nullptr) result.share[q * result.top_k + i] = scratch.share[place];
  }
}

Fault rescore_one(const Store& store, const Batch& batch, const Result& result, DotRows dot, std::int64_t q) {
  static thread_local Scratch scratch;
  const Fault fault = gather(store, batch, dot, q, nullptr, scratch);
  if (fault.kind != FaultKind::kNone) return fault;
  if (!scratch.similarity.empty()) {
    result.peak[q] = *std::max_element(scratch.similarity.begin(), scratch.similarity.end());
  }
  result.diffuse[q] = compute_shares(store, batch.calibration[q], result.peak[q], scratch);
  if (batch.visible != nullptr) result.withheld[q] = withhold(batch.visible, scratch);
  write_top(result, q, scratch);
  total_creators(scratch, result.top_creators, result.creators + q * result.top_creators,
                 result.creator_share + q * result.top_creators,
                 result.creator_items + q * result.top_creators);
  return {};
}

Fault rank_one(const Store& store, const Batch& batch, const Result& result, DotRows dot, std::int64_t q) {
  static thread_local Scratch scratch;
  const Fault fault = gather(store, batch, dot, q, batch.visible, scratch);
  if (fault.kind == FaultKind::kNone) write_top(result, q, scratch);
  return fault;
}

using One = Fault (*)(const Store&, const Batch&, const Result&, DotRows, std::int64_t);

Fault run(One one, const Store& store, const Batch& batch, const Result& result, Isa isa, int threads) {
  const DotRows dot = select_dot(store.type, isa);
  Fault first;
  std::mutex first_mutex;
  parallel_for(batch.count, threads, [&](std::int64_t q) {
    const Fault fault = one(store, batch, result, dot, q);
    if (fault.kind == FaultKind::kNone) return;
    const std::lock_guard<std::mutex> lock(first_mutex);
    if (first.kind == FaultKind::kNone || fault.query < first.query) first = fault;
  });
  return first;
}

}  // namespace

Fault rescore(const Store& store, const Batch& batch, const Result& result, Isa isa, int threads) {
  return run(rescore_one, store, batch, result, isa, threads);
}

Fault rank(const Store& store, const Batch& batch, const Result& result, Isa isa, int threads) {
  Result top = result;
  top.share = nullptr;
  return run(rank_one, store, batch, top, isa, threads);
}

}  // namespace attributary::rescore
