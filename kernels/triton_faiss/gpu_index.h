// Unfiltered searches on a GPU, where FAISS was built for one (ATTRIBUTARY_FAISS_GPU).
#pragma once

#include <faiss/Index.h>

#include <cstdint>
#include <memory>
#include <string>

namespace attributary::triton {

// What a search may ask of the GPU, checked when the model is loaded.
struct GpuLimits {
  std::int64_t candidates = 0;  // R, rows of a query
  std::int64_t temp_bytes = 0;  // scratch memory, reserved at load and never exceeded
};

class GpuIndex {
 public:
  // Copies `host` (no transform in front of it) to the device. Raises BackendError naming `name` where its
  // codes have no GPU kernel, or a limit is passed; kUnsupported in a build without GPU FAISS.
  GpuIndex(const faiss::Index& host, const std::string& name, int device, std::int64_t nprobe,
           const GpuLimits& limits);
  ~GpuIndex();

  // As faiss::Index::search over all rows. More lists than the GPU can probe at once are cut to that number.
  void search(const float* queries, std::int64_t count, std::int64_t width, std::int64_t nprobe,
              float* distances, std::int64_t* rows);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace attributary::triton
