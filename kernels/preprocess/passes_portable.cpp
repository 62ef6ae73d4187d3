#include <algorithm>

#include "preprocess/passes.h"

namespace attributary::preprocess {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

inline std::uint8_t to_pixel(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

void horizontal(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < filter.outputs; ++o) {
      const std::uint8_t* pixel = sources[r] + filter.start[o] * 3;
      const std::int32_t* weight = filter.weight + o * filter.taps;
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (std::int64_t t = 0; t < filter.length[o]; ++t, pixel += 3) {
        red += pixel[0] * weight[t];
        green += pixel[1] * weight[t];
        blue += pixel[2] * weight[t];
      }
      targets[r][o * 3] = to_pixel(red);
      targets[r][o * 3 + 1] = to_pixel(green);
      targets[r][o * 3 + 2] = to_pixel(blue);
    }
  }
}

void vertical(const Filter& filter, std::int64_t output, const std::uint8_t* const* sources,
              std::uint8_t* target, std::int64_t bytes) {
  constexpr std::int64_t kChunk = 256;
  std::int32_t sums[kChunk];
  const std::int32_t* weight = filter.weight + output * filter.taps;
  for (std::int64_t from = 0; from < bytes; from += kChunk) {
    const std::int64_t width = std::min(kChunk, bytes - from);
    for (std::int64_t b = 0; b < width; ++b) sums[b] = kHalf;
    for (std::int64_t t = 0; t < filter.length[output]; ++t) {
      const std::uint8_t* row = sources[t] + from;
      for (std::int64_t b = 0; b < width; ++b) sums[b] += row[b] * weight[t];
    }
    for (std::int64_t b = 0; b < width; ++b) target[from + b] = to_pixel(sums[b]);
  }
}

}  // namespace

extern const Passes kPortablePasses = {horizontal, vertical};

}  // namespace attributary::preprocess
