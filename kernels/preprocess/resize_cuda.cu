#include <algorithm>
#include <vector>

#include "preprocess/resize_cuda.h"
#include "preprocess/resize_kernels.cuh"

namespace attributary::preprocess {
namespace {

using device::AxisView;

constexpr int kThreads = 128;
constexpr unsigned kMaxGrid = 65535;  // of the second and third dimensions

dim3 grid(std::int64_t across, std::int64_t lines, std::int64_t images) {
  return dim3(static_cast<unsigned>((across + kThreads - 1) / kThreads),
              static_cast<unsigned>(std::min<std::int64_t>(lines, kMaxGrid)), static_cast<unsigned>(images));
}

cuda::DeviceArray<std::int32_t> to_device(const std::vector<std::int32_t>& values) {
  cuda::DeviceArray<std::int32_t> array(values.size());
  if (!values.empty()) {
    cuda::check(
        cudaMemcpy(array.data(), values.data(), values.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice),
        "copy of the resize tables");
  }
  return array;
}

std::vector<std::int32_t> narrowed(const std::vector<std::int64_t>& values) {
  return std::vector<std::int32_t>(values.begin(), values.end());
}

}  // namespace

CudaResizer::DeviceAxis::DeviceAxis(const Axis& axis)
    : start(to_device(narrowed(axis.start))),
      length(to_device(narrowed(axis.length))),
      weight(to_device(axis.weight)),
      taps(static_cast<std::int32_t>(axis.taps)),
      first(static_cast<std::int32_t>(axis.first)) {}

CudaResizer::CudaResizer(std::int64_t height, std::int64_t width, std::int64_t size, std::int64_t max_batch)
    : plan_(find_plan(height, width, size, Isa::kPortable)),
      max_batch_(std::min<std::int64_t>(max_batch, kMaxGrid)),
      columns_(plan_->columns),
      rows_(plan_->rows) {
  const std::int64_t between = plan_->copy             ? 0
                               : plan_->vertical_first ? size * plan_->columns.sources * 3
                                                       : plan_->rows.sources * size * 3;
  between_ = cuda::DeviceArray<std::uint8_t>(static_cast<std::size_t>(max_batch_ * between));
}

void CudaResizer::run(const std::uint8_t* images, std::int64_t count, std::uint8_t* targets,
                      cudaStream_t stream) {
  const std::int64_t size = plan_->size, stride = plan_->width * 3, image = plan_->height * stride;
  const AxisView columns{columns_.start.data(), columns_.length.data(), columns_.weight.data(), columns_.taps,
                         columns_.first};
  const AxisView rows{rows_.start.data(), rows_.length.data(), rows_.weight.data(), rows_.taps, rows_.first};
  const auto side = static_cast<std::int32_t>(size), bytes = static_cast<std::int32_t>(size * 3);
  for (std::int64_t from = 0; from < count; from += max_batch_) {
    const std::int64_t batch = std::min(max_batch_, count - from);
    const std::uint8_t* source = images + from * image;
    std::uint8_t* target = targets + from * size * size * 3;
    if (plan_->copy) {
      device::copy_window<<<grid(bytes, size, batch), kThreads, 0, stream>>>(
          source, stride, image, plan_->top, plan_->left * 3, target, side, bytes);
    } else if (plan_->vertical_first) {
      const std::int64_t wide = plan_->columns.sources * 3;
      device::shorten<<<grid(wide, size, batch), kThreads, 0, stream>>>(
          rows, source, stride, image, columns.first * 3LL, between_.data(), side,
          static_cast<std::int32_t>(wide));
      AxisView rebased = columns;
      rebased.first = 0;  // the strip between the passes begins at the first column needed
      device::narrow<<<grid(size, size, batch), kThreads, 0, stream>>>(rebased, between_.data(), wide,
                                                                       size * wide, 0, target, side, side);
    } else {
      const std::int64_t lines = plan_->rows.sources;
      device::narrow<<<grid(size, lines, batch), kThreads, 0, stream>>>(columns, source, stride, image,
                                                                        rows.first, between_.data(), side,
                                                                        static_cast<std::int32_t>(lines));
      AxisView rebased = rows;
      rebased.first = 0;  // likewise, at the first row needed
      device::shorten<<<grid(bytes, size, batch), kThreads, 0, stream>>>(
          rebased, between_.data(), size * 3, lines * size * 3, 0, target, side, bytes);
    }
    cuda::check(cudaGetLastError(), "launch of the resize");
  }
}

void CudaResizer::run_host(const std::uint8_t* images, std::int64_t count, std::uint8_t* targets) {
  const auto in = static_cast<std::size_t>(plan_->height * plan_->width * 3);
  const auto out = static_cast<std::size_t>(plan_->size * plan_->size * 3);
  const auto room = static_cast<std::size_t>(max_batch_);
  if (input_.size() == 0) {
    input_ = cuda::DeviceArray<std::uint8_t>(room * in);
    output_ = cuda::DeviceArray<std::uint8_t>(room * out);
  }
  for (std::int64_t from = 0; from < count; from += max_batch_) {
    const auto batch = static_cast<std::size_t>(std::min(max_batch_, count - from));
    input_.upload(images + static_cast<std::size_t>(from) * in, batch * in, stream_);
    run(input_.data(), static_cast<std::int64_t>(batch), output_.data(), stream_);
    output_.download(targets + static_cast<std::size_t>(from) * out, batch * out, stream_);
    stream_.wait();
  }
}

}  // namespace attributary::preprocess
