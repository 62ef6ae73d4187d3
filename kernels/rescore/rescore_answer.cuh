// PRIVATE: the device kernel that turns a query's similarities into its answer; one block a query.
#pragma once

#include "rescore/rescore_kernels.cuh"

namespace attributary::rescore::device {

using Wide = unsigned long long;

// Reduces over the block with an operation whose result does not depend on order; every thread gets the
// result.
template <typename T, typename Operation>
__device__ T reduce_block(T value, Operation operation, T neutral) {
  __shared__ T partial[kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2)
    value = operation(value, __shfl_xor_sync(0xffffffffu, value, step));
  __syncthreads();  // of an earlier use
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  T result = neutral;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) result = operation(result, partial[w]);
  return result;
}

struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Sum {
  __device__ Wide operator()(Wide a, Wide b) const { return a + b; }
};

// A query's slice of the working memory.
struct Query {
  std::int32_t number, width;
  std::int64_t base, table;  // first candidate, first slot
  float inverse_temperature, threshold, background;
};

// The slot of `code` in a query's table, taken if it is new.
__device__ inline std::int32_t find_slot(Wide* keys, std::int32_t code, std::int32_t capacity) {
  const Wide key = static_cast<Wide>(static_cast<std::uint32_t>(code)) + 1;
  std::uint32_t slot = hash(static_cast<std::uint32_t>(code), capacity);
  while (true) {
    const Wide before = atomicCAS(keys + slot, Wide{0}, key);
    if (before == 0 || before == key) return static_cast<std::int32_t>(slot);
    slot = (slot + 1) & static_cast<std::uint32_t>(capacity - 1);
  }
}

__device__ inline Wide to_fixed(float x) { return static_cast<Wide>(__float2ull_rn(x * kFixed)); }

// Weights of all candidates, and of their groups the best and the total.
__device__ inline void weigh(const View& v, const Query& query, float peak) {
  for (std::int32_t i = threadIdx.x; i < query.width; i += blockDim.x) {
    const std::int64_t at = query.base + i;
    if (v.row[at] < 0) continue;
    const float weight = expf((v.similarity[at] - peak) * query.inverse_temperature) - query.threshold;
    if (!(weight > 0.0f)) continue;
    v.weight[at] = weight;
    const std::int32_t slot = find_slot(v.group_keys + query.table, v.groups[v.row[at]], v.capacity);
    v.group_slot[at] = slot;
    atomicMax(v.group_best + query.table + slot, __float_as_int(weight));
    atomicAdd(v.group_total + query.table + slot, to_fixed(weight));
  }
  __syncthreads();
}

// From weights to shares; creators collect them. Returns the diffuse remainder.
__device__ inline float share_out(const View& v, const Query& query, float peak) {
  Wide mine = 0;
  for (std::int32_t slot = threadIdx.x; slot < v.capacity; slot += blockDim.x) {
    mine += to_fixed(__int_as_float(v.group_best[query.table + slot]));
  }
  const double groups = static_cast<double>(reduce_block(mine, Sum(), Wide{0})) / kFixed;
  const double null_weight = exp((static_cast<double>(query.background) - peak) * query.inverse_temperature);
  const double inverse = 1.0 / (null_weight + groups);
  for (std::int32_t i = threadIdx.x; i < query.width; i += blockDim.x) {
    const std::int64_t at = query.base + i;
    const std::int32_t group = v.group_slot[at];
    if (group < 0) continue;
    const float weight = v.weight[at];
    const double best = __int_as_float(v.group_best[query.table + group]);
    const double total = static_cast<double>(v.group_total[query.table + group]) / kFixed;
    // A lone member's total is its best but for the rounding to fixed point.
    const double factor = total > best ? best / total : 1.0;
    const float share = static_cast<float>(weight * factor * inverse);
    v.weight[at] = share >= kSmallestNormal ? share : 0.0f;
    if (share < kSmallestNormal) continue;
    const std::int32_t slot = find_slot(v.creator_keys + query.table, v.creators[v.row[at]], v.capacity);
    v.creator_slot[at] = slot;
    atomicAdd(v.creator_total + query.table + slot, to_fixed(share));
    atomicAdd(v.creator_count + query.table + slot, 1);
  }
  __syncthreads();
  return static_cast<float>(null_weight * inverse);
}

// Ascending keys are descending similarities, then ascending rows.
__device__ inline Wide order_key(float similarity, std::int32_t row) {
  const std::uint32_t bits = __float_as_uint(similarity);
  const std::uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return (static_cast<Wide>(~ascending) << 32) | static_cast<std::uint32_t>(row);
}

// The key at rank `rank` (from 1) among the query's candidates: a digit of eight bits a round, the highest
// first.
__device__ inline Wide select_key(const View& v, const Query& query, std::int32_t rank) {
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
    for (std::int32_t i = threadIdx.x; i < query.width; i += blockDim.x) {
      const std::int32_t row = v.row[query.base + i];
      if (row < 0) continue;
      const Wide key = order_key(v.similarity[query.base + i], row);
      if ((key & above) == prefix) atomicAdd(histogram + ((key >> shift) & 255), 1);
    }
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

// Writes the top-k: everything up to the selected key, sorted in shared memory.
__device__ inline void write_top(const View& v, const Query& query, std::int32_t found) {
  __shared__ Wide keys[kMaxTopK];
  __shared__ std::int32_t places[kMaxTopK];
  __shared__ std::int32_t taken;
  const std::int32_t kept = min(v.top_k, found);
  if (kept == 0) return;
  const Wide worst = select_key(v, query, kept);
  int size = 1;
  while (size < kept) size *= 2;
  for (int i = threadIdx.x; i < size; i += blockDim.x) keys[i] = ~Wide{0};
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  for (std::int32_t i = threadIdx.x; i < query.width; i += blockDim.x) {
    const std::int32_t row = v.row[query.base + i];
    if (row < 0) continue;
    const Wide key = order_key(v.similarity[query.base + i], row);
    if (key > worst) continue;
    const std::int32_t at = atomicAdd(&taken, 1);
    keys[at] = key;
    places[at] = i;
  }
  __syncthreads();
  for (int length = 2; length <= size; length *= 2) {  // bitonic sort
    for (int step = length / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int other = i ^ step;
        if (other <= i || (keys[i] > keys[other]) != ((i & length) == 0)) continue;
        const Wide key = keys[i];
        keys[i] = keys[other];
        keys[other] = key;
        const std::int32_t place = places[i];
        places[i] = places[other];
        places[other] = place;
      }
      __syncthreads();
    }
  }
  for (std::int32_t i = threadIdx.x; i < kept; i += blockDim.x) {
    const std::int64_t from = query.base + places[i],
                       to = static_cast<std::int64_t>(query.number) * v.top_k + i;
    v.out_rows[to] = v.row[from];
    v.out_similarity[to] = v.similarity[from];
    v.out_share[to] = v.weight[from];
  }
}

// Writes the creators with the largest totals, one a round: few are asked for.
__device__ inline void write_creators(const View& v, const Query& query) {
  for (std::int32_t rank = 0; rank < v.top_creators; ++rank) {
    Wide most = 0;
    for (std::int32_t slot = threadIdx.x; slot < v.capacity; slot += blockDim.x) {
      if (v.creator_count[query.table + slot] > 0) most = max(most, v.creator_total[query.table + slot] + 1);
    }
    most = reduce_block(most, Max(), Wide{0});
    if (most == 0) return;
    // Of equal totals the lowest code: codes with the sign bit flipped order as unsigned; complemented for
    // Max.
    std::uint32_t lowest = 0;
    for (std::int32_t slot = threadIdx.x; slot < v.capacity; slot += blockDim.x) {
      if (v.creator_count[query.table + slot] <= 0 || v.creator_total[query.table + slot] + 1 != most)
        continue;
      const auto code = static_cast<std::uint32_t>(v.creator_keys[query.table + slot] - 1);
      lowest = max(lowest, ~(code ^ 0x80000000u));
    }
    lowest = reduce_block(lowest, Max(), 0u);
    const std::int32_t code = static_cast<std::int32_t>(~lowest ^ 0x80000000u);
    if (threadIdx.x == 0) {
      const std::int32_t slot = find_slot(v.creator_keys + query.table, code, v.capacity);
      const std::int64_t to = static_cast<std::int64_t>(query.number) * v.top_creators + rank;
      v.out_creators[to] = code;
      v.out_creator_share[to] = static_cast<float>(static_cast<double>(most - 1) / kFixed);
      v.out_creator_items[to] = v.creator_count[query.table + slot];
      v.creator_count[query.table + slot] = 0;  // no longer in the running
    }
    __syncthreads();
  }
}

// Empties the places that this query took, so that the tables are zero again for the next batch.
__device__ inline void clean_tables(const View& v, const Query& query) {
  __syncthreads();
  for (std::int32_t i = threadIdx.x; i < query.width; i += blockDim.x) {
    const std::int64_t at = query.base + i;
    if (v.row_slot[at] >= 0) v.row_keys[query.table + v.row_slot[at]] = 0;
    if (v.group_slot[at] >= 0) {
      const std::int64_t slot = query.table + v.group_slot[at];
      v.group_keys[slot] = 0;
      v.group_best[slot] = 0;
      v.group_total[slot] = 0;
    }
    if (v.creator_slot[at] >= 0) {
      const std::int64_t slot = query.table + v.creator_slot[at];
      v.creator_keys[slot] = 0;
      v.creator_total[slot] = 0;
      v.creator_count[slot] = 0;
    }
  }
}

__global__ void __launch_bounds__(kAnswerThreads) answer(View v) {
  const std::int32_t q = blockIdx.x;
  const Query query{q,
                    v.width,
                    static_cast<std::int64_t>(q) * v.width,
                    static_cast<std::int64_t>(q) * v.capacity,
                    1.0f / v.temperature[q],
                    v.threshold[q],
                    v.background[q]};
  float highest = -INFINITY;
  Wide mine = 0;
  for (std::int32_t i = threadIdx.x; i < v.width; i += blockDim.x) {
    if (v.row[query.base + i] < 0) continue;
    highest = fmaxf(highest, v.similarity[query.base + i]);
    ++mine;
  }
  highest = reduce_block(highest, Max(), -INFINITY);
  const auto found = static_cast<std::int32_t>(reduce_block(mine, Sum(), Wide{0}));
  for (std::int32_t i = threadIdx.x; i < v.top_k; i += blockDim.x) {
    const std::int64_t to = static_cast<std::int64_t>(q) * v.top_k + i;
    v.out_rows[to] = -1;
    v.out_similarity[to] = v.out_share[to] = 0.0f;
  }
  for (std::int32_t i = threadIdx.x; i < v.top_creators; i += blockDim.x) {
    const std::int64_t to = static_cast<std::int64_t>(q) * v.top_creators + i;
    v.out_creators[to] = -1;
    v.out_creator_share[to] = 0.0f;
    v.out_creator_items[to] = 0;
  }
  __syncthreads();
  float diffuse = 1.0f;
  if (found > 0) {
    const float peak = fmaxf(highest, query.background);
    weigh(v, query, peak);
    diffuse = share_out(v, query, peak);
    write_top(v, query, found);
    write_creators(v, query);
  }
  if (threadIdx.x == 0) v.out_diffuse[q] = diffuse;
  clean_tables(v, query);
}

}  // namespace attributary::rescore::device
