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
  std::vector<float> queries;
  std::vector<std::int64_t> candidates;
  std::vector<Calibration> calibration;  // one a query
  std::vector<float> similarity;         // beside candidates, where they are given
  std::vector<std::uint8_t> visible;     // bitmap over the rows; empty: all of them

  bool sees(std::int64_t row) const {
    return visible.empty() || ((visible[static_cast<std::size_t>(row / 8)] >> (row % 8)) & 1) != 0;
  }
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
  Calibration plain;
  plain.temperature = 0.5f;
  plain.threshold = 0.02f;
  plain.background = 0.1f;
  plain.foreign_below = -INFINITY;
  p.calibration.assign(static_cast<std::size_t>(count), plain);
  return p;
}

// Hides about one row in three.
inline void hide_some(Problem& p, std::uint32_t seed) {
  std::mt19937 random(seed);
  p.visible.assign(static_cast<std::size_t>((p.rows + 7) / 8), 0);
  for (std::int64_t row = 0; row < p.rows; ++row) {
    if (random() % 3 != 0)
      p.visible[static_cast<std::size_t>(row / 8)] |= static_cast<std::uint8_t>(1 << (row % 8));
  }
}

struct Answer {
  std::vector<std::int64_t> rows;
  std::vector<float> similarity, share, diffuse, withheld, peak;
  std::vector<std::int32_t> creators;
  std::vector<float> creator_share;
  std::vector<std::int32_t> creator_items;
  Fault fault;

  Answer(std::size_t q, std::size_t k, std::size_t c)
      : rows(q * k, -1),
        similarity(q * k),
        share(q * k),
        diffuse(q, 1.0f),
        withheld(q),
        peak(q),
        creators(q * c, -1),
        creator_share(q * c),
        creator_items(q * c) {}
};

using Run = Fault (*)(const Store&, const Batch&, const Result&, Isa, int);

inline Answer run(const Problem& p, const std::uint16_t* vectors, Isa isa, std::int64_t top_k,
                  std::int64_t top_creators, int threads = 1, Run kernel = &rescore::rescore) {
  Answer a(static_cast<std::size_t>(p.count), static_cast<std::size_t>(top_k),
           static_cast<std::size_t>(top_creators));
  Store store;
  store.vectors = vectors;
  store.rows = p.rows;
  store.dim = p.dim;
  store.creators = p.creators.data();
  store.groups = p.groups.data();
  Batch batch;
  batch.queries = p.queries.data();
  batch.candidates = p.candidates.data();
  batch.similarity = p.similarity.empty() ? nullptr : p.similarity.data();
  batch.count = p.count;
  batch.width = p.width;
  batch.calibration = p.calibration.data();
  batch.visible = p.visible.empty() ? nullptr : p.visible.data();
  const Result result{
      a.rows.data(), a.similarity.data(), a.share.data(),         a.diffuse.data(),       a.withheld.data(),
      a.peak.data(), a.creators.data(),   a.creator_share.data(), a.creator_items.data(), top_k,
      top_creators};
  a.fault = kernel(store, batch, result, isa, threads);
  return a;
}

// rank(): only the rows and their similarities.
inline Answer run_rank(const Problem& p, const std::uint16_t* vectors, Isa isa, std::int64_t top_k,
                       int threads = 1) {
  return run(p, vectors, isa, top_k, 0, threads, &rescore::rank);
}

}  // namespace attributary::tests
