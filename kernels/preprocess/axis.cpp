#include "preprocess/axis.h"

#include <algorithm>
#include <cmath>

namespace attributary::preprocess {
namespace {

constexpr double kSupport = 2.0;

// Keys' cubic convolution kernel with a = -0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  x = x < 0.0 ? -x : x;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

std::int32_t to_fixed(double weight) {
  const double scaled = weight * (1 << kWeightBits);
  return static_cast<std::int32_t>(weight < 0 ? -0.5 + scaled : 0.5 + scaled);
}

}  // namespace

Axis make_axis(std::int64_t in, std::int64_t out, std::int64_t offset, std::int64_t outputs) {
  const double scale = static_cast<double>(static_cast<float>(in)) / static_cast<double>(out);
  const double filter_scale = std::max(scale, 1.0);
  const double support = kSupport * filter_scale;
  const double inverse = 1.0 / filter_scale;

  Axis axis;
  axis.outputs = outputs;
  axis.start.resize(static_cast<std::size_t>(outputs));
  axis.length.resize(static_cast<std::size_t>(outputs));
  const auto centre_of = [&](std::int64_t o) { return (static_cast<double>(offset + o) + 0.5) * scale; };
  for (std::int64_t o = 0; o < outputs; ++o) {
    const double centre = centre_of(o);
    const auto low = std::max<std::int64_t>(static_cast<std::int64_t>(centre - support + 0.5), 0);
    const auto high = std::min<std::int64_t>(static_cast<std::int64_t>(centre + support + 0.5), in);
    axis.start[static_cast<std::size_t>(o)] = low;
    axis.length[static_cast<std::size_t>(o)] = high - low;
    axis.taps = std::max(axis.taps, high - low);
  }
  axis.weight.assign(static_cast<std::size_t>(outputs * axis.taps), 0);
  std::vector<double> weight(static_cast<std::size_t>(axis.taps));
  for (std::int64_t o = 0; o < outputs; ++o) {
    const double centre = centre_of(o);
    const std::int64_t low = axis.start[static_cast<std::size_t>(o)];
    const auto length = static_cast<std::size_t>(axis.length[static_cast<std::size_t>(o)]);
    double total = 0.0;
    for (std::size_t t = 0; t < length; ++t) {
      weight[t] = cubic((static_cast<double>(static_cast<std::int64_t>(t) + low) - centre + 0.5) * inverse);
      total += weight[t];
    }
    for (std::size_t t = 0; t < length; ++t) {
      if (total != 0.0) weight[t] /= total;
      axis.weight[static_cast<std::size_t>(o * axis.taps) + t] = to_fixed(weight[t]);
    }
  }
  // Starts never descend, and neither do ends.
  axis.first = axis.start.front();
  axis.sources = axis.start.back() + axis.length.back() - axis.first;
  for (std::int64_t& start : axis.start) start -= axis.first;
  return axis;
}

}  // namespace attributary::preprocess
