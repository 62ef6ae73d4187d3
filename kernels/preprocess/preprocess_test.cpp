#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "tests/guarded.h"
#include "tests/naive_resize.h"

using namespace attributary;
using namespace attributary::preprocess;
using attributary::tests::Bytes;
using attributary::tests::Guarded;

namespace {

Bytes noise(std::size_t bytes, std::uint32_t seed) {
  std::mt19937 random(seed);
  Bytes result(bytes);
  for (std::uint8_t& byte : result) byte = static_cast<std::uint8_t>(random());
  return result;
}

struct Shape {
  std::int64_t height, width, size;
};

// Plain, the other order of passes, enlarging, many taps, register boundaries, narrow, one pixel, nothing to
// do.
constexpr Shape kShapes[] = {{64, 64, 28},   {96, 41, 24},   {41, 96, 24}, {200, 60, 24},
                             {7, 9, 40},     {1, 1, 16},     {2, 300, 8},  {300, 2, 8},
                             {150, 140, 7},  {137, 333, 32}, {40, 70, 40}, {33, 31, 1},
                             {512, 512, 52}, {5, 5, 6},      {6, 1000, 3}, {700, 640, 16}};

}  // namespace

TEST_CASE("every instruction set equals the naive resize, and touches no byte outside") {
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    const Isa isa = static_cast<Isa>(level);
    for (const Shape& shape : kShapes) {
      CAPTURE(isa_name(isa));
      CAPTURE(shape.height);
      CAPTURE(shape.width);
      CAPTURE(shape.size);
      const auto bytes = static_cast<std::size_t>(shape.height * shape.width * 3);
      const auto result_bytes = static_cast<std::size_t>(shape.size * shape.size * 3);
      const Bytes pixels = noise(bytes, 7);
      const Bytes expected = tests::naive_resize_crop(pixels, shape.height, shape.width, shape.size);
      for (const bool at_end : {false, true}) {
        const Guarded source(bytes, at_end), target(result_bytes, at_end);
        std::memcpy(source.data(), pixels.data(), bytes);
        resize_crop({source.data(), shape.height, shape.width, shape.width * 3}, shape.size, target.data(),
                    isa);
        CHECK(std::memcmp(target.data(), expected.data(), result_bytes) == 0);
      }
    }
  }
}

TEST_CASE("rows may be upside down or apart") {
  const std::int64_t height = 50, width = 30, stride = 30 * 3 + 11;
  Bytes room = noise(static_cast<std::size_t>(height * stride), 3), flipped, spread;
  for (std::int64_t y = 0; y < height; ++y) {
    const auto row = room.begin() + y * stride;
    spread.insert(spread.end(), row, row + width * 3);
    const auto mirror = room.begin() + (height - 1 - y) * stride;
    flipped.insert(flipped.end(), mirror, mirror + width * 3);
  }
  Bytes result(12 * 12 * 3);
  for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
    resize_crop({room.data(), height, width, stride}, 12, result.data(), static_cast<Isa>(level));
    CHECK(result == tests::naive_resize_crop(spread, height, width, 12));
    resize_crop({room.data() + (height - 1) * stride, height, width, -stride}, 12, result.data(),
                static_cast<Isa>(level));
    CHECK(result == tests::naive_resize_crop(flipped, height, width, 12));
  }
}

TEST_CASE("a batch on several threads equals its images one by one") {
  std::vector<Bytes> pixels;
  std::vector<Image> images;
  for (std::int64_t i = 0; i < 23; ++i) {
    pixels.push_back(noise(static_cast<std::size_t>((20 + i) * (60 - i) * 3), static_cast<std::uint32_t>(i)));
  }
  for (std::int64_t i = 0; i < 23; ++i) {
    images.push_back({pixels[static_cast<std::size_t>(i)].data(), 20 + i, 60 - i, (60 - i) * 3});
  }
  Bytes together(23 * 16 * 16 * 3), alone(16 * 16 * 3);
  resize_crop_batch(images.data(), 23, 16, together.data(), best_isa(), 4);
  for (std::size_t i = 0; i < images.size(); ++i) {
    resize_crop(images[i], 16, alone.data(), Isa::kPortable);
    CHECK(std::memcmp(together.data() + i * alone.size(), alone.data(), alone.size()) == 0);
  }
}

TEST_CASE("weights of an output add up to one") {
  const Axis axis = make_axis(517, 224, 0, 224);
  for (std::int64_t o = 0; o < axis.outputs; ++o) {
    std::int64_t sum = 0;
    for (std::int64_t t = 0; t < axis.taps; ++t)
      sum += axis.weight[static_cast<std::size_t>(o * axis.taps + t)];
    CHECK(std::abs(sum - (std::int64_t{1} << kWeightBits)) <= axis.taps);
  }
}
