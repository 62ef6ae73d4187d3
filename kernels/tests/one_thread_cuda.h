// Stands in for a CUDA device: a block of one thread, warps of one lane, on the CPU. It shows that the
// kernels' logic is right; it cannot show races, nor anything about speed.
#pragma once

#define ATTRIBUTARY_ONE_THREAD
#define __device__
#define __global__ static
#define __shared__
#define __launch_bounds__(threads)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

struct OneThreadIndex {
  unsigned x = 0, y = 0, z = 0;
};
inline OneThreadIndex threadIdx, blockIdx, blockDim{1, 1, 1}, gridDim{1, 1, 1};

using std::isfinite;
using std::max;
using std::min;

inline std::int32_t min(int a, unsigned b) { return std::min(a, static_cast<int>(b)); }
inline void __syncthreads() {}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int) {
  return value;
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T atomicCAS(T* at, T expected, T wanted) {
  const T before = *at;
  if (before == expected) *at = wanted;
  return before;
}
template <typename T, typename U>
T atomicAdd(T* at, U more) {
  const T before = *at;
  *at = before + static_cast<T>(more);
  return before;
}
template <typename T>
T atomicMax(T* at, T other) {
  const T before = *at;
  *at = std::max(before, other);
  return before;
}

template <typename To, typename From>
To bits_of(From value) {
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}
inline std::uint32_t __float_as_uint(float x) { return bits_of<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t x) { return bits_of<float>(x); }

struct uint4 {
  std::uint32_t x, y, z, w;
};
inline uint4 make_uint4(std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) {
  return {x, y, z, w};
}
struct float2 {
  float x, y;
};
// Normal halves only, which is what the tests draw.
struct __half {
  std::uint16_t bits;
};
struct __half2 {
  __half x, y;
};
inline float one_half(__half half) {
  const float value =
      std::ldexp(1.0f + static_cast<float>(half.bits & 0x3ff) / 1024.0f, ((half.bits >> 10) & 31) - 15);
  return (half.bits & 0x8000) != 0 ? -value : value;
}
inline float2 __half22float2(__half2 pair) { return {one_half(pair.x), one_half(pair.y)}; }

// Runs `body` for every block of a grid.
template <typename Body>
void for_each_block(unsigned x, unsigned y, unsigned z, const Body& body) {
  gridDim = {x, y, z};
  for (blockIdx.z = 0; blockIdx.z < z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x) body();
    }
  }
}
