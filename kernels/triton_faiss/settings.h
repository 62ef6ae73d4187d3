// The model's parameters: what a bundle's manifest says, as config.pbtxt carries it (docs/triton.md).
#pragma once

#include <cstdint>
#include <string>

namespace attributary::triton {

struct Settings {
  std::string bundle;  // directory that holds index.faiss and vectors.npy
  std::uint64_t bundle_id = 0;
  std::int64_t items = 0;                    // N
  std::int64_t dim = 0;                      // D
  std::int64_t nprobe = 0;                   // 0 where the index has no lists
  std::int64_t candidates = 0;               // of a query; R = min(candidates, N)
  std::string sha256_index, sha256_vectors;  // lower-case hex

  // Optional parameters of this backend alone.
  std::int64_t threads = 1;               // that share a batch; 0: one a core
  std::int64_t gpu_temp_bytes = 1 << 28;  // scratch memory of a GPU search, reserved at load
};

// Reads the settings from a model's configuration as Triton gives it (JSON). Raises BackendError that names
// the parameter and what it may be.
Settings parse_settings(const std::string& config_json);

}  // namespace attributary::triton
