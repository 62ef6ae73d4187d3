#include "rescore/shares.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace attributary::rescore {
namespace {

constexpr float kSmallestNormal = std::numeric_limits<float>::min();
constexpr std::size_t kAhead = 32;  // items whose codes are fetched ahead of use

inline float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by the polynomial of Cephes' expf; times 2^n through the
// exponent field. Without branches, so that the loop around it becomes vector code.
inline float exp_branchless(float x) {
  constexpr float kLowest = -87.33f;  // about log of the smallest normal float
  const bool vanishes = !(x >= kLowest);
  const float clamped = vanishes ? kLowest : x;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = clamped * 1.44269504f + kShift;
  const float n = shifted - kShift;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const float scale = bits_to_float((bits << 23) + 0x3f800000u);
  return vanishes ? 0.0f : p * scale;
}

// Leaves the places of the `count` most similar candidates in scratch.nearest, best first.
void list_nearest(Scratch& scratch, std::size_t count) {
  std::vector<std::uint32_t>& places = scratch.nearest;
  const float* similarity = scratch.similarity.data();
  const auto nearer = [similarity](std::uint32_t a, std::uint32_t b) {
    return similarity[a] > similarity[b];
  };
  places.resize(scratch.similarity.size());
  for (std::size_t i = 0; i < places.size(); ++i) places[i] = static_cast<std::uint32_t>(i);
  const auto end = places.begin() + static_cast<std::ptrdiff_t>(count);
  if (count < places.size()) std::nth_element(places.begin(), end, places.end(), nearer);
  places.resize(count);
  std::sort(places.begin(), places.end(), nearer);
}

// The similarity of the best member of the first near-duplicate group that is out of reach; minus infinity
// where all are within. Groups are counted and not items, so that copies push nobody out.
float out_of_reach(const Store& store, float reach, Scratch& scratch) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::size_t count = scratch.similarity.size();
  if (!(reach > 0.0f) || static_cast<float>(count) <= reach) return kNone;
  const auto kept = static_cast<std::size_t>(reach);
  for (std::size_t walked = std::min(count, kept + 1 + kept / 4);; walked = std::min(count, walked * 2)) {
    list_nearest(scratch, walked);
    scratch.shared_groups.resize(walked);
    for (std::size_t i = 0; i < walked; ++i) {
      scratch.shared_groups[i] = store.groups[scratch.rows[scratch.nearest[i]]];
    }
    scratch.table.reset(scratch.shared_groups.data(), walked);
    for (std::size_t i = 0; i < walked; ++i) {
      if (scratch.table.number(scratch.shared_groups[i]) == kept) {
        return scratch.similarity[scratch.nearest[i]];
      }
    }
    if (walked == count) return kNone;
  }
}

// The part of an answer that its items may have: 0 where it resembles nothing known, all above the margin.
double certainty(const Calibration& calibration, float peak) {
  if (!(calibration.margin > 0.0f)) return 1.0;
  const double above = static_cast<double>(peak) - calibration.foreign_below;
  return std::clamp(above / calibration.margin, 0.0, 1.0);
}

// The weight of every candidate, into scratch.share; returns that of the first group out of reach, of which
// all lose a part. Those that are no nearer than it are out of reach themselves, equals included.
float weigh(const Store& store, const Calibration& calibration, float peak, Scratch& scratch) {
  const std::size_t count = scratch.rows.size();
  const float beyond = out_of_reach(store, calibration.reach, scratch);
  const float* similarity = scratch.similarity.data();
  float* weight = scratch.share.data();
  const float inverse = 1.0f / calibration.temperature;
  const float faint = exp_branchless((beyond - peak) * inverse);
  const float threshold = std::max(calibration.threshold, calibration.reach_cut * faint);
  for (std::size_t i = 0; i < count; ++i) {
    const float excess = exp_branchless((similarity[i] - peak) * inverse) - threshold;
    weight[i] = excess > 0.0f && similarity[i] > beyond ? excess : 0.0f;
  }
  return faint;
}

// Lists the places with a weight above 0, and what is known of them side by side: one walk over both code
// arrays lets their cache misses overlap.
void list_positive(const Store& store, Scratch& scratch) {
  const std::size_t count = scratch.rows.size();
  scratch.positive.resize(count);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    scratch.positive[kept] = static_cast<std::uint32_t>(i);
    kept += scratch.share[i] > 0.0f ? 1 : 0;
  }
  scratch.positive.resize(kept);
  scratch.weight.resize(kept);
  scratch.groups.resize(kept);
  scratch.creators.resize(kept);
  for (std::size_t p = 0; p < kept; ++p) {
    if (p + kAhead < kept) {
      const std::uint32_t later = scratch.rows[scratch.positive[p + kAhead]];
      __builtin_prefetch(store.groups + later);
      __builtin_prefetch(store.creators + later);
    }
    const std::uint32_t place = scratch.positive[p];
    scratch.weight[p] = scratch.share[place];
    scratch.groups[p] = store.groups[scratch.rows[place]];
    scratch.creators[p] = store.creators[scratch.rows[place]];
  }
}

// Lists in scratch.shared every candidate whose group has another member among the candidates, and a few more
// (hash collisions). Most candidates are alone: a bitmap in the first-level cache clears them in a
// nanosecond.
void list_shared(Scratch& scratch) {
  const std::vector<std::int32_t>& groups = scratch.groups;
  std::size_t words = 16;
  while (words * 64 < groups.size() * 32) words *= 2;
  scratch.seen.assign(words, 0);
  scratch.repeated.assign(words, 0);
  const auto mask = static_cast<std::uint32_t>(words * 64 - 1);
  const auto hash = [mask](std::int32_t group) {
    return ((static_cast<std::uint32_t>(group) * 0x9e3779b1u) >> 7) & mask;
  };
  for (const std::int32_t group : groups) {
    const std::uint32_t at = hash(group);
    const std::uint64_t bit = std::uint64_t{1} << (at & 63);
    scratch.repeated[at >> 6] |= scratch.seen[at >> 6] & bit;
    scratch.seen[at >> 6] |= bit;
  }
  scratch.shared.resize(groups.size());
  std::size_t kept = 0;
  for (std::size_t p = 0; p < groups.size(); ++p) {
    const std::uint32_t at = hash(groups[p]);
    scratch.shared[kept] = static_cast<std::uint32_t>(p);
    kept += (scratch.repeated[at >> 6] >> (at & 63)) & 1;
  }
  scratch.shared.resize(kept);
}

// Scales the weights of every group so that they add up to its best member's: a near-duplicate group counts
// once.
void merge_groups(Scratch& scratch) {
  const std::vector<std::uint32_t>& shared = scratch.shared;
  scratch.shared_groups.resize(shared.size());
  for (std::size_t i = 0; i < shared.size(); ++i) scratch.shared_groups[i] = scratch.groups[shared[i]];
  scratch.table.reset(scratch.shared_groups.data(), shared.size());
  scratch.slot.resize(shared.size());
  scratch.best.clear();
  scratch.total.clear();
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const float weight = scratch.weight[shared[i]];
    const std::uint32_t group = scratch.table.number(scratch.shared_groups[i]);
    if (group == scratch.best.size()) {
      scratch.best.push_back(weight);
      scratch.total.push_back(weight);
    } else {
      scratch.best[group] = std::max(scratch.best[group], weight);
      scratch.total[group] += weight;
    }
    scratch.slot[i] = group;
  }
  for (std::size_t g = 0; g < scratch.best.size(); ++g) scratch.total[g] = scratch.best[g] / scratch.total[g];
  for (std::size_t i = 0; i < shared.size(); ++i) {
    scratch.weight[shared[i]] =
        static_cast<float>(scratch.weight[shared[i]] * scratch.total[scratch.slot[i]]);
  }
}

}  // namespace

float exp_nonpositive(float x) noexcept { return exp_branchless(x); }

float compute_shares(const Store& store, const Calibration& calibration, float peak, Scratch& scratch) {
  scratch.share.assign(scratch.rows.size(), 0.0f);
  scratch.positive.clear();
  scratch.weight.clear();
  scratch.creators.clear();
  if (scratch.rows.empty() || peak < calibration.foreign_below) return 1.0f;
  const float highest = std::max(peak, calibration.background);
  const float faint = weigh(store, calibration, highest, scratch);
  list_positive(store, scratch);
  list_shared(scratch);
  merge_groups(scratch);

  // What lies out of reach is nobody's: as much as so many of its first group weigh.
  const double null_weight =
      std::exp((static_cast<double>(calibration.background) - highest) / calibration.temperature) +
      static_cast<double>(calibration.reach_null) * faint;
  double norm = null_weight;
  for (const float weight : scratch.weight) norm += weight;
  const double named = (1.0 - static_cast<double>(calibration.floor)) * certainty(calibration, peak);
  const double scale = named / norm;
  for (std::size_t p = 0; p < scratch.positive.size(); ++p) {
    const auto share = static_cast<float>(scratch.weight[p] * scale);
    scratch.weight[p] = share >= kSmallestNormal ? share : 0.0f;
    scratch.share[scratch.positive[p]] = scratch.weight[p];
  }
  return static_cast<float>(1.0 - named + null_weight * scale);
}

float withhold(const std::uint8_t* visible, Scratch& scratch) {
  const auto seen = [&](std::size_t place) {
    const std::uint32_t row = scratch.rows[place];
    return ((visible[row >> 3] >> (row & 7)) & 1) != 0;
  };
  double withheld = 0;
  for (std::size_t p = 0; p < scratch.positive.size(); ++p) {
    if (seen(scratch.positive[p])) continue;
    withheld += scratch.weight[p];
    scratch.weight[p] = 0.0f;
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < scratch.rows.size(); ++i) {
    if (!seen(i)) continue;
    scratch.rows[kept] = scratch.rows[i];
    scratch.similarity[kept] = scratch.similarity[i];
    scratch.share[kept++] = scratch.share[i];
  }
  scratch.rows.resize(kept);
  scratch.similarity.resize(kept);
  scratch.share.resize(kept);
  return static_cast<float>(withheld);
}

void total_creators(Scratch& scratch, std::int64_t top, std::int32_t* creators, float* creator_share,
                    std::int32_t* creator_items) {
  if (top == 0) return;
  scratch.table.reset(scratch.creators.data(), scratch.creators.size());
  scratch.total.clear();
  scratch.items.clear();
  for (std::size_t p = 0; p < scratch.weight.size(); ++p) {
    const float share = scratch.weight[p];
    if (share == 0.0f) continue;
    const std::uint32_t creator = scratch.table.number(scratch.creators[p]);
    if (creator == scratch.total.size()) {
      scratch.total.push_back(share);
      scratch.items.push_back(1);
    } else {
      scratch.total[creator] += share;
      ++scratch.items[creator];
    }
  }
  std::vector<std::uint32_t>& order = scratch.order;
  order.resize(scratch.table.size());
  for (std::size_t c = 0; c < order.size(); ++c) order[c] = static_cast<std::uint32_t>(c);
  const auto kept =
      static_cast<std::ptrdiff_t>(std::min<std::int64_t>(top, static_cast<std::int64_t>(order.size())));
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](std::uint32_t a, std::uint32_t b) {
    if (scratch.total[a] != scratch.total[b]) return scratch.total[a] > scratch.total[b];
    return scratch.table.code(a) < scratch.table.code(b);
  });
  for (std::ptrdiff_t c = 0; c < kept; ++c) {
    creators[c] = scratch.table.code(order[static_cast<std::size_t>(c)]);
    creator_share[c] = static_cast<float>(scratch.total[order[static_cast<std::size_t>(c)]]);
    creator_items[c] = scratch.items[order[static_cast<std::size_t>(c)]];
  }
}

}  // namespace attributary::rescore
