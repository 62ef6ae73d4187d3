// PRIVATE: the three device kernels of a batch: claim distinct rows, dot products, and a query's answer.
//
// Bit-stable by construction: maxima do not depend on order, sums that run in parallel are integers (fixed
// point, 40 fractional bits), and a dot product is always reduced in the same order inside one warp. Ties are
// broken by row and by code, never by who came first.
#pragma once

#if !defined(ATTRIBUTARY_ONE_THREAD)  // tests/one_thread_cuda.h stands in for the device
#include <cuda_fp16.h>
#endif

#include <cstdint>

namespace attributary::rescore::device {

#if defined(ATTRIBUTARY_ONE_THREAD)
constexpr int kWarp = 1;
#else
constexpr int kWarp = 32;
#endif
constexpr int kDotThreads = 256;
constexpr int kRowsAWarp = 4;  // in flight together
constexpr int kRowsABlock = 128;
constexpr int kAnswerThreads = 1024;
constexpr int kMaxTopK = 1024;
constexpr float kFixed = 1099511627776.0f;  // 2^40
constexpr float kSmallestNormal = 1.17549435e-38f;

// Everything a graph needs; all pointers are the device's. Tables are all zero between batches.
struct View {
  const __half* vectors;
  const std::int32_t* creators;
  const std::int32_t* groups;
  std::int64_t store_rows;
  std::int32_t dim;

  const float* queries;
  const std::int64_t* candidates;
  const float* temperature;
  const float* threshold;
  const float* background;
  const std::uint8_t* allowed;  // or null
  std::int32_t count, width;

  std::int32_t* row;       // [count, width] the row, or -1: no candidate, filtered or a repeat
  float* similarity;       // [count, width]
  float* weight;           // [count, width] weight, then share
  std::int32_t* row_slot;  // [count, width] places taken in the tables, or -1
  std::int32_t* group_slot;
  std::int32_t* creator_slot;

  std::int32_t capacity;           // of a query's tables, a power of two
  std::uint32_t* row_keys;         // [count, capacity] row + 1
  unsigned long long* group_keys;  // code + 1 as unsigned, 0 = empty
  std::int32_t* group_best;        // bits of a float that is not negative: they order as integers
  unsigned long long* group_total;
  unsigned long long* creator_keys;
  unsigned long long* creator_total;
  std::int32_t* creator_count;

  std::int64_t* out_rows;
  float* out_similarity;
  float* out_share;
  float* out_diffuse;
  std::int32_t* out_creators;
  float* out_creator_share;
  std::int32_t* out_creator_items;
  std::int32_t top_k, top_creators;

  unsigned long long* fault;  // lowest (query << 33 | kind << 32 | low bits of the row) + 1; 0 = none
  std::int64_t* fault_row;    // [count] the stray candidate of a query
};

__device__ inline std::uint32_t hash(std::uint32_t key, std::int32_t capacity) {
  return ((key * 0x9e3779b1u) >> 7) & static_cast<std::uint32_t>(capacity - 1);
}

__device__ inline void report(const View& v, std::int32_t query, std::uint32_t kind) {
  // Complemented, so that the lowest query wins an atomic maximum over zeroed memory.
  const unsigned long long code = ~((static_cast<unsigned long long>(query) << 1) | kind);
  atomicMax(v.fault, code);
}

// Keeps one copy of every row that is in range and allowed. One thread a candidate.
__global__ void claim_rows(View v) {
  const std::int32_t i = blockIdx.x * blockDim.x + threadIdx.x, q = blockIdx.y;
  if (i >= v.width) return;
  const std::int64_t at = static_cast<std::int64_t>(q) * v.width + i;
  const std::int64_t candidate = v.candidates[at];
  v.row[at] = -1;
  v.row_slot[at] = v.group_slot[at] = v.creator_slot[at] = -1;
  v.weight[at] = 0.0f;
  if (candidate < 0) return;
  if (candidate >= v.store_rows) {
    atomicMax(reinterpret_cast<unsigned long long*>(v.fault_row + q),
              static_cast<unsigned long long>(candidate));
    report(v, q, 0);
    return;
  }
  const auto row = static_cast<std::uint32_t>(candidate);
  if (v.allowed != nullptr && ((v.allowed[row >> 3] >> (row & 7)) & 1) == 0) return;
  std::uint32_t* keys = v.row_keys + static_cast<std::int64_t>(q) * v.capacity;
  std::uint32_t slot = hash(row, v.capacity);
  while (true) {
    const std::uint32_t before = atomicCAS(keys + slot, 0u, row + 1u);
    if (before == row + 1u) return;  // a repeat; which copy stays makes no difference
    if (before == 0u) break;
    slot = (slot + 1) & static_cast<std::uint32_t>(v.capacity - 1);
  }
  v.row_slot[at] = static_cast<std::int32_t>(slot);
  v.row[at] = static_cast<std::int32_t>(row);
}

__device__ inline float dot_eight(uint4 packed, const float* query) {
  const __half2* pairs = reinterpret_cast<const __half2*>(&packed);
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const float2 values = __half22float2(pairs[p]);
    sum = fmaf(values.x, query[2 * p], sum);
    sum = fmaf(values.y, query[2 * p + 1], sum);
  }
  return sum;
}

// One warp takes kRowsAWarp candidates at a time; a lane reads 16 bytes of each.
__global__ void __launch_bounds__(kDotThreads) dot_rows(View v) {
  extern __shared__ float query[];
  const std::int32_t q = blockIdx.y, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (std::int32_t d = threadIdx.x; d < v.dim; d += blockDim.x) {
    query[d] = v.queries[static_cast<std::int64_t>(q) * v.dim + d];
  }
  __syncthreads();
  const std::int64_t base = static_cast<std::int64_t>(q) * v.width;
  const std::int32_t first = blockIdx.x * kRowsABlock, last = min(first + kRowsABlock, v.width);
  for (std::int32_t i = first + warp * kRowsAWarp; i < last;
       i += static_cast<std::int32_t>(blockDim.x) / kWarp * kRowsAWarp) {
    const __half* vector[kRowsAWarp];
    std::int32_t row[kRowsAWarp];
    float sum[kRowsAWarp];
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      row[r] = i + r < last ? v.row[base + i + r] : -1;
      vector[r] = v.vectors + static_cast<std::int64_t>(max(row[r], 0)) * v.dim;
      sum[r] = 0.0f;
    }
    for (std::int32_t d = lane * 8; d < v.dim; d += kWarp * 8) {
      uint4 packed[kRowsAWarp];
#pragma unroll
      for (int r = 0; r < kRowsAWarp; ++r) {
        packed[r] =
            row[r] >= 0 ? __ldg(reinterpret_cast<const uint4*>(vector[r] + d)) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int r = 0; r < kRowsAWarp; ++r) sum[r] += dot_eight(packed[r], query + d);
    }
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      for (int step = kWarp / 2; step > 0; step /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], step);
      if (lane != 0 || row[r] < 0) continue;
      const float similarity = sum[r] + 0.0f;  // -0 ties with 0
      v.similarity[base + i + r] = similarity;
      if (!isfinite(similarity)) {
        atomicMax(reinterpret_cast<unsigned long long*>(v.fault_row + q),
                  static_cast<unsigned long long>(row[r]));
        report(v, q, 1);
      }
    }
  }
}

}  // namespace attributary::rescore::device
