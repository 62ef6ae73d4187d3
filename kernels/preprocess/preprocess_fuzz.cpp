// Fuzzes resize_crop with dimensions, strides and content: every instruction set must equal the portable one
// and touch no byte outside. Built with libFuzzer where the compiler has it; else `main` below draws the
// inputs:
//   preprocess_fuzz [runs] [seed]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "preprocess/resize.h"
#include "tests/guarded.h"

using namespace attributary;
using namespace attributary::preprocess;

namespace {

// Sides are small most of the time, long now and then; one byte picks the magnitude.
std::int64_t side(const std::uint8_t* bytes) {
  const std::int64_t raw = bytes[1] | bytes[2] << 8;
  return 1 + raw % (bytes[0] < 200 ? 96 : bytes[0] < 240 ? 700 : 9000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t length) {
  if (length < 12) return 0;
  const std::int64_t height = side(data), width = side(data + 3);
  if (height * width > 600'000) return 0;
  const std::int64_t size = 1 + data[6] % 97, gap = data[7] % 80;
  const bool upside_down = (data[8] & 1) != 0, at_end = (data[8] & 2) != 0;
  const std::int64_t stride = width * 3 + gap;
  const tests::Guarded source(static_cast<std::size_t>((height - 1) * stride + width * 3), at_end);
  std::mt19937 random(static_cast<std::uint32_t>(data[9] | data[10] << 8 | data[11] << 16));
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t b = 0; b < width * 3; ++b) {
      const auto at = static_cast<std::size_t>(y * width * 3 + b);
      source.data()[y * stride + b] =
          at + 12 < length ? data[at + 12] : static_cast<std::uint8_t>(random() >> 11);
    }
  }
  Image image{source.data(), height, width, stride};
  if (upside_down) image = {source.data() + (height - 1) * stride, height, width, -stride};

  const auto bytes = static_cast<std::size_t>(size * size * 3);
  std::vector<std::uint8_t> expected(bytes);
  resize_crop(image, size, expected.data(), Isa::kPortable);
  for (int level = 1; level <= static_cast<int>(best_isa()); ++level) {
    const tests::Guarded target(bytes, at_end);
    resize_crop(image, size, target.data(), static_cast<Isa>(level));
    if (std::memcmp(target.data(), expected.data(), bytes) != 0) {
      std::fprintf(stderr, "%s differs: %ld x %ld to %ld, stride %ld\n", isa_name(static_cast<Isa>(level)),
                   static_cast<long>(width), static_cast<long>(height), static_cast<long>(size),
                   static_cast<long>(image.stride));
      std::abort();
    }
  }
  return 0;
}

#if !defined(ATTRIBUTARY_LIBFUZZER)
int main(int argc, char** argv) {
  const long runs = argc > 1 ? std::atol(argv[1]) : 2000;
  std::mt19937 random(argc > 2 ? static_cast<std::uint32_t>(std::atol(argv[2])) : 1u);
  std::vector<std::uint8_t> input(64);
  for (long run = 0; run < runs; ++run) {
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs, no difference\n", runs);
  return 0;
}
#endif
