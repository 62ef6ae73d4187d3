// PRIVATE: the three device kernels of a batch: claim distinct rows, dot products, and each query's best
// rows.
//
// Bit-stable by construction: a dot product is always reduced in the same order inside one warp, and the best
// rows are the smallest of distinct keys, whoever finds them first.
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
constexpr int kTopThreads = 1024;
constexpr int kMaxTopK = 1024;

using Wide = unsigned long long;

// Everything a graph needs; all pointers are the device's.
struct View {
  const __half* vectors;
  std::int64_t store_rows;
  std::int32_t dim;

  const float* queries;
  const std::int64_t* candidates;
  const std::uint8_t* visible;  // or null
  std::int32_t count, width;

  std::int32_t* row;       // [count, width] the row, or -1: no candidate, not visible or a repeat
  std::int32_t* row_slot;  // [count, width] the place taken in the query's table, or -1
  float* similarity;       // [count, width]

  std::int32_t capacity;    // of a query's table, a power of two
  std::uint32_t* row_keys;  // [count, capacity] row + 1; all zero between batches

  std::int64_t* out_rows;
  float* out_similarity;
  std::int32_t top_k;

  Wide* fault;              // complement of (lowest query << 1 | kind); 0 = none
  std::int64_t* fault_row;  // [count] the stray candidate of a query
};

__device__ inline std::uint32_t hash(std::uint32_t key, std::int32_t capacity) {
  return ((key * 0x9e3779b1u) >> 7) & static_cast<std::uint32_t>(capacity - 1);
}

__device__ inline void report(const View& v, std::int32_t query, std::uint32_t kind) {
  // Complemented, so that the lowest query wins an atomic maximum over zeroed memory.
  atomicMax(v.fault, ~((static_cast<Wide>(query) << 1) | kind));
}

// Keeps one copy of every row that is in range and visible. One thread a candidate.
__global__ void claim_rows(View v) {
  const std::int32_t i = blockIdx.x * blockDim.x + threadIdx.x, q = blockIdx.y;
  if (i >= v.width) return;
  const std::int64_t at = static_cast<std::int64_t>(q) * v.width + i;
  const std::int64_t candidate = v.candidates[at];
  v.row[at] = -1;
  v.row_slot[at] = -1;
  if (candidate < 0) return;
  if (candidate >= v.store_rows) {
    atomicMax(reinterpret_cast<Wide*>(v.fault_row + q), static_cast<Wide>(candidate));
    report(v, q, 0);
    return;
  }
  const auto row = static_cast<std::uint32_t>(candidate);
  if (v.visible != nullptr && ((v.visible[row >> 3] >> (row & 7)) & 1) == 0) return;
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
        atomicMax(reinterpret_cast<Wide*>(v.fault_row + q), static_cast<Wide>(row[r]));
        report(v, q, 1);
      }
    }
  }
}

// Ascending keys are descending similarities, then ascending rows.
__device__ inline Wide order_key(float similarity, std::int32_t row) {
  const std::uint32_t bits = __float_as_uint(similarity);
  const std::uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return (static_cast<Wide>(~ascending) << 32) | static_cast<std::uint32_t>(row);
}

__device__ inline float similarity_of(Wide key) {
  const auto ascending = ~static_cast<std::uint32_t>(key >> 32);
  return __uint_as_float((ascending & 0x80000000u) != 0 ? ascending & 0x7fffffffu : ~ascending);
}

// Calls body(key) for every candidate of the block's query.
template <typename Body>
__device__ inline void for_each_key(const View& v, const Body& body) {
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * v.width;
  for (std::int32_t i = threadIdx.x; i < v.width; i += blockDim.x) {
    if (v.row[base + i] >= 0) body(order_key(v.similarity[base + i], v.row[base + i]));
  }
}

// The key at rank `rank` (from 1): a digit of eight bits a round, the highest first.
__device__ inline Wide select_key(const View& v, std::int32_t rank) {
  __shared__ std::int32_t histogram[256];
  __shared__ Wide prefix;
  __shared__ std::int32_t remaining;
  if (threadIdx.x == 0) {
    prefix = 0;
    remaining = rank;
  }
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < 256; digit += blockDim.x) histogram[digit] = 0;
    __syncthreads();
    const Wide above = shift == 56 ? 0 : ~Wide{0} << (shift + 8);
    for_each_key(v, [&](Wide key) {
      if ((key & above) == prefix) atomicAdd(histogram + ((key >> shift) & 255), 1);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 0;
      while (digit < 255 && histogram[digit] < remaining) remaining -= histogram[digit++];
      prefix |= static_cast<Wide>(digit) << shift;
    }
    __syncthreads();
  }
  return prefix;
}

// Sorts `size` keys in shared memory, a power of two: a bitonic network.
__device__ inline void sort_keys(Wide* keys, int size) {
  for (int length = 2; length <= size; length *= 2) {
    for (int step = length / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int other = i ^ step;
        if (other <= i || (keys[i] > keys[other]) != ((i & length) == 0)) continue;
        const Wide key = keys[i];
        keys[i] = keys[other];
        keys[other] = key;
      }
      __syncthreads();
    }
  }
}

// Writes a query's best rows, and empties the places that it took in its table. One block a query.
__global__ void __launch_bounds__(kTopThreads) select_top(View v) {
  __shared__ Wide keys[kMaxTopK];
  __shared__ std::int32_t found, taken;
  if (threadIdx.x == 0) found = taken = 0;
  __syncthreads();
  for_each_key(v, [&](Wide) { atomicAdd(&found, 1); });
  __syncthreads();
  const std::int32_t kept = min(v.top_k, found);
  if (kept > 0) {
    int size = 1;
    while (size < kept) size *= 2;
    for (int i = threadIdx.x; i < size; i += blockDim.x) keys[i] = ~Wide{0};
    const Wide worst = select_key(v, kept);
    for_each_key(v, [&](Wide key) {
      if (key <= worst) keys[atomicAdd(&taken, 1)] = key;
    });
    __syncthreads();
    sort_keys(keys, size);
  }
  for (std::int32_t i = threadIdx.x; i < v.top_k; i += blockDim.x) {
    const std::int64_t to = static_cast<std::int64_t>(blockIdx.x) * v.top_k + i;
    v.out_rows[to] = i < kept ? static_cast<std::int64_t>(keys[i] & 0xffffffffu) : -1;
    v.out_similarity[to] = i < kept ? similarity_of(keys[i]) : 0.0f;
  }
  for (std::int32_t i = threadIdx.x; i < v.width; i += blockDim.x) {
    const std::int32_t slot = v.row_slot[static_cast<std::int64_t>(blockIdx.x) * v.width + i];
    if (slot >= 0) v.row_keys[static_cast<std::int64_t>(blockIdx.x) * v.capacity + slot] = 0;
  }
}

}  // namespace attributary::rescore::device
