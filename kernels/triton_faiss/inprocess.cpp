// The backend's search without a server: times one model in this process and prints one JSON object.
//   faiss_inprocess CONFIG.json QUERIES.f32 BATCH REPEATS
// CONFIG.json holds the model's parameters as Triton's configuration does; QUERIES.f32 unit vectors, raw
// float32.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "triton_faiss/model.h"

namespace {

using namespace attributary::triton;
using Clock = std::chrono::steady_clock;

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

double quantile(std::vector<double> sorted, double at) {
  std::sort(sorted.begin(), sorted.end());
  return sorted.at(static_cast<std::size_t>(at * static_cast<double>(sorted.size() - 1)));
}

nlohmann::json measure(int argc, char** argv) {
  if (argc != 5) throw std::runtime_error("usage: faiss_inprocess CONFIG.json QUERIES.f32 BATCH REPEATS");
  Model model(parse_settings(read_file(argv[1])));
  const std::string raw = read_file(argv[2]);
  const auto dim = static_cast<std::size_t>(model.settings().dim);
  const std::size_t queries = raw.size() / (dim * sizeof(float));
  const auto size = static_cast<std::size_t>(std::stoul(argv[3]));
  const int repeats = std::stoi(argv[4]);
  if (size < 1 || queries < size || repeats < 1) throw std::runtime_error("nothing to measure");

  std::vector<double> total, search, rescore;
  Batch batch;
  Answers answers;
  // The first pass warms caches and is not counted.
  for (int repeat = -1; repeat < repeats; ++repeat) {
    for (std::size_t first = 0; first + size <= queries; first += size) {
      const Clock::time_point started = Clock::now();
      batch.clear();
      batch.embeddings.resize(size * dim);
      std::copy_n(reinterpret_cast<const float*>(raw.data()) + first * dim, size * dim,
                  batch.embeddings.begin());
      batch.filter.assign(size, kNoFilter);
      model.answer(batch, answers);
      if (repeat < 0) continue;
      total.push_back(std::chrono::duration<double, std::micro>(Clock::now() - started).count());
      search.push_back(static_cast<double>(answers.search_ms) * 1e3);
      rescore.push_back(static_cast<double>(answers.rescore_ms) * 1e3);
    }
  }
  return {{"batch", size},
          {"calls", total.size()},
          {"p50_us", quantile(total, 0.5)},
          {"p99_us", quantile(total, 0.99)},
          {"search_p50_us", quantile(search, 0.5)},
          {"rescore_p50_us", quantile(rescore, 0.5)}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::printf("%s\n", measure(argc, argv).dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "faiss_inprocess: %s\n", error.what());
    return 1;
  }
}
