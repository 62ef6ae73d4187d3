#include "triton_faiss/gpu_index.h"

#include "triton_faiss/error.h"

#ifdef ATTRIBUTARY_FAISS_GPU
#include <faiss/IndexFlat.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/gpu/GpuCloner.h>
#include <faiss/gpu/GpuClonerOptions.h>
#include <faiss/gpu/StandardGpuResources.h>

#include <algorithm>
#endif

namespace attributary::triton {

#ifndef ATTRIBUTARY_FAISS_GPU

struct GpuIndex::State {};

GpuIndex::GpuIndex(const faiss::Index&, const std::string&, int, std::int64_t, const GpuLimits&) {
  throw BackendError(ErrorKind::kUnsupported,
                     "instance_group: kind is KIND_GPU, but this backend was built without GPU FAISS "
                     "(ATTRIBUTARY_FAISS_GPU); set KIND_CPU");
}

GpuIndex::~GpuIndex() = default;

void GpuIndex::search(const float*, std::int64_t, std::int64_t, std::int64_t, float*, std::int64_t*) {}

#else

namespace {

#ifdef ATTRIBUTARY_FAISS_CUVS
constexpr bool kCuvs = true;
constexpr std::int64_t kMost = 16384;  // rows and lists a search
#else
constexpr bool kCuvs = false;
constexpr std::int64_t kMost = 2048;
#endif

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw BackendError(ErrorKind::kUnsupported, name + ": " + problem);
}

// Sub-quantisers that the classic kernels are compiled for; above 48 the lookup tables fit in fp16 only.
constexpr std::size_t kSubquantisers[] = {1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96};

void check_codes(const faiss::Index& host, const std::string& name) {
  if (dynamic_cast<const faiss::IndexFlat*>(&host) != nullptr) return;
  const auto* codes = dynamic_cast<const faiss::IndexIVFPQ*>(&host);
  if (codes == nullptr) {
    refuse(
        name,
        "its codes have no GPU kernel (flat and IVF-PQ have); build the bundle for a GPU, or set KIND_CPU");
  }
  const std::string found =
      std::to_string(codes->pq.M) + " sub-quantisers of " + std::to_string(codes->pq.nbits) + " bits";
  if (kCuvs) {
    if (codes->pq.nbits < 4 || codes->pq.nbits > 8 || codes->pq.M * codes->pq.nbits % 8 != 0) {
      refuse(name, found + "; cuVS takes 4 to 8 bits, and whole bytes a code");
    }
    return;
  }
  const bool compiled = std::find(std::begin(kSubquantisers), std::end(kSubquantisers), codes->pq.M) !=
                        std::end(kSubquantisers);
  if (codes->pq.nbits != 8 || !compiled) {
    refuse(name,
           found + "; the GPU takes 8 bits and 1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64 or 96");
  }
}

}  // namespace

struct GpuIndex::State {
  faiss::gpu::StandardGpuResources resources;
  std::unique_ptr<faiss::Index> index;
  bool lists = false;
};

GpuIndex::GpuIndex(const faiss::Index& host, const std::string& name, int device, std::int64_t nprobe,
                   const GpuLimits& limits)
    : state_(std::make_unique<State>()) {
  check_codes(host, name);
  if (std::min<std::int64_t>(limits.candidates, host.ntotal) > kMost) {
    refuse("parameters.candidates", "a GPU search returns at most " + std::to_string(kMost) +
                                        " rows; lower candidates, or set KIND_CPU");
  }
  if (nprobe > kMost)
    refuse("parameters.nprobe", "a GPU search probes at most " + std::to_string(kMost) + " lists");
  state_->resources.setTempMemory(static_cast<std::size_t>(limits.temp_bytes));
  faiss::gpu::GpuClonerOptions options;
  // Nothing of this is stored in the index file: left to its default, more than 48 sub-quantisers do not
  // load.
  options.useFloat16 = true;
  options.useFloat16CoarseQuantizer = false;
  options.usePrecomputed = false;
  options.indicesOptions = faiss::gpu::INDICES_64_BIT;
  options.reserveVecs = static_cast<long>(host.ntotal);
#ifdef ATTRIBUTARY_FAISS_CUVS
  options.use_cuvs = true;
#else
  options.use_cuvs = false;
#endif
  state_->index.reset(faiss::gpu::index_cpu_to_gpu(&state_->resources, device, &host, &options));
  state_->lists = dynamic_cast<const faiss::IndexIVF*>(&host) != nullptr;
}

GpuIndex::~GpuIndex() = default;

void GpuIndex::search(const float* queries, std::int64_t count, std::int64_t width, std::int64_t nprobe,
                      float* distances, std::int64_t* rows) {
  faiss::SearchParametersIVF parameters;
  parameters.nprobe = static_cast<std::size_t>(std::min(nprobe, kMost));
  state_->index->search(count, queries, width, distances, rows, state_->lists ? &parameters : nullptr);
}

#endif

}  // namespace attributary::triton
