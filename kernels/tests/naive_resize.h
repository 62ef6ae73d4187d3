// A resize written for clarity: the whole image, both passes at full size, then the crop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "preprocess/axis.h"
#include "preprocess/resize.h"

namespace attributary::tests {

using Bytes = std::vector<std::uint8_t>;

// Filters `lines` runs of `axis` pixels; `step` and `across` are the distances of neighbours along and across
// it.
inline Bytes naive_pass(const Bytes& source, const preprocess::Axis& axis, std::int64_t lines,
                        std::int64_t in_step, std::int64_t in_across, std::int64_t out_step,
                        std::int64_t out_across) {
  Bytes target(static_cast<std::size_t>(lines * axis.outputs * 3));
  for (std::int64_t line = 0; line < lines; ++line) {
    for (std::int64_t o = 0; o < axis.outputs; ++o) {
      for (int c = 0; c < 3; ++c) {
        std::int64_t sum = std::int64_t{1} << (preprocess::kWeightBits - 1);
        for (std::int64_t t = 0; t < axis.length[static_cast<std::size_t>(o)]; ++t) {
          const std::int64_t from = axis.first + axis.start[static_cast<std::size_t>(o)] + t;
          sum += std::int64_t{source[static_cast<std::size_t>(line * in_across + from * in_step + c)]} *
                 axis.weight[static_cast<std::size_t>(o * axis.taps + t)];
        }
        target[static_cast<std::size_t>(line * out_across + o * out_step + c)] =
            static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> preprocess::kWeightBits, 0, 255));
      }
    }
  }
  return target;
}

// `pixels` is [height, width, 3] without gaps.
inline Bytes naive_resize_crop(const Bytes& pixels, std::int64_t height, std::int64_t width,
                               std::int64_t size) {
  const std::int64_t new_height = height <= width ? size : std::max(size, size * height / width);
  const std::int64_t new_width = height <= width ? std::max(size, size * width / height) : size;
  const bool rows_first = height > new_height && height - new_height > (width - new_width) * 2;
  Bytes whole = pixels;
  if (new_height != height || new_width != width) {
    const preprocess::Axis columns = preprocess::make_axis(width, new_width, 0, new_width);
    const preprocess::Axis rows = preprocess::make_axis(height, new_height, 0, new_height);
    if (rows_first) {
      whole = naive_pass(pixels, rows, width, width * 3, 3, width * 3, 3);
      whole = naive_pass(whole, columns, new_height, 3, width * 3, 3, new_width * 3);
    } else {
      whole = naive_pass(pixels, columns, height, 3, width * 3, 3, new_width * 3);
      whole = naive_pass(whole, rows, new_width, new_width * 3, 3, new_width * 3, 3);
    }
  }
  Bytes crop(static_cast<std::size_t>(size * size * 3));
  const std::int64_t top = (new_height - size) / 2, left = (new_width - size) / 2;
  for (std::int64_t y = 0; y < size; ++y) {
    std::copy_n(whole.begin() + (((top + y) * new_width) + left) * 3, size * 3, crop.begin() + y * size * 3);
  }
  return crop;
}

}  // namespace attributary::tests
