#include "scan/scan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "scan/sums.h"
#include "tests/guarded.h"

using namespace attributary;
using namespace attributary::scan;
using attributary::tests::Guarded;

namespace {

std::vector<Isa> levels() {
  std::vector<Isa> found{Isa::kPortable};
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= best_isa()) found.push_back(isa);
  }
  return found;
}

// Lists between pages that may not be touched, and queries that probe some of them.
struct Problem {
  std::int64_t dim, queries, probes;
  std::vector<std::unique_ptr<Guarded>> codes;
  std::vector<std::vector<std::int64_t>> rows;
  std::vector<std::uint64_t> code_at, row_at;
  std::vector<std::int64_t> sizes, lists;
  std::vector<float> weights, base;

  Problem(std::int64_t dim_, std::vector<std::int64_t> sizes_, std::int64_t queries_, std::int64_t probes_,
          bool at_end, unsigned seed)
      : dim(dim_), queries(queries_), probes(probes_), sizes(std::move(sizes_)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::int64_t next = 0;
    for (const std::int64_t size : sizes) {
      codes.push_back(std::make_unique<Guarded>(static_cast<std::size_t>(size * dim), at_end));
      for (std::int64_t i = 0; i < size * dim; ++i)
        codes.back()->data()[i] = static_cast<std::uint8_t>(random() % 256);
      rows.emplace_back();
      for (std::int64_t i = 0; i < size; ++i) rows.back().push_back(next++);
      code_at.push_back(reinterpret_cast<std::uint64_t>(codes.back()->data()));
      row_at.push_back(reinterpret_cast<std::uint64_t>(rows.back().data()));
    }
    for (std::int64_t i = 0; i < queries * dim; ++i) weights.push_back(normal(random));
    for (std::int64_t q = 0; q < queries; ++q) {
      std::vector<std::int64_t> order(sizes.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
      std::shuffle(order.begin(), order.end(), random);
      lists.insert(lists.end(), order.begin(), order.begin() + probes);
      for (std::int64_t p = 0; p < probes; ++p) base.push_back(100 * normal(random));
    }
  }

  Lists view() const {
    return {code_at.data(), row_at.data(), sizes.data(), static_cast<std::int64_t>(sizes.size()), dim};
  }
  Batch batch(std::int64_t first, std::int64_t count) const {
    return {weights.data() + first * dim,
            lists.data() + first * probes,
            base.data() + first * probes,
            count,
            probes,
            nullptr,
            0};
  }
  // In double precision.
  double similarity(std::int64_t q, std::int64_t row) const {
    for (std::int64_t p = 0; p < probes; ++p) {
      const auto list = static_cast<std::size_t>(lists[static_cast<std::size_t>(q * probes + p)]);
      if (rows[list].empty() || row < rows[list].front() || row > rows[list].back()) continue;
      double sum = base[static_cast<std::size_t>(q * probes + p)];
      for (std::int64_t d = 0; d < dim; ++d)
        sum += double{weights[static_cast<std::size_t>(q * dim + d)]} *
               codes[list]->data()[(row - rows[list].front()) * dim + d];
      return sum;
    }
    return -1e300;
  }
};

std::vector<std::int64_t> run(const Problem& p, const Batch& batch, std::int64_t wanted, Isa isa,
                              int threads = 1) {
  std::vector<std::int64_t> found(static_cast<std::size_t>(batch.count * wanted), -7);
  scan::scan(p.view(), batch, wanted, found.data(), isa, threads);
  return found;
}

}  // namespace

TEST_CASE("the best rows of the probed lists, best first, within what 16 bits of a weight can tell") {
  for (const Isa isa : levels()) {
    for (const std::int64_t dim : {1, 7, 16, 31, 64, 65, 100, 256, 384, 2048}) {
      for (const bool at_end : {false, true}) {
        const Problem p(dim, {5, 0, 1, 9, 1030, 2, 3}, 3, 5, at_end, static_cast<unsigned>(dim));
        for (const std::int64_t wanted : {1, 4, 50, 3000}) {
          const auto found = run(p, p.batch(0, 3), wanted, isa);
          // Half a unit of a weight, times the largest code, times the dimensions.
          for (std::int64_t q = 0; q < 3; ++q) {
            float most = 0;
            for (std::int64_t d = 0; d < dim; ++d)
              most = std::max(most, std::abs(p.weights[static_cast<std::size_t>(q * dim + d)]));
            const double slack = 255.0 * dim * (most / kMostWeight) + 1e-5 * (255.0 * dim * most + 300);
            std::vector<double> all;
            for (std::int64_t row = 0; row < 1050; ++row) {
              const double s = p.similarity(q, row);
              if (s > -1e299) all.push_back(s);
            }
            std::sort(all.rbegin(), all.rend());
            for (std::int64_t i = 0; i < wanted; ++i) {
              const std::int64_t row = found[static_cast<std::size_t>(q * wanted + i)];
              if (i >= static_cast<std::int64_t>(all.size())) {
                CHECK(row == -1);
              } else {
                CHECK(std::abs(p.similarity(q, row) - all[static_cast<std::size_t>(i)]) <= slack);
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a query finds the same alone, in a batch, and on several threads") {
  const Problem p(48, std::vector<std::int64_t>(40, 60), 70, 12, true, 3);
  for (const Isa isa : levels()) {
    const auto together = run(p, p.batch(0, 70), 25, isa);
    CHECK(together == run(p, p.batch(0, 70), 25, isa, 4));
    for (std::int64_t q = 0; q < 70; ++q) {
      const auto alone = run(p, p.batch(q, 1), 25, isa);
      CHECK(std::equal(alone.begin(), alone.end(), together.begin() + q * 25));
    }
  }
}

TEST_CASE("equal similarities come by ascending row") {
  Problem p(8, {50, 50}, 1, 2, false, 4);
  for (auto& codes : p.codes) std::memset(codes->data(), 9, 400);
  p.base.assign(2, 0.5f);
  for (const Isa isa : levels()) {
    const auto found = run(p, p.batch(0, 1), 60, isa);
    for (std::int64_t i = 0; i < 60; ++i) CHECK(found[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("only what is allowed is met, and nothing in lists that are none") {
  Problem p(16, {40, 40}, 1, 2, true, 5);
  std::vector<std::uint8_t> allowed(8, 0x55);  // even rows below 64
  for (const Isa isa : levels()) {
    Batch batch = p.batch(0, 1);
    batch.allowed = allowed.data();
    batch.allowed_rows = 64;
    const auto found = run(p, batch, 80, isa);
    CHECK(std::count(found.begin(), found.end(), -1) == 80 - 32);
    for (const std::int64_t row : found) CHECK((row == -1 || (row < 64 && row % 2 == 0)));
    p.lists[1] = -1;
    CHECK(run(p, p.batch(0, 1), 80, isa)[40] == -1);
    p.lists[1] = 1 - p.lists[0];
  }
}

TEST_CASE("weights of nothing, and those too small to be divided by, leave the base") {
  Problem p(16, {4, 4}, 1, 2, true, 6);
  p.base = {1.0f, 2.0f};
  for (const float weight : {0.0f, 1e-42f}) {
    p.weights.assign(16, weight);
    for (const Isa isa : levels()) {
      const auto found = run(p, p.batch(0, 1), 8, isa);
      const std::int64_t first = p.rows[static_cast<std::size_t>(p.lists[1])].front();
      for (std::int64_t i = 0; i < 4; ++i) CHECK(found[static_cast<std::size_t>(i)] == first + i);
    }
  }
}
