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
#include "rescore/rescore_cuda.h"

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
  Resident(Halves vectors, Array<const std::int32_t, 1> creators, Array<const std::int32_t, 1> groups,
           std::int64_t max_queries, std::int64_t max_candidates) {
    require(vectors.dtype().bits == 16, "vectors: float16");
    require(creators.shape(0) == vectors.shape(0) && groups.shape(0) == vectors.shape(0),
            "creators and groups: one entry a vector");
    require(max_queries >= 1 && max_queries <= 65535 && max_candidates >= 1 && max_candidates <= 65536,
            "max_queries: 1 to 65535; max_candidates: 1 to 65536");
    rescore::Store store;
    store.vectors = vectors.data();
    store.rows = static_cast<std::int64_t>(vectors.shape(0));
    store.dim = static_cast<std::int64_t>(vectors.shape(1));
    store.creators = creators.data();
    store.groups = groups.data();
    require(store.rows < (std::int64_t{1} << 31), "vectors: more than 2^31 - 1 rows");
    const nb::gil_scoped_release release;
    store_ = std::make_unique<rescore::CudaStore>(store, max_queries, max_candidates);
  }

  void rescore(Array<const float, 2> queries, Array<const std::int64_t, 2> candidates,
               Array<const float, 1> temperature, Array<const float, 1> threshold,
               Array<const float, 1> background, std::optional<Array<const std::uint8_t, 1>> allowed,
               Array<std::int64_t, 2> rows, Array<float, 2> similarity, Array<float, 2> share,
               Array<float, 1> diffuse, Array<std::int32_t, 2> creators, Array<float, 2> creator_share,
               Array<std::int32_t, 2> creator_items) {
    const std::size_t count = queries.shape(0), top_k = rows.shape(1), top_creators = creators.shape(1);
    require(queries.shape(1) == static_cast<std::size_t>(store_->dim()),
            "queries and vectors differ in dimensions");
    require(candidates.shape(0) == count && temperature.shape(0) == count && threshold.shape(0) == count &&
                background.shape(0) == count && rows.shape(0) == count && diffuse.shape(0) == count &&
                creators.shape(0) == count,
            "one entry a query");
    require(!allowed || allowed->shape(0) == static_cast<std::size_t>((store_->rows() + 7) / 8),
            "allowed: one bit a vector");
    require(similarity.size() == count * top_k && share.size() == count * top_k &&
                creator_share.size() == count * top_creators && creator_items.size() == count * top_creators,
            "the results differ in shape");
    const rescore::Batch batch{queries.data(),
                               candidates.data(),
                               static_cast<std::int64_t>(count),
                               static_cast<std::int64_t>(candidates.shape(1)),
                               temperature.data(),
                               threshold.data(),
                               background.data(),
                               allowed ? allowed->data() : nullptr};
    const rescore::Result result{rows.data(),
                                 similarity.data(),
                                 share.data(),
                                 diffuse.data(),
                                 creators.data(),
                                 creator_share.data(),
                                 creator_items.data(),
                                 static_cast<std::int64_t>(top_k),
                                 static_cast<std::int64_t>(top_creators)};
    Fault fault;
    {
      const nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      fault = store_->rescore(batch, result);
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
  m.doc() = "CUDA kernels of attributary; use them through attributary.kernels.cuda.";
  nb::exception<attributary::cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
  m.def("why_not", &why_not);
  m.def("device_name", &device_name);
  m.def("device_copy_rate", &attributary::rescore::device_copy_rate,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("resize_crop_batch", &resize_crop_batch, nb::arg("images").noconvert(), nb::arg("out").noconvert());
  m.attr("max_top_k") = attributary::rescore::kCudaMaxTopK;
  m.attr("max_top_creators") = attributary::rescore::kCudaMaxTopCreators;
  nb::class_<Resident>(m, "Resident")
      .def(nb::init<Halves, Array<const std::int32_t, 1>, Array<const std::int32_t, 1>, std::int64_t,
                    std::int64_t>())
      .def("rescore", &Resident::rescore, nb::arg("queries").noconvert(), nb::arg("candidates").noconvert(),
           nb::arg("temperature").noconvert(), nb::arg("threshold").noconvert(),
           nb::arg("background").noconvert(), nb::arg("allowed").none(), nb::arg("rows").noconvert(),
           nb::arg("similarity").noconvert(), nb::arg("share").noconvert(), nb::arg("diffuse").noconvert(),
           nb::arg("creator_codes").noconvert(), nb::arg("creator_share").noconvert(),
           nb::arg("creator_items").noconvert())
      .def("replay_seconds", &Resident::replay_seconds);
}
