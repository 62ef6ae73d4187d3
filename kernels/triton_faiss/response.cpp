#include "triton_faiss/response.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "triton_faiss/call.h"

namespace attributary::triton {
namespace {

class Writer {
 public:
  Writer(TRITONBACKEND_Response* response, const Slice& slice) : response_(response), slice_(slice) {}

  // The first `columns` of the request's rows of an array whose rows are `stride` apart.
  template <typename Value>
  void rows(const char* name, TRITONSERVER_DataType type, const Value* array, std::size_t stride,
            std::size_t columns) {
    Value* target = output<Value>(name, type, columns);
    const Value* source = array + slice_.first * stride;
    for (std::size_t q = 0; q < slice_.count; ++q) {
      std::memcpy(target + q * columns, source + q * stride, columns * sizeof(Value));
    }
  }

  // The same values for every row.
  template <typename Value, std::size_t columns>
  void repeated(const char* name, TRITONSERVER_DataType type, const Value (&values)[columns]) {
    Value* target = output<Value>(name, type, columns);
    for (std::size_t q = 0; q < slice_.count; ++q) std::copy_n(values, columns, target + q * columns);
  }

 private:
  template <typename Value>
  Value* output(const char* name, TRITONSERVER_DataType type, std::size_t columns) {
    const std::int64_t shape[] = {static_cast<std::int64_t>(slice_.count),
                                  static_cast<std::int64_t>(columns)};
    TRITONBACKEND_Output* output = nullptr;
    call(TRITONBACKEND_ResponseOutput(response_, &output, name, type, shape, 2));
    void* buffer = nullptr;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    std::int64_t device = 0;
    call(TRITONBACKEND_OutputBuffer(output, &buffer, slice_.count * columns * sizeof(Value), &memory,
                                    &device));
    if (memory == TRITONSERVER_MEMORY_GPU) {
      throw BackendError(ErrorKind::kUnsupported,
                         std::string(name) + ": is wanted in GPU memory, host memory was asked for");
    }
    return static_cast<Value*>(buffer);
  }

  TRITONBACKEND_Response* response_;
  Slice slice_;
};

}  // namespace

void write_response(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, const Batch& batch,
                    const Answers& answers, const Slice& slice, std::uint64_t bundle_id) {
  std::int32_t top_k = 1, top_creators = 1;
  for (std::size_t q = slice.first; q < slice.first + slice.count; ++q) {
    top_k = std::max(top_k, batch.queries[q].top_k);
    top_creators = std::max(top_creators, batch.queries[q].top_creators);
  }
  const auto items = static_cast<std::size_t>(top_k), creators = static_cast<std::size_t>(top_creators);
  const std::uint64_t bundle[] = {bundle_id};
  const float timing[] = {answers.search_ms, answers.rescore_ms, static_cast<float>(batch.queries.size())};

  Writer writer(response, slice);
  std::uint32_t count = 0;
  call(TRITONBACKEND_RequestOutputCount(request, &count));
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* wanted = nullptr;
    call(TRITONBACKEND_RequestOutputName(request, i, &wanted));
    const std::string_view name(wanted);
    if (name == "row") {
      writer.rows("row", TRITONSERVER_TYPE_INT64, answers.row.data(), answers.top_k, items);
    } else if (name == "similarity") {
      writer.rows("similarity", TRITONSERVER_TYPE_FP32, answers.similarity.data(), answers.top_k, items);
    } else if (name == "share") {
      writer.rows("share", TRITONSERVER_TYPE_FP32, answers.share.data(), answers.top_k, items);
    } else if (name == "diffuse") {
      writer.rows("diffuse", TRITONSERVER_TYPE_FP32, answers.diffuse.data(), 1, 1);
    } else if (name == "peak") {
      writer.rows("peak", TRITONSERVER_TYPE_FP32, answers.peak.data(), 1, 1);
    } else if (name == "creator") {
      writer.rows("creator", TRITONSERVER_TYPE_INT32, answers.creator.data(), answers.top_creators, creators);
    } else if (name == "creator_share") {
      writer.rows("creator_share", TRITONSERVER_TYPE_FP32, answers.creator_share.data(), answers.top_creators,
                  creators);
    } else if (name == "creator_items") {
      writer.rows("creator_items", TRITONSERVER_TYPE_INT32, answers.creator_items.data(),
                  answers.top_creators, creators);
    } else if (name == "bundle") {
      writer.repeated("bundle", TRITONSERVER_TYPE_UINT64, bundle);
    } else if (name == "timing") {
      writer.repeated("timing", TRITONSERVER_TYPE_FP32, timing);
    } else {
      throw BackendError(ErrorKind::kInvalidArgument,
                         std::string(wanted) + ": is not an output of this model");
    }
  }
}

}  // namespace attributary::triton
