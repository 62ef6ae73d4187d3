#include "triton_faiss/settings.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "triton_faiss/error.h"

namespace attributary::triton {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const char* name, const std::string& problem) {
  throw BackendError(ErrorKind::kInvalidArgument, std::string("parameters.") + name + ": " + problem);
}

// The `parameters` of a model configuration: {"name": {"string_value": "..."}}.
class Parameters {
 public:
  explicit Parameters(const json& config) : entries_(config.value("parameters", json::object())) {}

  bool has(const char* name) const { return entries_.contains(name); }

  std::string text(const char* name) const {
    if (!has(name)) refuse(name, "is missing; write the model with `attributary triton materialize`");
    const json& entry = entries_.at(name);
    if (!entry.is_object() || !entry.contains("string_value") || !entry.at("string_value").is_string()) {
      refuse(name, "must have a string_value");
    }
    return entry.at("string_value").get<std::string>();
  }

  std::int64_t integer(const char* name, std::int64_t least, std::int64_t most) const {
    const std::string value = text(name);
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || number < least || number > most) {
      refuse(name, "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                       ", got '" + value + "'");
    }
    return number;
  }

  std::string hex(const char* name, std::size_t digits) const {
    const std::string value = text(name);
    if (value.size() != digits || value.find_first_not_of("0123456789abcdef") != std::string::npos) {
      refuse(name,
             "must be " + std::to_string(digits) + " lower-case hexadecimal digits, got '" + value + "'");
    }
    return value;
  }

 private:
  json entries_;
};

// Said here and not when the second instance starts: Triton would be warming the first one up by then, and
// taking a model away under its warm-up ended the server.
void check_one_owner(const json& config) {
  std::int64_t instances = 0;
  const json groups = config.value("instance_group", json::array());
  if (!groups.is_array()) return;
  for (const json& group : groups) {
    if (!group.is_object()) continue;
    const json count = group.value("count", json(1));
    const json devices = group.value("gpus", json::array());
    const std::int64_t places = devices.is_array() && devices.size() > 1 ? 2 : 1;
    // No more than two are of interest, whatever number stands there.
    const std::int64_t each = count.is_number_integer() ? count.get<std::int64_t>() : 1;
    instances += std::clamp<std::int64_t>(each, 0, 2) * places;
  }
  if (instances > 1) {
    throw BackendError(
        ErrorKind::kInvalidArgument,
        "instance_group: count must be 1 in one group, an index has one owner; let batches form instead");
  }
}

}  // namespace

Settings parse_settings(const std::string& config_json) {
  const json config = json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    throw BackendError(ErrorKind::kInvalidArgument, "config: the model's configuration is not a JSON object");
  }
  check_one_owner(config);
  const Parameters parameters(config);
  constexpr std::int64_t kRows = std::numeric_limits<std::int32_t>::max();
  Settings settings;
  settings.bundle = parameters.text("bundle");
  settings.bundle_id = std::stoull(parameters.hex("bundle_id", 16), nullptr, 16);
  settings.items = parameters.integer("items", 1, kRows);
  settings.dim = parameters.integer("dim", 1, 1 << 16);
  settings.nprobe = parameters.integer("nprobe", 0, kRows);
  settings.candidates = parameters.integer("candidates", 1, kRows);
  settings.sha256_index = parameters.hex("sha256_index", 64);
  settings.sha256_vectors = parameters.hex("sha256_vectors", 64);
  if (parameters.has("threads")) settings.threads = parameters.integer("threads", 0, 1024);
  if (parameters.has("gpu_temp_bytes")) {
    settings.gpu_temp_bytes = parameters.integer("gpu_temp_bytes", 1 << 20, std::int64_t{1} << 36);
  }
  return settings;
}

}  // namespace attributary::triton
