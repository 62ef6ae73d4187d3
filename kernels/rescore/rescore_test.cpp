#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "rescore/dot.h"
#include "rescore/rescore.h"
#include "rescore/shares.h"
#include "tests/guarded.h"

using namespace attributary;
using namespace attributary::rescore;
using attributary::tests::Guarded;

namespace {

// Halves of the form +-(1 + m / 1024) * 2^(e - 15), and their values.
double half_value(std::uint16_t half) {
  const double value = std::ldexp(1.0 + (half & 0x3ff) / 1024.0, ((half >> 10) & 31) - 15);
  return (half & 0x8000) != 0 ? -value : value;
}

struct Problem {
  std::int64_t rows, dim, count, width;
  std::vector<std::uint16_t> vectors;
  std::vector<std::int32_t> creators, groups;
  std::vector<float> queries, temperature, threshold, background;
  std::vector<std::int64_t> candidates;
};

Problem make_problem(std::int64_t rows, std::int64_t dim, std::int64_t count, std::int64_t width, std::uint32_t seed) {
  std::mt19937 random(seed);
  Problem p{rows, dim, count, width, {}, {}, {}, {}, {}, {}, {}, {}};
  for (std::int64_t i = 0; i < rows * dim; ++i) {
    p.vectors.push_back(static_cast<std::uint16_t>((random() & 0x83ff) | ((8 + random() % 5) << 10)));
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    p.creators.push_back(static_cast<std::int32_t>(random() % 9) - 3);
    p.groups.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(rows)));
  }
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < count * dim; ++i) p.queries.push_back(normal(random));
  for (std::int64_t i = 0; i < count * width; ++i) {
    p.candidates.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(rows + 1)) - 1);
  }
  p.temperature.assign(static_cast<std::size_t>(count), 0.5f);
  p.threshold.assign(static_cast<std::size_t>(count), 0.02f);
  p.background.assign(static_cast<std::size_t>(count), 0.1f);
  return p;
}

struct Answer {
  std::vector<std::int64_t> rows;
  std::vector<float> similarity, share, diffuse, creator_share;
  std::vector<std::int32_t> creators, creator_items;
  Fault fault;
};

Answer run(const Problem& p, const std::uint16_t* vectors, Isa isa, std::int64_t top_k, std::int64_t top_creators,
           int threads = 1) {
  const auto q = static_cast<std::size_t>(p.count), k = static_cast<std::size_t>(top_k);
  const auto c = static_cast<std::size_t>(top_creators);
  Answer a{std::vector<std::int64_t>(q * k, -1), std::vector<float>(q * k), std::vector<float>(q * k),
           std::vector<float>(q, 1.0f), std::vector<float>(q * c), std::vector<std::int32_t>(q * c, -1),
           std::vector<std::int32_t>(q * c), {}};
  Store store;
  store.vectors = vectors;
  store.rows = p.rows;
  store.dim = p.dim;
  store.creators = p.creators.data();
  store.groups = p.groups.data();
  const Batch batch{p.queries.data(), p.candidates.data(), p.count, p.width, p.temperature.data(),
                    p.threshold.data(), p.background.data(), nullptr};
  const Result result{a.rows.data(), a.similarity.data(), a.share.data(), a.diffuse.data(), a.creators.data(),
                      a.creator_share.data(), a.creator_items.data(), top_k, top_creators};
  a.fault = attributary::rescore::rescore(store, batch, result, isa, threads);
  return a;
}

}  // namespace

TEST_CASE("every instruction set equals a plain evaluation of the formula, and touches no byte outside") {
  for (const std::int64_t dim : {1, 7, 16, 31, 32, 33, 77, 128}) {
    const Problem p = make_problem(61, dim, 2, 150, static_cast<std::uint32_t>(dim));
    const Guarded store(p.vectors.size() * 2, true);
    std::memcpy(store.data(), p.vectors.data(), p.vectors.size() * 2);
    for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
      const Answer answer = run(p, store.as<std::uint16_t>(), static_cast<Isa>(level), 61, 9);
      REQUIRE(answer.fault.kind == FaultKind::kNone);
      for (std::int64_t q = 0; q < p.count; ++q) {
        std::set<std::int64_t> rows(p.candidates.begin() + q * p.width, p.candidates.begin() + (q + 1) * p.width);
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
        CHECK(answer.diffuse[static_cast<std::size_t>(q)] == doctest::Approx(null_weight / norm).epsilon(1e-4));
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
