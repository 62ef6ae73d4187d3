// Resize and crop of batches of equal size on a CUDA device; equal to the CPU kernel bit for bit (integers
// only).
#pragma once

#include <cstdint>
#include <memory>

#include "common/cuda_memory.h"
#include "preprocess/plan.h"

namespace attributary::preprocess {

// Tables and working memory of one input size. Not for several threads at once.
class CudaResizer {
 public:
  CudaResizer(std::int64_t height, std::int64_t width, std::int64_t size, std::int64_t max_batch);

  // `images` is [count, height, width, 3] and `targets` [count, size, size, 3], both on the device.
  void run(const std::uint8_t* images, std::int64_t count, std::uint8_t* targets, cudaStream_t stream);

  // The same from and to host memory; waits for the result.
  void run_host(const std::uint8_t* images, std::int64_t count, std::uint8_t* targets);

 private:
  struct DeviceAxis {
    cuda::DeviceArray<std::int32_t> start, length, weight;
    std::int32_t taps = 0, first = 0;
    explicit DeviceAxis(const Axis& axis);
  };

  std::shared_ptr<const Plan> plan_;
  std::int64_t max_batch_;
  DeviceAxis columns_, rows_;
  cuda::DeviceArray<std::uint8_t> between_, input_, output_;
  cuda::Stream stream_;
};

}  // namespace attributary::preprocess
