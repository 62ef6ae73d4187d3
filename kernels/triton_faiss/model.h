// One open bundle: the index, the mapped vectors, the codes of every row. Knows nothing of Triton.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rescore/rescore.h"
#include "triton_faiss/batch.h"
#include "triton_faiss/candidate_index.h"
#include "triton_faiss/mapped_file.h"
#include "triton_faiss/settings.h"

namespace attributary::triton {

class Model {
 public:
  // Verifies and opens everything, so that a model that was made can serve. `rows_path` is the version
  // folder's rows.npy. Raises BackendError that names the parameter or file at fault.
  Model(Settings settings, const std::string& rows_path);

  // Answers a checked batch (see request.h): one search for all queries, and one for each distinct filter;
  // then exact re-scoring. Not for two threads at once. Raises BackendError or faiss::FaissException.
  void answer(const Batch& batch, Answers& answers);

  // Moves unfiltered searches to a GPU; raises BackendError where that cannot be.
  void use_gpu(int device);

  const Settings& settings() const noexcept { return settings_; }
  // Bytes of one filter: ceil(N / 8).
  std::size_t filter_bytes() const noexcept { return static_cast<std::size_t>((settings_.items + 7) / 8); }
  // Whether filters are served from a second copy of the index's codes.
  bool unpacked() const noexcept { return index_.unpacked(); }

 private:
  // Queries that share a filter, and their candidates.
  struct Group {
    AllowedRows allowed;
    std::vector<std::size_t> members;      // positions in the batch
    std::vector<std::int64_t> candidates;  // [members, width], or what passes where all share it
    bool shared = false;
  };

  void search(const Batch& batch, std::int64_t width);
  void search_group(const Batch& batch, std::int64_t width, Group& group);
  void rescore(const Batch& batch, std::int64_t width, Answers& answers) const;
  void rescore_one(const Batch& batch, std::size_t query, std::int64_t width, Answers& answers) const;

  Settings settings_;
  MappedFile index_file_, vectors_file_;
  std::vector<std::int32_t> codes_;  // creators [N], then near-duplicate groups [N]
  CandidateIndex index_;
  rescore::Store store_;
  Isa isa_;
  int threads_;
  // Working memory, kept between batches.
  std::vector<std::int64_t> candidates_;  // [Q, width], of the whole index
  std::vector<Group> groups_;
  std::vector<std::ptrdiff_t> group_of_;  // [Q] group, -1 without a filter
  std::vector<std::size_t> place_of_;     // [Q] place in that group
};

}  // namespace attributary::triton
