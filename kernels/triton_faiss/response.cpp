#include "triton_faiss/response.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "triton_faiss/call.h"

namespace attributary::triton {
namespace {

class Writer {
 public:
  Writer(TRITONBACKEND_Response* response, const Slice& slice) : response_(response), slice_(slice) {}

  // The request's rows of an array of `columns` values a query.
  template <typename Value>
  void rows(const char* name, TRITONSERVER_DataType type, const std::vector<Value>& array,
            std::size_t columns) {
    Value* target = output<Value>(name, type, columns);
    std::memcpy(target, array.data() + slice_.first * columns, slice_.count * columns * sizeof(Value));
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

void write_response(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, const Answers& answers,
                    const Slice& slice, std::uint64_t bundle_id) {
  for (std::size_t q = slice.first; q < slice.first + slice.count; ++q) {
    if (!answers.fault[q].empty()) throw BackendError(ErrorKind::kInternal, answers.fault[q]);
  }
  const std::size_t queries = answers.fault.size(), width = answers.row.size() / queries;
  const std::uint64_t bundle[] = {bundle_id};
  const float timing[] = {answers.search_ms, answers.rescore_ms, static_cast<float>(queries)};

  Writer writer(response, slice);
  std::uint32_t count = 0;
  call(TRITONBACKEND_RequestOutputCount(request, &count));
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* wanted = nullptr;
    call(TRITONBACKEND_RequestOutputName(request, i, &wanted));
    const std::string_view name(wanted);
    if (name == "row") {
      writer.rows("row", TRITONSERVER_TYPE_INT64, answers.row, width);
    } else if (name == "similarity") {
      writer.rows("similarity", TRITONSERVER_TYPE_FP32, answers.similarity, width);
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
