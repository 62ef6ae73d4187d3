// rank() with the vectors resident on a CUDA device: one captured graph a batch, results bit-stable. Shares
// are computed on the CPU (docs/decisions/kernels-shares.md).
#pragma once

#include <cstdint>
#include <memory>

#include "rescore/rescore.h"

namespace attributary::rescore {

// Limit of the device's version: what one block sorts in shared memory.
constexpr std::int64_t kCudaMaxTopK = 1024;

// A store of fp16 vectors on the device, with working memory for `max_queries` queries of `max_candidates`
// candidates. Nothing is allocated by a query. Not for several threads at once: one owner a device.
class CudaStore {
 public:
  // Copies the store (float16 only, dim a multiple of 8) to the device. Throws cuda::CudaError.
  CudaStore(const Store& store, std::int64_t max_queries, std::int64_t max_candidates);
  ~CudaStore();
  CudaStore(const CudaStore&) = delete;
  CudaStore& operator=(const CudaStore&) = delete;

  std::int64_t rows() const;
  std::int64_t dim() const;
  std::int64_t max_queries() const;
  std::int64_t max_candidates() const;

  // As rank() on the CPU, similarities computed from the queries; pointers are the host's. top_k within the
  // limit above.
  Fault rank(const Batch& batch, const Result& result);

  // Seconds of one replay of the last batch's graph, without the copies from and to the host.
  double replay_seconds(int repeats);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes a second of a copy on the device (read and written bytes counted once each).
double device_copy_rate();

}  // namespace attributary::rescore
