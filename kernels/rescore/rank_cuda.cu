#include <algorithm>
#include <array>
#include <stdexcept>

#include "common/cuda_memory.h"
#include "rescore/rank_cuda.h"
#include "rescore/rank_kernels.cuh"

namespace attributary::rescore {

using cuda::check;
using cuda::DeviceArray;

struct CudaStore::Impl {
  device::View view{};
  std::int64_t max_queries, max_candidates, store_rows, dim;
  cuda::Stream stream;
  cudaGraphExec_t graph = nullptr;
  std::array<std::int64_t, 4> shape{-1, -1, -1, -1};  // that the graph was captured for

  DeviceArray<std::uint16_t> vectors;
  DeviceArray<float> queries, similarity, out_similarity;
  DeviceArray<std::int64_t> candidates, fault_row, out_rows;
  DeviceArray<std::uint8_t> visible;
  DeviceArray<std::int32_t> row, row_slot;
  DeviceArray<std::uint32_t> row_keys;
  DeviceArray<device::Wide> fault;

  Impl(const Store& store, std::int64_t queries_at_most, std::int64_t candidates_at_most);
  ~Impl() {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
  void launch();
  void capture();
  void upload(const Batch& batch);
  Fault read_fault();
};

namespace {

std::int64_t table_capacity(std::int64_t width) {
  std::int64_t capacity = 64;
  while (capacity < width * 2) capacity *= 2;
  return capacity;
}

}  // namespace

CudaStore::Impl::Impl(const Store& store, std::int64_t queries_at_most, std::int64_t candidates_at_most)
    : max_queries(queries_at_most),
      max_candidates(candidates_at_most),
      store_rows(store.rows),
      dim(store.dim) {
  if (store.type != VectorType::kFloat16 || store.dim % 8 != 0 || store.dim > 8192) {
    throw std::invalid_argument("vectors: float16 with dimensions a multiple of 8, at most 8192");
  }
  const auto count = static_cast<std::size_t>(max_queries),
             halves = static_cast<std::size_t>(store.rows * dim);
  const auto places = static_cast<std::size_t>(max_queries * max_candidates);
  const auto make = [](auto& array, std::size_t size) { array = std::decay_t<decltype(array)>(size); };
  make(vectors, halves);
  make(queries, count * static_cast<std::size_t>(dim));
  make(candidates, places);
  make(visible, static_cast<std::size_t>((store_rows + 7) / 8));
  for (auto* array : {&row, &row_slot}) make(*array, places);
  make(similarity, places);
  make(row_keys, static_cast<std::size_t>(max_queries * table_capacity(max_candidates)));
  make(fault, 1);
  make(fault_row, count);
  make(out_rows, count * kCudaMaxTopK);
  make(out_similarity, count * kCudaMaxTopK);
  // What cleared them ran on the default stream, which a non-blocking stream does not wait for.
  check(cudaDeviceSynchronize(), "preparation of the store");
  vectors.upload(static_cast<const std::uint16_t*>(store.vectors), halves, stream);
  stream.wait();

  view.vectors = reinterpret_cast<const __half*>(vectors.data());
  view.store_rows = store_rows;
  view.dim = static_cast<std::int32_t>(dim);
  view.queries = queries.data();
  view.candidates = candidates.data();
  view.row = row.data();
  view.row_slot = row_slot.data();
  view.similarity = similarity.data();
  view.row_keys = row_keys.data();
  view.out_rows = out_rows.data();
  view.out_similarity = out_similarity.data();
  view.fault = fault.data();
  view.fault_row = fault_row.data();
}

void CudaStore::Impl::launch() {
  const auto count = static_cast<unsigned>(view.count), width = static_cast<unsigned>(view.width);
  check(cudaMemsetAsync(fault.data(), 0, sizeof(device::Wide), stream), "reset of the fault");
  check(cudaMemsetAsync(fault_row.data(), 0, count * sizeof(std::int64_t), stream), "reset of the faults");
  const auto blocks = [width](int each) {
    return (width + static_cast<unsigned>(each) - 1) / static_cast<unsigned>(each);
  };
  device::claim_rows<<<dim3(blocks(device::kDotThreads), count), device::kDotThreads, 0, stream>>>(view);
  device::dot_rows<<<dim3(blocks(device::kRowsABlock), count), device::kDotThreads,
                     static_cast<std::size_t>(dim) * sizeof(float), stream>>>(view);
  device::select_top<<<count, device::kTopThreads, 0, stream>>>(view);
  check(cudaGetLastError(), "launch of the re-scoring");
}

void CudaStore::Impl::capture() {
  cudaGraph_t captured = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin of the capture");
  try {
    launch();
  } catch (...) {
    cudaStreamEndCapture(stream, &captured);
    if (captured != nullptr) cudaGraphDestroy(captured);
    throw;
  }
  check(cudaStreamEndCapture(stream, &captured), "end of the capture");
  if (graph != nullptr) cudaGraphExecDestroy(graph);
  graph = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&graph, captured, 0);
  cudaGraphDestroy(captured);
  check(made, "instantiation of the graph");
}

void CudaStore::Impl::upload(const Batch& batch) {
  const auto count = static_cast<std::size_t>(batch.count), width = static_cast<std::size_t>(batch.width);
  queries.upload(batch.queries, count * static_cast<std::size_t>(dim), stream);
  candidates.upload(batch.candidates, count * width, stream);
  if (batch.visible != nullptr) visible.upload(batch.visible, visible.size(), stream);
}

Fault CudaStore::Impl::read_fault() {
  device::Wide code = 0;
  fault.download(&code, 1, stream);
  stream.wait();
  if (code == 0) return {};
  const device::Wide plain = ~code;
  Fault found;
  found.kind = (plain & 1) == 0 ? FaultKind::kOutOfRange : FaultKind::kNotFinite;
  found.query = static_cast<std::int64_t>(plain >> 1);
  check(cudaMemcpyAsync(&found.row, fault_row.data() + found.query, sizeof(found.row), cudaMemcpyDeviceToHost,
                        stream),
        "copy of the fault");
  stream.wait();
  return found;
}

CudaStore::CudaStore(const Store& store, std::int64_t max_queries, std::int64_t max_candidates)
    : impl_(std::make_unique<Impl>(store, max_queries, max_candidates)) {}
CudaStore::~CudaStore() = default;

std::int64_t CudaStore::rows() const { return impl_->store_rows; }
std::int64_t CudaStore::dim() const { return impl_->dim; }
std::int64_t CudaStore::max_queries() const { return impl_->max_queries; }
std::int64_t CudaStore::max_candidates() const { return impl_->max_candidates; }

Fault CudaStore::rank(const Batch& batch, const Result& result) {
  Impl& work = *impl_;
  if (batch.count > work.max_queries || batch.width > work.max_candidates || result.top_k > kCudaMaxTopK)
    throw std::invalid_argument("the batch is larger than the store was made for");
  if (batch.count == 0 || batch.width == 0) return {};
  work.view.count = static_cast<std::int32_t>(batch.count);
  work.view.width = static_cast<std::int32_t>(batch.width);
  work.view.capacity = static_cast<std::int32_t>(table_capacity(batch.width));
  work.view.top_k = static_cast<std::int32_t>(result.top_k);
  work.view.visible = batch.visible != nullptr ? work.visible.data() : nullptr;
  const std::array<std::int64_t, 4> shape{batch.count, batch.width, result.top_k,
                                          batch.visible != nullptr ? 1 : 0};
  if (shape != work.shape) {
    work.shape = {-1, -1, -1, -1};
    work.capture();
    work.shape = shape;
  }
  work.upload(batch);
  check(cudaGraphLaunch(work.graph, work.stream), "launch of the graph");
  const Fault fault = work.read_fault();
  if (fault.kind != FaultKind::kNone) return fault;
  const auto places = static_cast<std::size_t>(batch.count * result.top_k);
  work.out_rows.download(result.rows, places, work.stream);
  work.out_similarity.download(result.similarity, places, work.stream);
  work.stream.wait();
  return {};
}

double CudaStore::replay_seconds(int repeats) {
  Impl& work = *impl_;
  if (work.graph == nullptr || repeats < 1)
    throw std::invalid_argument("replay_seconds: answer a batch first");
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  check(cudaEventRecord(begin, work.stream), "cudaEventRecord");
  for (int i = 0; i < repeats; ++i) check(cudaGraphLaunch(work.graph, work.stream), "launch of the graph");
  check(cudaEventRecord(end, work.stream), "cudaEventRecord");
  work.stream.wait();
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return milliseconds * 1e-3 / repeats;
}

double device_copy_rate() {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  constexpr int kRepeats = 10;
  const cuda::Stream stream;
  DeviceArray<std::uint8_t> source(kBytes), target(kBytes);
  check(cudaDeviceSynchronize(), "preparation of the copy");
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  for (int i = 0; i <= kRepeats; ++i) {
    if (i == 1) check(cudaEventRecord(begin, stream), "cudaEventRecord");  // the first one warms up
    check(cudaMemcpyAsync(target.data(), source.data(), kBytes, cudaMemcpyDeviceToDevice, stream), "copy");
  }
  check(cudaEventRecord(end, stream), "cudaEventRecord");
  stream.wait();
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return 2.0 * kBytes * kRepeats / (milliseconds * 1e-3);
}

}  // namespace attributary::rescore
