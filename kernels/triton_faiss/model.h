// One open bundle: the index and the mapped vectors. Knows nothing of Triton.
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
  // Verifies and opens everything, so that a model that was made can serve. Raises BackendError that names
  // the parameter or file at fault.
  explicit Model(Settings settings);

  // Answers a checked batch (see request.h): candidates of every query, then their exact similarities. What
  // a query is answered does not depend on the others. Not for two threads at once. Raises
  // faiss::FaissException; a damaged bundle is a fault of the queries that meet it.
  void answer(const Batch& batch, Answers& answers);

  // Moves unfiltered searches to a GPU; raises BackendError where that cannot be.
  void use_gpu(int device);

  const Settings& settings() const noexcept { return settings_; }
  // R, places of an answer.
  std::int64_t width() const noexcept { return width_; }
  // Whether filters are served from a second copy of the index's codes.
  bool unpacked() const noexcept { return index_.unpacked(); }

 private:
  // What a distinct filter of the batch lets through.
  struct Filter {
    AllowedRows allowed;
    std::vector<std::int64_t> rows;  // where they are at most R: all of them are candidates
  };

  void read_filters(const Batch& batch);
  void search(const Batch& batch);
  void search_on_gpu(const Batch& batch);
  void search_one(const Batch& batch, std::size_t query);
  void rank_one(const Batch& batch, std::size_t query, Answers& answers) const;

  Settings settings_;
  std::int64_t width_;
  MappedFile index_file_, vectors_file_;
  CandidateIndex index_;
  rescore::Store store_;
  Isa isa_;
  int threads_;
  // Working memory, kept between batches.
  std::vector<std::int64_t> candidates_;   // [Q, R]
  std::vector<Filter> filters_;            // the distinct ones
  std::vector<std::ptrdiff_t> filter_of_;  // [Q] place in filters_, or kNoFilter
};

}  // namespace attributary::triton
