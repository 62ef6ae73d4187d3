// Antialiased bicubic resize of the short side and centre crop of 8-bit RGB, equal to Pillow 13.0.0 bit for
// bit.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace attributary::preprocess {

// 8-bit RGB; the three channels of a pixel and the pixels of a row are adjacent, rows are `stride` bytes
// apart (any sign). Nothing is owned.
struct Image {
  const std::uint8_t* data = nullptr;
  std::int64_t height = 0;  // 1 .. kMaxSide
  std::int64_t width = 0;   // 1 .. kMaxSide
  std::int64_t stride = 0;
};

constexpr std::int64_t kMaxSide = std::int64_t{1} << 24;  // Pillow's coordinates are exact up to here
constexpr std::int64_t kMaxSize = 4096;                   // side of the result

// Writes `size` * `size` * 3 bytes to `target`. Only the rows and columns that the crop needs are computed,
// and working memory is bounded by the filter's height, not by the image. `isa` must not exceed best_isa().
void resize_crop(const Image& image, std::int64_t size, std::uint8_t* target, Isa isa);

// `resize_crop` of `count` images on up to `threads` threads; results are adjacent in `targets`.
void resize_crop_batch(const Image* images, std::int64_t count, std::int64_t size, std::uint8_t* targets,
                       Isa isa, int threads);

}  // namespace attributary::preprocess
