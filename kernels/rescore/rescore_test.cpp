#include "rescore/rescore.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "rescore/dot.h"
#include "rescore/shares.h"
#include "tests/guarded.h"
#include "tests/rescore_problem.h"

using namespace attributary;
using namespace attributary::rescore;
using namespace attributary::tests;

TEST_CASE("every instruction set equals a plain evaluation of the formula, and touches no byte outside") {
  for (const std::int64_t dim : {1, 7, 16, 31, 32, 33, 77, 128}) {
    const Problem p = make_problem(61, dim, 2, 150, static_cast<std::uint32_t>(dim));
    const Guarded store(p.vectors.size() * 2, true);
    std::memcpy(store.data(), p.vectors.data(), p.vectors.size() * 2);
    for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
      const Answer answer = run(p, store.as<std::uint16_t>(), static_cast<Isa>(level), 61, 9);
      REQUIRE(answer.fault.kind == FaultKind::kNone);
      for (std::int64_t q = 0; q < p.count; ++q) {
        std::set<std::int64_t> rows(p.candidates.begin() + q * p.width,
                                    p.candidates.begin() + (q + 1) * p.width);
        rows.erase(-1);
        std::map<std::int64_t, double> similarity;
        double peak = 0.1;
        for (const std::int64_t row : rows) {
          double sum = 0;
          for (std::int64_t d = 0; d < dim; ++d) {
            sum += half_value(p.vectors[static_cast<std::size_t>(row * dim + d)]) *
                   p.queries[static_cast<std::size_t>(q * dim + d)];
          }
          similarity[row] = sum;
          peak = std::max(peak, sum);
        }
        std::map<std::int32_t, double> best, total;
        std::map<std::int64_t, double> weight;
        for (const std::int64_t row : rows) {
          const double w = std::max(std::exp((similarity[row] - peak) / 0.5) - 0.02, 0.0);
          const std::int32_t group = p.groups[static_cast<std::size_t>(row)];
          weight[row] = w;
          best[group] = std::max(best[group], w);
          total[group] += w;
        }
        double norm = std::exp((0.1 - peak) / 0.5);
        CHECK(answer.diffuse[static_cast<std::size_t>(q)] > 0);
        const double null_weight = norm;
        for (const auto& [group, w] : best) norm += w;
        CHECK(answer.diffuse[static_cast<std::size_t>(q)] ==
              doctest::Approx(null_weight / norm).epsilon(1e-4));
        std::map<std::int32_t, double> creators;
        for (std::int64_t i = 0; i < 61; ++i) {
          const auto at = static_cast<std::size_t>(q * 61 + i);
          const std::int64_t row = answer.rows[at];
          if (i >= static_cast<std::int64_t>(rows.size())) {
            CHECK(row == -1);
            continue;
          }
          REQUIRE(rows.count(row) == 1);
          if (i > 0) CHECK(answer.similarity[at - 1] >= answer.similarity[at]);
          const std::int32_t group = p.groups[static_cast<std::size_t>(row)];
          const double share = weight[row] == 0 ? 0 : weight[row] / total[group] * best[group] / norm;
          creators[p.creators[static_cast<std::size_t>(row)]] += share;
          CHECK(answer.similarity[at] == doctest::Approx(similarity[row]).epsilon(1e-4));
          CHECK(std::abs(answer.share[at] - share) < 1e-4);
        }
        for (std::size_t c = 0; c < 9; ++c) {
          const std::size_t at = static_cast<std::size_t>(q) * 9 + c;
          if (answer.creator_items[at] == 0) continue;
          CHECK(std::abs(answer.creator_share[at] - creators[answer.creators[at]]) < 1e-4);
          if (c > 0) CHECK(answer.creator_share[at - 1] >= answer.creator_share[at]);
        }
      }
    }
  }
}

TEST_CASE("an out-of-range candidate is reported for the lowest query, on any number of threads") {
  Problem p = make_problem(40, 16, 12, 20, 1);
  p.candidates[5 * 20 + 3] = 40;
  p.candidates[9 * 20 + 1] = std::int64_t{1} << 62;
  for (const int threads : {1, 4}) {
    const Answer answer = run(p, p.vectors.data(), best_isa(), 5, 5, threads);
    CHECK(answer.fault.kind == FaultKind::kOutOfRange);
    CHECK(answer.fault.query == 5);
    CHECK(answer.fault.row == 40);
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
  }
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
