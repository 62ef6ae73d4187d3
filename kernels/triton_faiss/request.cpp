#include "triton_faiss/request.h"

#include <array>
#include <cmath>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>

#ifdef ATTRIBUTARY_FAISS_GPU
#include <cuda_runtime_api.h>
#endif

#include "triton_faiss/call.h"

namespace attributary::triton {
namespace {

constexpr double kUnitTolerance = 1e-3;

[[noreturn]] void refuse(const char* name, const std::string& problem) {
  throw BackendError(ErrorKind::kInvalidArgument, std::string(name) + ": " + problem);
}

// One input as Triton holds it.
struct Tensor {
  const char* name = nullptr;
  std::uint64_t element = 0;  // bytes
  TRITONBACKEND_Input* input = nullptr;
  std::int64_t rows = 0, columns = 0;
  std::uint64_t bytes = 0;
  std::uint32_t buffers = 0;
};

// The inputs of a request by name: what is expected, and of which type.
struct Inputs {
  Tensor embedding{"embedding", sizeof(float)}, filter{"filter", 1};

  std::array<std::pair<Tensor*, TRITONSERVER_DataType>, 2> expected() {
    return {{{&embedding, TRITONSERVER_TYPE_FP32}, {&filter, TRITONSERVER_TYPE_UINT8}}};
  }
};

void take(TRITONBACKEND_Input* input, Inputs& inputs) {
  const char* name = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  const std::int64_t* shape = nullptr;
  std::uint32_t dims = 0, buffers = 0;
  std::uint64_t bytes = 0;
  call(TRITONBACKEND_InputProperties(input, &name, &type, &shape, &dims, &bytes, &buffers));
  for (const auto& [tensor, wanted] : inputs.expected()) {
    if (std::string_view(name) != tensor->name) continue;
    if (type != wanted) {
      refuse(tensor->name, std::string("must be ") + TRITONSERVER_DataTypeString(wanted) + ", is " +
                               TRITONSERVER_DataTypeString(type));
    }
    if (dims != 2) refuse(tensor->name, "must have 2 dimensions, has " + std::to_string(dims));
    tensor->input = input;
    tensor->rows = shape[0];
    tensor->columns = shape[1];
    tensor->bytes = bytes;
    tensor->buffers = buffers;
    return;
  }
  refuse(name, "is not an input of this model");
}

Inputs find_inputs(TRITONBACKEND_Request* request) {
  Inputs inputs;
  std::uint32_t count = 0;
  call(TRITONBACKEND_RequestInputCount(request, &count));
  for (std::uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Input* input = nullptr;
    call(TRITONBACKEND_RequestInputByIndex(request, i, &input));
    take(input, inputs);
  }
  return inputs;
}

// Refuses any shape but this one, and one that the data does not fill: nothing is reserved for it then.
void require(const Tensor& tensor, std::int64_t rows, std::int64_t columns) {
  if (tensor.input == nullptr) refuse(tensor.name, "is missing");
  if (tensor.rows != rows || tensor.columns != columns) {
    refuse(tensor.name, "must have shape [" + std::to_string(rows) + ", " + std::to_string(columns) +
                            "], has [" + std::to_string(tensor.rows) + ", " + std::to_string(tensor.columns) +
                            "]");
  }
  if (rows < 0) refuse(tensor.name, "has a shape below 0");
  const std::uint64_t row = static_cast<std::uint64_t>(columns) * tensor.element;
  const std::uint64_t filled = tensor.bytes / row;
  if (filled < static_cast<std::uint64_t>(rows)) refuse(tensor.name, "holds less data than its shape says");
  if (filled > static_cast<std::uint64_t>(rows) || tensor.bytes % row != 0) {
    refuse(tensor.name, "holds more data than its shape says");
  }
}

// Copies `size` bytes of an input, whatever the number of its buffers.
void copy(const Tensor& tensor, void* target, std::size_t size) {
  auto* at = static_cast<std::uint8_t*>(target);
  std::size_t left = size;
  for (std::uint32_t i = 0; i < tensor.buffers; ++i) {
    const void* buffer = nullptr;
    std::uint64_t bytes = 0;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    std::int64_t device = 0;
    call(TRITONBACKEND_InputBuffer(tensor.input, i, &buffer, &bytes, &memory, &device));
    if (bytes > left) refuse(tensor.name, "holds more data than its shape says");
    if (memory == TRITONSERVER_MEMORY_GPU) {
#ifdef ATTRIBUTARY_FAISS_GPU
      if (cudaMemcpy(at, buffer, bytes, cudaMemcpyDeviceToHost) != cudaSuccess) {
        throw BackendError(ErrorKind::kInternal,
                           std::string(tensor.name) + ": cannot be copied from the GPU");
      }
#else
      throw BackendError(
          ErrorKind::kUnsupported,
          std::string(tensor.name) + ": is in GPU memory, this backend was built without GPU FAISS");
#endif
    } else if (bytes > 0) {
      std::memcpy(at, buffer, bytes);
    }
    at += bytes;
    left -= bytes;
  }
  if (left != 0) refuse(tensor.name, "holds less data than its shape says");
}

void check_unit(const char* name, const float* rows, std::int64_t count, std::int64_t dim) {
  for (std::int64_t row = 0; row < count; ++row) {
    // In double: the squares of large finite values overflow a float.
    double sum = 0;
    for (std::int64_t i = 0; i < dim; ++i) {
      const double value = rows[row * dim + i];
      sum += value * value;
    }
    const double length = std::sqrt(sum);
    if (std::abs(length - 1) <= kUnitTolerance) continue;
    std::ostringstream text;
    text << "row " << row << " must be finite and of length 1, is " << length;
    refuse(name, text.str());
  }
}

// Appends the bitmaps of the request and points its queries to them.
void take_filters(const Tensor& filter, std::int64_t rows, const Settings& settings, Batch& batch,
                  std::size_t first) {
  if (filter.input == nullptr || filter.columns == 0) return;
  const std::int64_t bytes = (settings.items + 7) / 8;
  if (filter.columns != bytes) {
    refuse(filter.name,
           "must have " + std::to_string(bytes) + " bytes or none, got " + std::to_string(filter.columns));
  }
  require(filter, rows, bytes);
  const std::size_t start = batch.bitmaps.size();
  batch.bitmaps.resize(start + static_cast<std::size_t>(rows * bytes));
  copy(filter, batch.bitmaps.data() + start, static_cast<std::size_t>(rows * bytes));
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto at = static_cast<std::ptrdiff_t>(start) + row * bytes;
    // Bits beyond the last row mean nothing and must not be counted.
    if (settings.items % 8 != 0) {
      batch.bitmaps[static_cast<std::size_t>(at + bytes - 1)] &=
          static_cast<std::uint8_t>((1 << (settings.items % 8)) - 1);
    }
    batch.filter[first + static_cast<std::size_t>(row)] = at;
  }
}

}  // namespace

Slice read_request(TRITONBACKEND_Request* request, const Settings& settings, Batch& batch) {
  Inputs inputs = find_inputs(request);
  const std::int64_t rows = inputs.embedding.rows;
  require(inputs.embedding, rows, settings.dim);

  const Slice slice{batch.count(), static_cast<std::size_t>(rows)};
  const std::size_t embedded = batch.embeddings.size(), mapped = batch.bitmaps.size();
  try {
    batch.embeddings.resize(embedded + static_cast<std::size_t>(rows * settings.dim));
    float* embeddings = batch.embeddings.data() + embedded;
    copy(inputs.embedding, embeddings, static_cast<std::size_t>(rows * settings.dim) * sizeof(float));
    check_unit(inputs.embedding.name, embeddings, rows, settings.dim);
    batch.filter.resize(slice.first + slice.count, kNoFilter);
    take_filters(inputs.filter, rows, settings, batch, slice.first);
  } catch (...) {
    batch.embeddings.resize(embedded);
    batch.filter.resize(slice.first);
    batch.bitmaps.resize(mapped);
    throw;
  }
  return slice;
}

}  // namespace attributary::triton
