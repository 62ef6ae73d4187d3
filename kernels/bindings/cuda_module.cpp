// The Python module attributary.kernels._native_cuda; it loads, and says what is missing, without a driver.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "common/cuda_memory.h"
#include "preprocess/resize.h"
#include "preprocess/resize_cuda.h"
#include "rescore/rank_cuda.h"

namespace attributary::bindings {
namespace {

using rescore::Fault;
using rescore::FaultKind;
using Halves = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Empty where a device can be used, else why not.
std::string why_not() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count > 0 ? "" : "no CUDA device";
}

std::string device_name() {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

// A store with a lock: queries of several threads take turns on the device.
class Resident {
 public:
  Resident(Halves vectors, std::int64_t max_queries, std::int64_t max_candidates) {
    require(vectors.dtype().bits == 16, "vectors: float16");
    require(max_queries >= 1 && max_queries <= 65535 && max_candidates >= 1 && max_candidates <= 65536,
            "max_queries: 1 to 65535; max_candidates: 1 to 65536");
    rescore::Store store;
    store.vectors = vectors.data();
    store.rows = static_cast<std::int64_t>(vectors.shape(0));
    store.dim = static_cast<std::int64_t>(vectors.shape(1));
    require(store.rows < (std::int64_t{1} << 31), "vectors: more than 2^31 - 1 rows");
    const nb::gil_scoped_release release;
    store_ = std::make_unique<rescore::CudaStore>(store, max_queries, max_candidates);
  }

  void rank(Array<const float, 2> queries, Array<const std::int64_t, 2> candidates,
            std::optional<Array<const std::uint8_t, 1>> allowed, Array<std::int64_t, 2> rows,
            Array<float, 2> similarity) {
    const std::size_t count = queries.shape(0);
    require(queries.shape(1) == static_cast<std::size_t>(store_->dim()),
            "queries and vectors differ in dimensions");
    require(candidates.shape(0) == count && rows.shape(0) == count && similarity.shape(0) == count &&
                similarity.shape(1) == rows.shape(1),
            "one row a query, and results of one shape");
    require(!allowed || allowed->shape(0) == static_cast<std::size_t>((store_->rows() + 7) / 8),
            "allowed: one bit a vector");
    rescore::Batch batch;
    batch.queries = queries.data();
    batch.candidates = candidates.data();
    batch.count = static_cast<std::int64_t>(count);
    batch.width = static_cast<std::int64_t>(candidates.shape(1));
    batch.visible = allowed ? allowed->data() : nullptr;
    rescore::Result result;
    result.rows = rows.data();
    result.similarity = similarity.data();
    result.top_k = static_cast<std::int64_t>(rows.shape(1));
    Fault fault;
    {
      const nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      fault = store_->rank(batch, result);
    }
    const std::string where = "query " + std::to_string(fault.query) + ", row " + std::to_string(fault.row);
    if (fault.kind == FaultKind::kOutOfRange) {
      throw nb::index_error((where + ": outside the " + std::to_string(store_->rows()) + " vectors").c_str());
    }
    if (fault.kind == FaultKind::kNotFinite)
      throw nb::value_error((where + ": the similarity is not finite").c_str());
  }

  double replay_seconds(int repeats) {
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    return store_->replay_seconds(repeats);
  }

 private:
  std::unique_ptr<rescore::CudaStore> store_;
  std::mutex mutex_;
};

void resize_crop_batch(Array<const std::uint8_t, 4> images, Array<std::uint8_t, 4> out) {
  const auto count = static_cast<std::int64_t>(images.shape(0)),
             size = static_cast<std::int64_t>(out.shape(1));
  const auto height = static_cast<std::int64_t>(images.shape(1)),
             width = static_cast<std::int64_t>(images.shape(2));
  require(images.shape(3) == 3 && out.shape(3) == 3 && out.shape(0) == images.shape(0) &&
              out.shape(2) == out.shape(1),
          "images: [B, H, W, 3], out: [B, size, size, 3]");
  require(size >= 1 && size <= preprocess::kMaxSize && height >= 1 && width >= 1 &&
              height <= preprocess::kMaxSide && width <= preprocess::kMaxSide,
          "size: 1 to 4096; sides: 1 to 2^24");
  const nb::gil_scoped_release release;
  preprocess::CudaResizer resizer(height, width, size, std::clamp<std::int64_t>(count, 1, 64));
  resizer.run_host(images.data(), count, out.data());
}

}  // namespace
}  // namespace attributary::bindings

NB_MODULE(_native_cuda, m) {
  using namespace attributary::bindings;
  m.doc() = "CUDA kernels of attributary; use them through tools/kernels_cuda.py.";
  nb::exception<attributary::cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
  m.def("why_not", &why_not);
  m.def("device_name", &device_name);
  m.def("device_copy_rate", &attributary::rescore::device_copy_rate,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("resize_crop_batch", &resize_crop_batch, nb::arg("images").noconvert(), nb::arg("out").noconvert());
  m.attr("max_top_k") = attributary::rescore::kCudaMaxTopK;
  nb::class_<Resident>(m, "Resident")
      .def(nb::init<Halves, std::int64_t, std::int64_t>())
      .def("rank", &Resident::rank, nb::arg("queries").noconvert(), nb::arg("candidates").noconvert(),
           nb::arg("allowed").none(), nb::arg("rows").noconvert(), nb::arg("similarity").noconvert())
      .def("replay_seconds", &Resident::replay_seconds);
}
