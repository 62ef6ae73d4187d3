// PRIVATE: the filter of one axis in fixed point, for the outputs inside the crop window only.
#pragma once

#include <cstdint>
#include <vector>

namespace attributary::preprocess {

// Output o of the window is the sum over t < taps of weight[o * taps + t] * source[start[o] + t], where
// sources are counted from `first`. Weights have 22 fractional bits; taps beyond an output's own are 0.
struct Axis {
  std::int64_t outputs = 0;
  std::int64_t taps = 0;     // of the widest output
  std::int64_t first = 0;    // first source that the window needs
  std::int64_t sources = 0;  // how many it needs
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> length;  // an output's own taps
  std::vector<std::int32_t> weight;
};

constexpr int kWeightBits = 22;

// Pillow's coefficients for scaling `in` sources to `out`, outputs [offset, offset + outputs).
// Follows Resample.c of Pillow 13.0.0 (precompute_coeffs, normalize_coeffs_8bpc) operation by operation, in
// double precision without contraction, since rounding decides the last bit of a weight.
Axis make_axis(std::int64_t in, std::int64_t out, std::int64_t offset, std::int64_t outputs);

}  // namespace attributary::preprocess
