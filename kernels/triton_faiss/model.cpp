#include "triton_faiss/model.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "common/parallel.h"
#include "triton_faiss/error.h"

// Weak: FAISS may be linked to another BLAS.
extern "C" void openblas_set_num_threads(int count) __attribute__((weak));

namespace attributary::triton {
namespace {

using Clock = std::chrono::steady_clock;

float ms_since(Clock::time_point started) {
  return std::chrono::duration<float, std::milli>(Clock::now() - started).count();
}

MappedFile verified(const std::string& path, const std::string& sha256) {
  MappedFile file(path);
  file.verify(sha256);
  return file;
}

std::int64_t count_bits(const std::uint8_t* bitmap, std::size_t bytes) {
  std::int64_t count = 0;
  std::size_t at = 0;
  for (; at + 8 <= bytes; at += 8) {
    std::uint64_t word;
    std::memcpy(&word, bitmap + at, sizeof(word));
    count += __builtin_popcountll(word);
  }
  for (; at < bytes; ++at) count += __builtin_popcount(bitmap[at]);
  return count;
}

}  // namespace

Model::Model(Settings settings)
    : settings_(std::move(settings)),
      width_(std::min(settings_.candidates, settings_.items)),
      // Hashes first: FAISS is not asked to parse a file that nobody vouches for.
      index_file_(verified(settings_.bundle + "/index.faiss", settings_.sha256_index)),
      vectors_file_(verified(settings_.bundle + "/vectors.npy", settings_.sha256_vectors)),
      index_(settings_.bundle + "/index.faiss", settings_.items, settings_.dim, settings_.nprobe),
      isa_(best_isa()),
      threads_(settings_.threads > 0 ? static_cast<int>(settings_.threads) : omp_get_num_procs()) {
  // A rotation runs in BLAS, which does not heed OpenMP's setting.
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  index_file_ = MappedFile();  // FAISS holds its own copy
  store_.vectors = vectors_file_.npy("<f2", settings_.items, settings_.dim);
  store_.type = rescore::VectorType::kFloat16;
  store_.rows = settings_.items;
  store_.dim = settings_.dim;
}

void Model::use_gpu(int device) { index_.use_gpu(device, {width_, settings_.gpu_temp_bytes}); }

void Model::answer(const Batch& batch, Answers& answers) {
  const std::size_t places = batch.count() * static_cast<std::size_t>(width_);
  candidates_.assign(places, -1);
  answers.row.assign(places, -1);
  answers.similarity.assign(places, 0.0f);
  answers.fault.assign(batch.count(), "");
  Clock::time_point started = Clock::now();
  search(batch);
  answers.search_ms = ms_since(started);
  started = Clock::now();
  parallel_for(static_cast<std::int64_t>(batch.count()), threads_,
               [&](std::int64_t q) { rank_one(batch, static_cast<std::size_t>(q), answers); });
  answers.rescore_ms = ms_since(started);
}

void Model::read_filters(const Batch& batch) {
  const auto bytes = static_cast<std::size_t>((settings_.items + 7) / 8);
  filters_.clear();
  filter_of_.assign(batch.count(), kNoFilter);
  std::unordered_map<std::string_view, std::ptrdiff_t> known;
  for (std::size_t q = 0; q < batch.count(); ++q) {
    if (batch.filter[q] == kNoFilter) continue;
    const std::uint8_t* bitmap = batch.bitmaps.data() + batch.filter[q];
    const auto [found, is_new] = known.try_emplace({reinterpret_cast<const char*>(bitmap), bytes},
                                                   static_cast<std::ptrdiff_t>(filters_.size()));
    filter_of_[q] = found->second;
    if (!is_new) continue;
    filters_.push_back({{bitmap, count_bits(bitmap, bytes)}, {}});
    Filter& filter = filters_.back();
    if (filter.allowed.passing > width_) continue;
    // So few pass that all of them are candidates: exact, and cheaper than a restricted scan.
    for (std::int64_t row = 0; row < settings_.items; ++row) {
      if ((bitmap[row >> 3] >> (row & 7)) & 1) filter.rows.push_back(row);
    }
  }
}

void Model::search(const Batch& batch) {
  read_filters(batch);
  if (index_.on_gpu() && width_ < settings_.items) search_on_gpu(batch);
  parallel_for(static_cast<std::int64_t>(batch.count()), threads_, [&](std::int64_t q) {
    omp_set_num_threads(
        1);  // a setting of the calling thread; queries share the threads, not the parts of one
    search_one(batch, static_cast<std::size_t>(q));
  });
}

// All queries without a filter in one search; places that it leaves empty are for search_one.
void Model::search_on_gpu(const Batch& batch) {
  const auto dim = static_cast<std::size_t>(settings_.dim);
  std::vector<std::size_t> asking;
  std::vector<float> asked;
  for (std::size_t q = 0; q < batch.count(); ++q) {
    if (filter_of_[q] != kNoFilter) continue;
    asking.push_back(q);
    const float* embedding = batch.embeddings.data() + q * dim;
    asked.insert(asked.end(), embedding, embedding + dim);
  }
  if (asking.empty()) return;
  std::vector<std::int64_t> found(asking.size() * static_cast<std::size_t>(width_));
  index_.search_on_gpu(asked.data(), static_cast<std::int64_t>(asking.size()), width_, found.data());
  for (std::size_t i = 0; i < asking.size(); ++i) {
    std::copy_n(found.data() + i * static_cast<std::size_t>(width_), width_,
                candidates_.data() + asking[i] * static_cast<std::size_t>(width_));
  }
}

void Model::search_one(const Batch& batch, std::size_t q) {
  const float* embedding = batch.embeddings.data() + q * static_cast<std::size_t>(settings_.dim);
  std::int64_t* found = candidates_.data() + q * static_cast<std::size_t>(width_);
  if (filter_of_[q] == kNoFilter && width_ == settings_.items) {
    std::iota(found, found + width_, std::int64_t{0});  // all of them are candidates
    return;
  }
  if (filter_of_[q] == kNoFilter) {
    const bool complete = index_.on_gpu() && std::find(found, found + width_, -1) == found + width_;
    if (!complete) index_.search(embedding, width_, nullptr, found);
    return;
  }
  const Filter& filter = filters_[static_cast<std::size_t>(filter_of_[q])];
  if (filter.allowed.passing > width_) {
    index_.search(embedding, width_, &filter.allowed, found);
  } else {
    std::copy(filter.rows.begin(), filter.rows.end(), found);
  }
}

void Model::rank_one(const Batch& batch, std::size_t q, Answers& answers) const {
  const std::size_t place = q * static_cast<std::size_t>(width_);
  rescore::Batch one;
  one.queries = batch.embeddings.data() + q * static_cast<std::size_t>(settings_.dim);
  one.candidates = candidates_.data() + place;
  one.count = 1;
  one.width = width_;
  rescore::Result result;
  result.rows = answers.row.data() + place;
  result.similarity = answers.similarity.data() + place;
  result.top_k = width_;
  const rescore::Fault fault = rescore::rank(store_, one, result, isa_, 1);
  if (fault.kind == rescore::FaultKind::kNone) return;
  const std::string row = std::to_string(fault.row);
  answers.fault[q] =
      fault.kind == rescore::FaultKind::kOutOfRange
          ? "index.faiss: holds row " + row + ", the bundle has " + std::to_string(settings_.items)
          : "vectors.npy: the similarity of row " + row + " is not finite";
}

}  // namespace attributary::triton
