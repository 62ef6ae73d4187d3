// Random re-scoring problems, and a way to have them answered.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "rescore/rescore.h"

namespace attributary::tests {

using namespace rescore;

// Halves of the form +-(1 + m / 1024) * 2^(e - 15), and their values.
inline double half_value(std::uint16_t half) {
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

inline Problem make_problem(std::int64_t rows, std::int64_t dim, std::int64_t count, std::int64_t width,
                            std::uint32_t seed) {
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

inline Answer run(const Problem& p, const std::uint16_t* vectors, Isa isa, std::int64_t top_k,
                  std::int64_t top_creators, int threads = 1) {
  const auto q = static_cast<std::size_t>(p.count), k = static_cast<std::size_t>(top_k);
  const auto c = static_cast<std::size_t>(top_creators);
  Answer a{std::vector<std::int64_t>(q * k, -1),
           std::vector<float>(q * k),
           std::vector<float>(q * k),
           std::vector<float>(q, 1.0f),
           std::vector<float>(q * c),
           std::vector<std::int32_t>(q * c, -1),
           std::vector<std::int32_t>(q * c),
           {}};
  Store store;
  store.vectors = vectors;
  store.rows = p.rows;
  store.dim = p.dim;
  store.creators = p.creators.data();
  store.groups = p.groups.data();
  const Batch batch{p.queries.data(),   p.candidates.data(), p.count, p.width, p.temperature.data(),
                    p.threshold.data(), p.background.data(), nullptr};
  const Result result{a.rows.data(),     a.similarity.data(),    a.share.data(),         a.diffuse.data(),
                      a.creators.data(), a.creator_share.data(), a.creator_items.data(), top_k,
                      top_creators};
  a.fault = attributary::rescore::rescore(store, batch, result, isa, threads);
  return a;
}

}  // namespace attributary::tests
