// Fuzzes what the backend reads of others: a model's configuration and the inputs of a request, whatever
// their names, types, shapes and buffers are. Triton's API is played here, so that no server is needed.
// Whatever comes, the answer is a BackendError that names what is wrong, and then the batch is as it was
// before; or a batch in which every embedding has length 1 and no bit is set beyond the last row. Built with
// libFuzzer where the compiler has it; else `main` below draws the inputs:
//   triton_request_fuzz [runs] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "triton_faiss/error.h"
#include "triton_faiss/request.h"

using namespace attributary::triton;

struct TRITONBACKEND_Input {
  std::string name;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<std::int64_t> shape;
  std::vector<std::vector<std::uint8_t>> buffers;
  std::uint64_t bytes = 0;
};

struct TRITONBACKEND_Request {
  std::vector<TRITONBACKEND_Input> inputs;
};

extern "C" {
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error*) {}
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error*) { return ""; }
const char* TRITONSERVER_DataTypeString(TRITONSERVER_DataType) { return "TYPE"; }

TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request, std::uint32_t* count) {
  *count = static_cast<std::uint32_t>(request->inputs.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request* request,
                                                      const std::uint32_t index,
                                                      TRITONBACKEND_Input** input) {
  *input = &request->inputs.at(index);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputProperties(TRITONBACKEND_Input* input, const char** name,
                                                  TRITONSERVER_DataType* type, const std::int64_t** shape,
                                                  std::uint32_t* dims, std::uint64_t* bytes,
                                                  std::uint32_t* buffers) {
  *name = input->name.c_str();
  *type = input->type;
  *shape = input->shape.data();
  *dims = static_cast<std::uint32_t>(input->shape.size());
  *bytes = input->bytes;
  *buffers = static_cast<std::uint32_t>(input->buffers.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputBuffer(TRITONBACKEND_Input* input, const std::uint32_t index,
                                              const void** buffer, std::uint64_t* bytes,
                                              TRITONSERVER_MemoryType* memory, std::int64_t* device) {
  *buffer = input->buffers.at(index).data();
  *bytes = input->buffers.at(index).size();
  *memory = TRITONSERVER_MEMORY_CPU;
  *device = 0;
  return nullptr;
}
}

namespace {

// Bytes of the fuzzer, one after the other; 0 behind the last.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t length) : at_(data), end_(data + length) {}

  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  std::uint8_t byte() { return at_ < end_ ? *at_++ : 0; }
  std::size_t below(std::size_t limit) { return byte() % limit; }

  std::int64_t number() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return static_cast<std::int64_t>(value);
  }

  std::string text(std::size_t length) {
    length = std::min(length, left());
    const std::string found(reinterpret_cast<const char*>(at_), length);
    at_ += length;
    return found;
  }

 private:
  const std::uint8_t *at_, *end_;
};

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// A configuration that has most of what one needs, and now and then something else in its place.
std::string draw_config(Bytes& bytes) {
  using nlohmann::json;
  const json right = {{"bundle", "b"},
                      {"bundle_id", std::string(16, 'a')},
                      {"items", "20"},
                      {"dim", "4"},
                      {"nprobe", "0"},
                      {"candidates", "5"},
                      {"threads", "1"},
                      {"sha256_index", std::string(64, '0')},
                      {"gpu_temp_bytes", "1048576"},
                      {"sha256_vectors", std::string(64, 'f')}};
  json parameters = json::object();
  for (const auto& [name, value] : right.items()) {
    switch (bytes.below(12)) {
      case 0:
        break;
      case 1:
        parameters[name]["string_value"] = bytes.text(bytes.below(24));
        break;
      case 2:
        parameters[name]["string_value"] = std::to_string(bytes.number());
        break;
      case 3:
        parameters[name] = json::parse(bytes.text(bytes.below(24)), nullptr, false);
        break;
      default:
        parameters[name]["string_value"] = value;
    }
  }
  json config = {{"parameters", parameters}};
  json group = {{"count", bytes.below(4) == 0 ? bytes.number() : static_cast<std::int64_t>(bytes.below(3))}};
  if (bytes.below(2) == 0) group["gpus"] = std::vector<int>(bytes.below(4));
  config["instance_group"] = std::vector<json>(bytes.below(4), group);
  if (bytes.below(4) == 0)
    config[bytes.below(2) ? "instance_group" : "parameters"] = json::parse(bytes.text(24), nullptr, false);
  return config.dump(-1, ' ', false, json::error_handler_t::replace);
}

void try_settings(Bytes& bytes) {
  const std::string config = bytes.below(2) == 0 ? bytes.text(bytes.left()) : draw_config(bytes);
  try {
    const Settings found = parse_settings(config);
    if (found.items < 1 || found.dim < 1 || found.candidates < 1 || found.nprobe < 0)
      broken("settings out of range");
  } catch (const BackendError& error) {
    if (std::strchr(error.what(), ':') == nullptr) broken("an error that names no field");
  }
}

TRITONBACKEND_Input draw_input(Bytes& bytes, const Settings& settings) {
  TRITONBACKEND_Input input;
  const bool is_filter = bytes.below(2) == 1;
  const std::int64_t columns = is_filter ? (settings.items + 7) / 8 : settings.dim;
  const std::int64_t rows = 1 + static_cast<std::int64_t>(bytes.below(4));
  input.name = bytes.below(12) == 0 ? bytes.text(bytes.below(12)) : is_filter ? "filter" : "embedding";
  input.type = bytes.below(12) == 0 ? static_cast<TRITONSERVER_DataType>(bytes.below(12))
               : is_filter          ? TRITONSERVER_TYPE_UINT8
                                    : TRITONSERVER_TYPE_FP32;
  input.shape = {rows, columns};
  for (std::int64_t& side : input.shape) {
    if (bytes.below(8) == 0)
      side = bytes.below(2) == 0 ? bytes.number() : static_cast<std::int8_t>(bytes.byte());
  }
  if (bytes.below(16) == 0) input.shape.resize(bytes.below(4));
  const auto size = static_cast<std::size_t>(rows * columns * (is_filter ? 1 : 4));
  std::vector<std::uint8_t> data(size);
  for (std::uint8_t& one : data) one = bytes.byte();
  if (!is_filter && bytes.below(4) != 0) {
    std::vector<float> unit(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < unit.size(); i += static_cast<std::size_t>(columns)) unit[i] = 1;
    std::memcpy(data.data(), unit.data(), size);
  }
  if (bytes.below(8) == 0) data.resize(bytes.below(64));
  input.bytes = bytes.below(16) == 0 ? static_cast<std::uint64_t>(bytes.number()) : data.size();
  const std::size_t cut = bytes.below(3) == 0 ? bytes.byte() % (data.size() + 1) : data.size();
  input.buffers.emplace_back(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(cut));
  input.buffers.emplace_back(data.begin() + static_cast<std::ptrdiff_t>(cut), data.end());
  return input;
}

void check(const Batch& batch, const Settings& settings) {
  const auto dim = static_cast<std::size_t>(settings.dim),
             map = static_cast<std::size_t>((settings.items + 7) / 8);
  if (batch.embeddings.size() != batch.count() * dim) broken("embeddings and queries differ in number");
  for (std::size_t q = 0; q < batch.count(); ++q) {
    double sum = 0;
    for (std::size_t i = 0; i < dim; ++i)
      sum += static_cast<double>(batch.embeddings[q * dim + i]) * batch.embeddings[q * dim + i];
    if (!(std::abs(std::sqrt(sum) - 1) < 0.01)) broken("an embedding is not of length 1");
    if (batch.filter[q] == kNoFilter) continue;
    const auto end = static_cast<std::size_t>(batch.filter[q]) + map;
    if (batch.filter[q] < 0 || end > batch.bitmaps.size()) broken("a filter that is not there");
    if (settings.items % 8 != 0 && batch.bitmaps[end - 1] >> (settings.items % 8) != 0)
      broken("a bit beyond the last row");
  }
}

void try_requests(Bytes& bytes) {
  Settings settings;
  settings.items = 1 + static_cast<std::int64_t>(bytes.below(40));
  settings.dim = 1 + static_cast<std::int64_t>(bytes.below(8));
  Batch batch;
  for (std::size_t request = 1 + bytes.below(4); request > 0; --request) {
    TRITONBACKEND_Request asked;
    for (std::size_t input = bytes.below(4); input > 0; --input)
      asked.inputs.push_back(draw_input(bytes, settings));
    const Batch before = batch;
    try {
      const Slice slice = read_request(&asked, settings, batch);
      if (slice.first != before.count() || slice.first + slice.count != batch.count())
        broken("a slice beside its queries");
    } catch (const BackendError& error) {
      if (error.kind() != ErrorKind::kInvalidArgument) broken(error.what());
      if (batch.embeddings != before.embeddings || batch.filter != before.filter ||
          batch.bitmaps != before.bitmaps) {
        broken("a refused request changed the batch");
      }
    }
    check(batch, settings);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t length) {
  Bytes bytes(data, length);
  if (bytes.below(3) == 0) {
    try_settings(bytes);
  } else {
    try_requests(bytes);
  }
  return 0;
}

#if !defined(ATTRIBUTARY_LIBFUZZER)
int main(int argc, char** argv) {
  const long runs = argc > 1 ? std::atol(argv[1]) : 100'000;
  std::mt19937 random(argc > 2 ? static_cast<std::uint32_t>(std::atol(argv[2])) : 1u);
  std::vector<std::uint8_t> input;
  for (long run = 0; run < runs; ++run) {
    input.resize(random() % 512);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random() >> 13);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs, each read or refused\n", runs);
  return 0;
}
#endif
