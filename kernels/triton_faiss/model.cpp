#include "triton_faiss/model.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
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

Model::Model(Settings settings, const std::string& rows_path)
    : settings_(std::move(settings)),
      // Hashes first: FAISS is not asked to parse a file that nobody vouches for.
      index_file_(verified(settings_.bundle + "/index.faiss", settings_.sha256_index)),
      vectors_file_(verified(settings_.bundle + "/vectors.npy", settings_.sha256_vectors)),
      index_(settings_.bundle + "/index.faiss", settings_.items, settings_.dim, settings_.nprobe),
      isa_(best_isa()),
      threads_(settings_.threads > 0 ? static_cast<int>(settings_.threads) : omp_get_num_procs()) {
  // Large batches reach their lists through BLAS, which does not heed OpenMP's setting.
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(threads_);
  index_file_ = MappedFile();  // FAISS holds its own copy
  // Copied, not mapped: they are small, and a version folder may be written over.
  const MappedFile rows_file = verified(rows_path, settings_.sha256_rows);
  store_.vectors = vectors_file_.npy("<f2", settings_.items, settings_.dim);
  store_.type = rescore::VectorType::kFloat16;
  store_.rows = settings_.items;
  store_.dim = settings_.dim;
  const auto* codes = static_cast<const std::int32_t*>(rows_file.npy("<i4", 2, settings_.items));
  codes_.assign(codes, codes + 2 * settings_.items);
  store_.creators = codes_.data();
  store_.groups = codes_.data() + settings_.items;
  const auto least = std::min_element(codes_.begin(), codes_.end());
  if (*least < 0) {
    throw BackendError(ErrorKind::kInvalidArgument, rows_file.name() + ": holds the code " +
                                                        std::to_string(*least) + ", codes are 0 or more");
  }
}

void Model::use_gpu(int device) {
  index_.use_gpu(device, {std::max(settings_.candidates, settings_.max_top_k), settings_.gpu_temp_bytes});
}

void Model::answer(const Batch& batch, Answers& answers) {
  const std::size_t count = batch.queries.size();
  std::int32_t top_k = 1, top_creators = 1;
  for (const Query& query : batch.queries) {
    top_k = std::max(top_k, query.top_k);
    top_creators = std::max(top_creators, query.top_creators);
  }
  answers.top_k = static_cast<std::size_t>(top_k);
  answers.top_creators = static_cast<std::size_t>(top_creators);
  answers.row.assign(count * answers.top_k, -1);
  answers.similarity.assign(count * answers.top_k, 0.0f);
  answers.share.assign(count * answers.top_k, 0.0f);
  answers.diffuse.assign(count, 1.0f);
  answers.peak.assign(count, 0.0f);
  answers.creator.assign(count * answers.top_creators, -1);
  answers.creator_share.assign(count * answers.top_creators, 0.0f);
  answers.creator_items.assign(count * answers.top_creators, 0);

  // Triton calls from a thread of its own; OpenMP's setting is one a thread.
  omp_set_num_threads(threads_);
  const std::int64_t width = std::min(settings_.items, std::max<std::int64_t>(settings_.candidates, top_k));
  Clock::time_point started = Clock::now();
  search(batch, width);
  answers.search_ms = ms_since(started);
  started = Clock::now();
  rescore(batch, width, answers);
  answers.rescore_ms = ms_since(started);
}

// The whole index for every query, since a filtered one is also told the best similarity of the whole index;
// then what passes each filter.
void Model::search(const Batch& batch, std::int64_t width) {
  const std::size_t count = batch.queries.size();
  candidates_.resize(count * static_cast<std::size_t>(width));
  index_.search(batch.embeddings.data(), static_cast<std::int64_t>(count), width, nullptr,
                candidates_.data());

  groups_.clear();
  group_of_.assign(count, -1);
  place_of_.assign(count, 0);
  std::unordered_map<std::string_view, std::ptrdiff_t> by_filter;
  for (std::size_t q = 0; q < count; ++q) {
    if (batch.queries[q].filter < 0) continue;
    const std::uint8_t* bitmap = batch.filters.data() + batch.queries[q].filter;
    const auto [found, is_new] = by_filter.try_emplace(
        {reinterpret_cast<const char*>(bitmap), filter_bytes()}, static_cast<std::ptrdiff_t>(groups_.size()));
    if (is_new) {
      groups_.emplace_back();
      groups_.back().allowed = {bitmap, count_bits(bitmap, filter_bytes())};
    }
    Group& group = groups_[static_cast<std::size_t>(found->second)];
    group_of_[q] = found->second;
    place_of_[q] = group.members.size();
    group.members.push_back(q);
  }
  for (Group& group : groups_) search_group(batch, width, group);
}

void Model::search_group(const Batch& batch, std::int64_t width, Group& group) {
  if (group.allowed.passing <= width) {
    // So few pass that all of them are candidates: exact, and cheaper than a restricted scan.
    group.shared = true;
    for (std::int64_t row = 0; row < settings_.items; ++row) {
      if ((group.allowed.bitmap[row >> 3] >> (row & 7)) & 1) group.candidates.push_back(row);
    }
    return;
  }
  const auto dim = static_cast<std::size_t>(settings_.dim);
  std::vector<float> asked;
  asked.reserve(group.members.size() * dim);
  for (const std::size_t q : group.members) {
    const float* embedding = batch.embeddings.data() + q * dim;
    asked.insert(asked.end(), embedding, embedding + dim);
  }
  group.candidates.resize(group.members.size() * static_cast<std::size_t>(width));
  index_.search(asked.data(), static_cast<std::int64_t>(group.members.size()), width, &group.allowed,
                group.candidates.data());
}

void Model::rescore(const Batch& batch, std::int64_t width, Answers& answers) const {
  parallel_for(static_cast<std::int64_t>(batch.queries.size()), threads_,
               [&](std::int64_t q) { rescore_one(batch, static_cast<std::size_t>(q), width, answers); });
}

void Model::rescore_one(const Batch& batch, std::size_t q, std::int64_t width, Answers& answers) const {
  const Query& query = batch.queries[q];
  const Calibration& calibration = query.has_prompt ? settings_.prompt : settings_.image;
  const auto run = [&](const rescore::Batch& one, const rescore::Result& result) {
    const rescore::Fault fault = rescore::rescore(store_, one, result, isa_, 1);
    if (fault.kind == rescore::FaultKind::kNone) return;
    const bool stray = fault.kind == rescore::FaultKind::kOutOfRange;
    throw BackendError(ErrorKind::kInternal, stray ? "index.faiss: holds row " + std::to_string(fault.row) +
                                                         ", the bundle has " + std::to_string(settings_.items)
                                                   : "vectors.npy: the similarity of row " +
                                                         std::to_string(fault.row) + " is not finite");
  };

  rescore::Batch whole;
  whole.queries = batch.embeddings.data() + q * static_cast<std::size_t>(settings_.dim);
  whole.candidates = candidates_.data() + q * static_cast<std::size_t>(width);
  whole.count = 1;
  whole.width = width;
  whole.temperature = &calibration.temperature;
  whole.threshold = &calibration.threshold;
  whole.background = &calibration.background;

  const std::size_t item = q * answers.top_k, creator = q * answers.top_creators;
  rescore::Result result;
  result.rows = answers.row.data() + item;
  result.similarity = answers.similarity.data() + item;
  result.share = answers.share.data() + item;
  result.diffuse = answers.diffuse.data() + q;
  result.creators = answers.creator.data() + creator;
  result.creator_share = answers.creator_share.data() + creator;
  result.creator_items = answers.creator_items.data() + creator;
  result.top_k = query.top_k;
  result.top_creators = query.top_creators;

  if (group_of_[q] < 0) {
    run(whole, result);
    answers.peak[q] = answers.similarity[item];
    return;
  }
  const Group& group = groups_[static_cast<std::size_t>(group_of_[q])];
  rescore::Batch filtered = whole;
  filtered.width = group.shared ? static_cast<std::int64_t>(group.candidates.size()) : width;
  filtered.candidates =
      group.candidates.data() + (group.shared ? 0 : place_of_[q] * static_cast<std::size_t>(width));
  filtered.allowed = group.allowed.bitmap;
  run(filtered, result);

  // Whether a query is foreign is a fact about the query, not about what the filter left over.
  std::int64_t row = -1;
  float share = 0, diffuse = 1;
  rescore::Result best;
  best.rows = &row;
  best.similarity = answers.peak.data() + q;
  best.share = &share;
  best.diffuse = &diffuse;
  best.top_k = 1;
  run(whole, best);
}

}  // namespace attributary::triton
