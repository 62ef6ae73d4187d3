// The bundle's FAISS index. Semantics of attributary/index/faiss_index.py.
#pragma once

#include <faiss/Index.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexPreTransform.h>

#include <cstdint>
#include <memory>
#include <string>

#include "triton_faiss/gpu_index.h"

namespace attributary::triton {

// Rows that may be searched.
struct AllowedRows {
  const std::uint8_t* bitmap = nullptr;  // [ceil(N / 8)], least significant bit first; none set beyond row N
  std::int64_t passing = 0;              // bits set
};

class CandidateIndex {
 public:
  // Reads an index file. Raises BackendError that names the file and what does not fit.
  CandidateIndex(const std::string& path, std::int64_t items, std::int64_t dim, std::int64_t nprobe);

  // Writes `width` rows of one query, float32 [D], in no promised order; -1 only where fewer rows pass. Where
  // the probed lists hold fewer, four times as many are probed. `allowed` null: the whole index. Queries are
  // searched one by one, since FAISS takes several at once through BLAS, whose last bits depend on how many
  // they are; that costs up to a fifth of a search (docs/decisions/triton-faiss-backend.md). For several
  // threads at once. Raises faiss::FaissException.
  void search(const float* query, std::int64_t width, const AllowedRows* allowed, std::int64_t* rows) const;

  // Moves unfiltered searches to a GPU, which takes all queries of a batch at once. Raises BackendError where
  // the index or this build does not allow it.
  void use_gpu(int device, const GpuLimits& limits);
  bool on_gpu() const noexcept { return gpu_ != nullptr; }
  // `width` rows of each query over the whole index, -1 where the probed lists hold fewer. One thread at a
  // time.
  void search_on_gpu(const float* queries, std::int64_t count, std::int64_t width, std::int64_t* rows);

  // Whether filtered searches go to a second copy of the codes; see unpack().
  bool unpacked() const noexcept { return filterable_ != nullptr; }

 private:
  void probe(const float* transformed, std::int64_t width, std::int64_t nprobe, const AllowedRows* allowed,
             std::int64_t* rows) const;
  void unpack();

  std::string name_;
  std::unique_ptr<faiss::Index> file_;           // what was read
  faiss::IndexPreTransform* chain_ = nullptr;    // file_, where vectors are transformed first
  faiss::Index* inner_ = nullptr;                // what is searched
  faiss::IndexIVF* lists_ = nullptr;             // inner_, where it has lists
  std::unique_ptr<faiss::IndexIVF> filterable_;  // the same codes in a layout that takes filters
  std::unique_ptr<GpuIndex> gpu_;
  std::int64_t nprobe_ = 0;
};

}  // namespace attributary::triton
