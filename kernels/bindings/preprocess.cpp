#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings/bindings.h"
#include "preprocess/resize.h"

namespace attributary::bindings {
namespace {

using preprocess::Image;
// Rows may be apart or upside down; pixels and channels must be adjacent.
using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;

Image view(const Pixels& pixels) {
  Image image;
  image.data = pixels.data();
  image.height = static_cast<std::int64_t>(pixels.shape(0));
  image.width = static_cast<std::int64_t>(pixels.shape(1));
  image.stride = pixels.stride(0);
  require(image.height >= 1 && image.height <= preprocess::kMaxSide && image.width >= 1 &&
              image.width <= preprocess::kMaxSide,
          "image: sides of 1 to 2^24 pixels");
  require((pixels.stride(1) == 3 || image.width == 1) && pixels.stride(2) == 1,
          "image: pixels and channels must be adjacent");
  return image;
}

void run(const std::vector<Pixels>& pixels, Array<std::uint8_t, 4> out, const std::string& isa, int threads) {
  const std::size_t size = out.shape(1);
  require(out.shape(0) == pixels.size() && out.shape(2) == size && out.shape(3) == 3,
          "out: [images, size, size, 3]");
  require(size >= 1 && size <= static_cast<std::size_t>(preprocess::kMaxSize), "size: 1 to 4096 pixels");
  std::vector<Image> images;
  images.reserve(pixels.size());
  for (const Pixels& one : pixels) images.push_back(view(one));
  const Isa level = parse_isa(isa);
  const nb::gil_scoped_release release;
  preprocess::resize_crop_batch(images.data(), static_cast<std::int64_t>(images.size()),
                                static_cast<std::int64_t>(size), out.data(), level, threads);
}

}  // namespace

void bind_preprocess(nb::module_& m) {
  m.def("resize_crop_batch", &run, nb::arg("images"), nb::arg("out").noconvert(), nb::arg("isa"),
        nb::arg("threads"), "Write the crops into `out`; see attributary.kernels.resize_crop_batch.");
}

}  // namespace attributary::bindings
