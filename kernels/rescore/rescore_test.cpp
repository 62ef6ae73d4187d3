#include "rescore/rescore.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "rescore/dot.h"
#include "rescore/shares.h"
#include "tests/guarded.h"
#include "tests/rescore_problem.h"

using namespace attributary;
using namespace attributary::rescore;
using namespace attributary::tests;

namespace {

// What a query must be answered: the formula of attributary.kernels.rescore, written out in double precision.
struct Expected {
  std::map<std::int64_t, double> similarity, share;  // of every candidate
  std::map<std::int32_t, double> creators;           // of visible candidates
  double diffuse = 1, withheld = 0, peak = 0;
};

std::map<std::int64_t, double> similarities(const Problem& p, std::int64_t q) {
  std::map<std::int64_t, double> found;
  for (std::int64_t i = q * p.width; i < (q + 1) * p.width; ++i) {
    const std::int64_t row = p.candidates[static_cast<std::size_t>(i)];
    if (row < 0 || found.count(row) > 0) continue;
    double sum = 0;
    for (std::int64_t d = 0; d < p.dim; ++d) {
      sum += half_value(p.vectors[static_cast<std::size_t>(row * p.dim + d)]) *
             p.queries[static_cast<std::size_t>(q * p.dim + d)];
    }
    found[row] = p.similarity.empty() ? sum : p.similarity[static_cast<std::size_t>(i)];
  }
  return found;
}

Expected expect(const Problem& p, std::int64_t q) {
  const Calibration& c = p.calibration[static_cast<std::size_t>(q)];
  Expected e;
  e.similarity = similarities(p, q);
  for (const auto& [row, s] : e.similarity)
    e.peak = row == e.similarity.begin()->first ? s : std::max(e.peak, s);
  for (const auto& [row, s] : e.similarity) e.share[row] = 0;
  if (e.similarity.empty() || e.peak < c.foreign_below) return e;
  const double highest = std::max<double>(e.peak, c.background);
  std::map<std::int32_t, double> best, total, nearest;
  std::map<std::int64_t, double> weight;
  for (const auto& [row, s] : e.similarity) {
    double& of_group = nearest.emplace(p.groups[static_cast<std::size_t>(row)], s).first->second;
    of_group = std::max(of_group, s);
  }
  std::vector<double> ordered;
  for (const auto& [group, s] : nearest) ordered.push_back(s);
  std::sort(ordered.rbegin(), ordered.rend());
  double cut = c.threshold, faint = 0, beyond = -INFINITY;
  const auto reach = static_cast<std::size_t>(c.reach);
  if (reach > 0 && reach < ordered.size()) {
    beyond = ordered[reach];
    faint = std::exp((beyond - highest) / c.temperature);
    cut = std::max(cut, c.reach_cut * faint);
  }
  for (const auto& [row, s] : e.similarity) {
    weight[row] = s > beyond ? std::max(std::exp((s - highest) / c.temperature) - cut, 0.0) : 0.0;
    const std::int32_t group = p.groups[static_cast<std::size_t>(row)];
    best[group] = std::max(best[group], weight[row]);
    total[group] += weight[row];
  }
  const double null_weight = std::exp((c.background - highest) / c.temperature) + c.reach_null * faint;
  const double whole = c.margin > 0 ? std::clamp((e.peak - c.foreign_below) / c.margin, 0.0, 1.0) : 1.0;
  const double named = (1.0 - c.floor) * whole;
  double norm = null_weight;
  for (const auto& [group, w] : best) norm += w;
  e.diffuse = 1.0 - named + named * null_weight / norm;
  for (const auto& [row, w] : weight) {
    const std::int32_t group = p.groups[static_cast<std::size_t>(row)];
    if (w > 0) e.share[row] = named * w / total[group] * best[group] / norm;
    if (p.sees(row)) {
      e.creators[p.creators[static_cast<std::size_t>(row)]] += e.share[row];
    } else {
      e.withheld += e.share[row];
    }
  }
  return e;
}

void compare(const Problem& p, const Answer& answer, std::int64_t q, std::size_t top_k,
             std::size_t top_creators) {
  const Expected e = expect(p, q);
  const auto near = [](float found, double wanted) { return std::abs(found - wanted) < 1e-4; };
  const auto query = static_cast<std::size_t>(q);
  CHECK(near(answer.diffuse[query], e.diffuse));
  CHECK(near(answer.withheld[query], e.withheld));
  CHECK(near(answer.peak[query], e.peak));
  std::size_t seen = 0;
  for (const auto& [row, s] : e.similarity) seen += p.sees(row) ? 1 : 0;
  for (std::size_t i = 0; i < top_k; ++i) {
    const std::size_t at = query * top_k + i;
    const std::int64_t row = answer.rows[at];
    if (i >= seen) {
      CHECK(row == -1);
      continue;
    }
    REQUIRE(e.similarity.count(row) == 1);
    CHECK(p.sees(row));
    if (i > 0) CHECK(answer.similarity[at - 1] >= answer.similarity[at]);
    CHECK(near(answer.similarity[at], e.similarity.at(row)));
    CHECK(near(answer.share[at], e.share.at(row)));
  }
  for (std::size_t i = 0; i < top_creators; ++i) {
    const std::size_t at = query * top_creators + i;
    if (answer.creator_items[at] == 0) continue;
    CHECK(near(answer.creator_share[at], e.creators.at(answer.creators[at])));
    if (i > 0) CHECK(answer.creator_share[at - 1] >= answer.creator_share[at]);
  }
}

// The same problem eight times: plain, rows hidden, a floor, a query that resembles nothing, similarities
// given, all of it, groups out of reach, and queries just above the flag's threshold with all of it.
std::vector<Problem> variations(std::int64_t dim) {
  const Problem plain = make_problem(61, dim, 2, 150, static_cast<std::uint32_t>(dim));
  std::vector<Problem> all(8, plain);
  hide_some(all[1], 7);
  for (Calibration& c : all[2].calibration) c.floor = 0.25f;
  all[3].calibration[1].foreign_below = 1e6f;
  all[4].similarity = std::vector<float>(all[4].candidates.size());
  std::mt19937 random(3);
  for (float& s : all[4].similarity) s = static_cast<float>(random() % 2000) / 1000 - 1;
  all[5] = all[4];
  hide_some(all[5], 8);
  for (Calibration& c : all[5].calibration) c.floor = 0.5f;
  for (Calibration& c : all[6].calibration) c.reach = 5;
  all[7] = all[5];
  for (Calibration& c : all[7].calibration) {
    c.reach = 12;
    c.reach_cut = 0.7f;
    c.reach_null = 40;
    c.foreign_below = 0.9f;
    c.margin = 0.3f;
  }
  return all;
}

}  // namespace

TEST_CASE("every instruction set equals a plain evaluation of the formula, and touches no byte outside") {
  for (const std::int64_t dim : {1, 7, 16, 31, 32, 33, 77, 128}) {
    for (const Problem& p : variations(dim)) {
      const Guarded store(p.vectors.size() * 2, true);
      std::memcpy(store.data(), p.vectors.data(), p.vectors.size() * 2);
      for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
        const Answer answer = run(p, store.as<std::uint16_t>(), static_cast<Isa>(level), 61, 9);
        REQUIRE(answer.fault.kind == FaultKind::kNone);
        for (std::int64_t q = 0; q < p.count; ++q) compare(p, answer, q, 61, 9);
      }
    }
  }
}

TEST_CASE("hiding rows changes no share: theirs are withheld") {
  Problem p = make_problem(61, 32, 3, 150, 4);
  for (Calibration& c : p.calibration) c.floor = 0.1f;
  const Answer whole = run(p, p.vectors.data(), best_isa(), 61, 9);
  hide_some(p, 5);
  const Answer part = run(p, p.vectors.data(), best_isa(), 61, 9);
  CHECK(part.diffuse == whole.diffuse);
  CHECK(part.peak == whole.peak);
  for (std::size_t q = 0; q < 3; ++q) {
    std::map<std::int64_t, float> before;
    for (std::size_t i = q * 61; i < (q + 1) * 61; ++i) before[whole.rows[i]] = whole.share[i];
    double sum = part.diffuse[q] + part.withheld[q];
    for (std::size_t i = q * 61; i < (q + 1) * 61; ++i) {
      sum += part.share[i];
      if (part.rows[i] >= 0) CHECK(part.share[i] == before.at(part.rows[i]));
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-5));
    CHECK(part.withheld[q] > 0);
  }
  p.visible.assign(p.visible.size(), 0);
  const Answer none = run(p, p.vectors.data(), best_isa(), 61, 9);
  CHECK(none.diffuse == whole.diffuse);
  for (std::size_t q = 0; q < 3; ++q) {
    CHECK(none.rows[q * 61] == -1);
    CHECK(none.creators[q * 9] == -1);
    CHECK(none.withheld[q] + none.diffuse[q] == doctest::Approx(1).epsilon(1e-5));
  }
}

TEST_CASE("a query that resembles nothing gives everything to nobody, and is ranked all the same") {
  Problem p = make_problem(61, 32, 2, 150, 4);
  hide_some(p, 5);
  const Answer before = run(p, p.vectors.data(), best_isa(), 20, 9);
  p.calibration[0].foreign_below = std::nextafter(before.peak[0], INFINITY);
  p.calibration[1].foreign_below = before.peak[1];  // not below itself
  const Answer answer = run(p, p.vectors.data(), best_isa(), 20, 9);
  CHECK(answer.rows == before.rows);
  CHECK(answer.peak == before.peak);
  CHECK(answer.diffuse[0] == 1.0f);
  CHECK(answer.withheld[0] == 0.0f);
  CHECK(answer.creators[0] == -1);
  for (std::size_t i = 0; i < 20; ++i) CHECK(answer.share[i] == 0.0f);
  CHECK(answer.diffuse[1] == before.diffuse[1]);
  CHECK(answer.withheld[1] == before.withheld[1]);
}

TEST_CASE("of a repeated candidate with given similarities the first counts") {
  Problem p = make_problem(8, 16, 1, 5, 4);
  p.candidates = {3, -1, 5, 3, 5};
  p.similarity = {0.5f, 9.0f, 0.25f, 0.9f, -1.0f};
  const Answer answer = run(p, nullptr, best_isa(), 4, 0);
  CHECK(answer.rows == std::vector<std::int64_t>{3, 5, -1, -1});
  CHECK(answer.similarity == std::vector<float>{0.5f, 0.25f, 0, 0});
  CHECK(answer.peak[0] == 0.5f);
}

TEST_CASE("rank gives the visible rows of rescore, and no more is written") {
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    Problem p = make_problem(61, 77, 5, 150, 9);
    hide_some(p, 10);
    const Answer wanted = run(p, p.vectors.data(), static_cast<Isa>(level), 20, 0);
    const Answer answer = run_rank(p, p.vectors.data(), static_cast<Isa>(level), 20, 3);
    CHECK(answer.rows == wanted.rows);
    CHECK(answer.similarity == wanted.similarity);
    for (const float share : answer.share) CHECK(share == 0.0f);
    for (const float diffuse : answer.diffuse) CHECK(diffuse == 1.0f);
  }
}

TEST_CASE("an out-of-range candidate is reported for the lowest query, on any number of threads") {
  Problem p = make_problem(40, 16, 12, 20, 1);
  p.candidates[5 * 20 + 3] = 40;
  p.candidates[9 * 20 + 1] = std::int64_t{1} << 62;
  Problem given = p;
  given.similarity = std::vector<float>(p.candidates.size());
  for (const int threads : {1, 4}) {
    for (const Answer& answer :
         {run(p, p.vectors.data(), best_isa(), 5, 5, threads), run(given, nullptr, best_isa(), 5, 5, threads),
          run_rank(p, p.vectors.data(), best_isa(), 5, threads)}) {
      CHECK(answer.fault.kind == FaultKind::kOutOfRange);
      CHECK(answer.fault.query == 5);
      CHECK(answer.fault.row == 40);
    }
  }
}

TEST_CASE("a damaged vector is a fault, not a share") {
  Problem p = make_problem(40, 16, 1, 40, 2);
  for (std::int64_t i = 0; i < 40; ++i) p.candidates[static_cast<std::size_t>(i)] = i;
  p.vectors[17 * 16 + 3] = 0x7e00;  // NaN
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    const Answer answer = run(p, p.vectors.data(), static_cast<Isa>(level), 5, 5);
    CHECK(answer.fault.kind == FaultKind::kNotFinite);
    CHECK(answer.fault.row == 17);
    CHECK(run_rank(p, p.vectors.data(), static_cast<Isa>(level), 5).fault.kind == FaultKind::kNotFinite);
  }
  p.similarity = std::vector<float>(40, 0.5f);
  p.similarity[3] = INFINITY;
  const Answer given = run(p, nullptr, best_isa(), 5, 5);
  CHECK(given.fault.kind == FaultKind::kNotFinite);
  CHECK(given.fault.row == 3);
}

TEST_CASE("every half converts as the hardware does") {
  Store store;
  store.rows = 65536;
  store.dim = 1;
  std::vector<std::uint16_t> all(65536);
  std::vector<std::uint32_t> rows(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    all[i] = static_cast<std::uint16_t>(i);
    rows[i] = i;
  }
  store.vectors = all.data();
  const float one = 1.0f;
  std::vector<float> plain(65536), fast(65536);
  select_dot(VectorType::kFloat16, Isa::kPortable)(store, &one, rows.data(), 65536, plain.data());
  select_dot(VectorType::kFloat16, best_isa())(store, &one, rows.data(), 65536, fast.data());
  for (std::size_t i = 0; i < 65536; ++i) {
    if (std::isnan(plain[i]) || std::isnan(fast[i])) {
      CHECK(std::isnan(plain[i]) == std::isnan(fast[i]));
    } else {
      CHECK(plain[i] == fast[i]);
    }
  }
}

TEST_CASE("the exponential is close to the library's and vanishes where it must") {
  for (float x = 0.0f; x > -87.0f; x -= 0.00731f) {
    CHECK(exp_nonpositive(x) == doctest::Approx(std::exp(static_cast<double>(x))).epsilon(3e-7));
  }
  CHECK(exp_nonpositive(0.0f) == 1.0f);
  CHECK(exp_nonpositive(-88.0f) == 0.0f);
  CHECK(exp_nonpositive(-INFINITY) == 0.0f);
}
