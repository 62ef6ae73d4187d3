// PRIVATE: the device kernels of the resize. Integers only, the CPU's tables: equal to the CPU bit for bit.
#pragma once

#include <cstdint>

#include "preprocess/axis.h"

namespace attributary::preprocess::device {

// One axis as the device sees it; starts are counted from `first`.
struct AxisView {
  const std::int32_t* start;
  const std::int32_t* length;
  const std::int32_t* weight;
  std::int32_t taps, first;
};

__device__ std::uint8_t to_pixel(std::int32_t sum) {
  return static_cast<std::uint8_t>(min(max(sum >> kWeightBits, 0), 255));
}

// target[line, o, c] from source[line, start[o] ..., c]: one thread an output pixel.
__global__ void narrow(AxisView axis, const std::uint8_t* source, std::int64_t source_stride,
                       std::int64_t source_image, std::int32_t first_line, std::uint8_t* target,
                       std::int32_t outputs, std::int32_t lines) {
  const std::int32_t o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= outputs) return;
  for (std::int32_t line = blockIdx.y; line < lines; line += gridDim.y) {
    const std::uint8_t* pixel = source + blockIdx.z * source_image + (first_line + line) * source_stride +
                                static_cast<std::int64_t>(axis.first + axis.start[o]) * 3;
    const std::int32_t* weight = axis.weight + static_cast<std::int64_t>(o) * axis.taps;
    std::int32_t red = 1 << (kWeightBits - 1), green = red, blue = red;
    for (std::int32_t t = 0; t < axis.length[o]; ++t, pixel += 3) {
      const std::int32_t w = weight[t];
      red += pixel[0] * w;
      green += pixel[1] * w;
      blue += pixel[2] * w;
    }
    std::uint8_t* out = target + ((static_cast<std::int64_t>(blockIdx.z) * lines + line) * outputs + o) * 3;
    out[0] = to_pixel(red);
    out[1] = to_pixel(green);
    out[2] = to_pixel(blue);
  }
}

// target[o, b] from source[start[o] ..., b]: one thread a byte, so that a warp reads neighbours.
__global__ void shorten(AxisView axis, const std::uint8_t* source, std::int64_t source_stride,
                        std::int64_t source_image, std::int64_t first_byte, std::uint8_t* target,
                        std::int32_t outputs, std::int32_t bytes) {
  const std::int32_t b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= bytes) return;
  for (std::int32_t o = blockIdx.y; o < outputs; o += gridDim.y) {
    const std::uint8_t* byte = source + blockIdx.z * source_image +
                               static_cast<std::int64_t>(axis.first + axis.start[o]) * source_stride +
                               first_byte + b;
    const std::int32_t* weight = axis.weight + static_cast<std::int64_t>(o) * axis.taps;
    std::int32_t sum = 1 << (kWeightBits - 1);
    for (std::int32_t t = 0; t < axis.length[o]; ++t, byte += source_stride) sum += *byte * weight[t];
    target[(static_cast<std::int64_t>(blockIdx.z) * outputs + o) * bytes + b] = to_pixel(sum);
  }
}

__global__ void copy_window(const std::uint8_t* source, std::int64_t source_stride, std::int64_t source_image,
                            std::int64_t first_row, std::int64_t first_byte, std::uint8_t* target,
                            std::int32_t rows, std::int32_t bytes) {
  const std::int32_t b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= bytes) return;
  for (std::int32_t y = blockIdx.y; y < rows; y += gridDim.y) {
    target[(static_cast<std::int64_t>(blockIdx.z) * rows + y) * bytes + b] =
        source[blockIdx.z * source_image + (first_row + y) * source_stride + first_byte + b];
  }
}

}  // namespace attributary::preprocess::device
