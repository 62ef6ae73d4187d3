// What the C++ tests of the backend share: scratch files, arrays in NumPy's format, unit vectors.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "triton_faiss/error.h"

namespace attributary::tests {

// A file that goes when the test ends.
class Scratch {
 public:
  explicit Scratch(const std::string& contents = "") {
    const int file = mkstemp(path_);
    if (file < 0) throw std::runtime_error("mkstemp");
    close(file);
    std::ofstream(path_, std::ios::binary) << contents;
  }
  ~Scratch() { std::remove(path_); }
  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/attributary_XXXXXX";
};

inline std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const triton::BackendError& error) {
    return error.what();
  }
  return "";
}

inline std::string npy(const std::string& descr, const std::string& order, const std::string& shape,
                       std::size_t bytes) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
  header.resize(117, ' ');
  header += '\n';
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header +
         std::string(bytes, '\1');
}

inline std::vector<float> unit_rows(std::size_t count, std::size_t dim, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * dim);
  for (std::size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (std::size_t j = 0; j < dim; ++j) sum += (rows[i * dim + j] = normal(random)) * rows[i * dim + j];
    for (std::size_t j = 0; j < dim; ++j) rows[i * dim + j] /= std::sqrt(sum);
  }
  return rows;
}

}  // namespace attributary::tests
