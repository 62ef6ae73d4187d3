#include "triton_faiss/candidate_index.h"

#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/pq4_fast_scan.h>
#include <faiss/index_io.h>
#include <faiss/invlists/InvertedLists.h>

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <vector>

#include "triton_faiss/error.h"

namespace attributary::triton {
namespace {

constexpr std::size_t kBlock = 32;  // vectors that a fast-scan index packs together

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw BackendError(ErrorKind::kInvalidArgument, name + ": " + problem);
}

// The library's own text without the source line that it starts with.
std::string reason(const std::exception& error) {
  const std::string text = error.what();
  const std::size_t at = text.rfind("Error: ");
  return at == std::string::npos ? text : text.substr(at + 7);
}

std::unique_ptr<faiss::Index> read(const std::string& path, const std::string& name) {
  try {
    return std::unique_ptr<faiss::Index>(faiss::read_index(path.c_str()));
  } catch (const std::bad_alloc&) {
    refuse(name, "cannot be opened: there is not enough memory for it");
  } catch (const std::exception& error) {
    refuse(name, "cannot be opened by FAISS " + std::to_string(FAISS_VERSION_MAJOR) + "." +
                     std::to_string(FAISS_VERSION_MINOR) + "." + std::to_string(FAISS_VERSION_PATCH) + ": " +
                     reason(error));
  }
}

// Whether a search may be given a filter and a number of lists. FAISS before 1.8 refuses both for fast-scan
// codes.
bool takes_parameters(const faiss::IndexIVF& index) {
  if (dynamic_cast<const faiss::IndexIVFFastScan*>(&index) == nullptr) return true;
  const std::vector<float> query(static_cast<std::size_t>(index.d), 0.0f);
  const std::uint8_t none = 0;
  const faiss::IDSelectorBitmap selector(1, &none);
  faiss::SearchParametersIVF parameters;
  parameters.nprobe = 1;
  parameters.sel = const_cast<faiss::IDSelectorBitmap*>(&selector);
  float distance = 0;
  std::int64_t row = 0;
  try {
    index.search(1, query.data(), 1, &distance, &row, &parameters);
  } catch (const faiss::FaissException&) {
    return false;
  }
  return true;
}

}  // namespace

CandidateIndex::CandidateIndex(const std::string& path, std::int64_t items, std::int64_t dim,
                               std::int64_t nprobe)
    : name_(path.substr(path.find_last_of('/') + 1)), file_(read(path, name_)), nprobe_(nprobe) {
  if (file_->metric_type != faiss::METRIC_INNER_PRODUCT) refuse(name_, "is not over inner products");
  if (file_->ntotal != items || file_->d != dim) {
    refuse(name_, "holds " + std::to_string(file_->ntotal) + " vectors of " + std::to_string(file_->d) +
                      " dimensions, the bundle has " + std::to_string(items) + " of " + std::to_string(dim));
  }
  chain_ = dynamic_cast<faiss::IndexPreTransform*>(file_.get());
  inner_ = chain_ != nullptr ? chain_->index : file_.get();
  lists_ = dynamic_cast<faiss::IndexIVF*>(inner_);
  if (lists_ == nullptr) {
    nprobe_ = 0;
    return;
  }
  const auto most = static_cast<std::int64_t>(lists_->nlist);
  if (nprobe < 1 || nprobe > most) {
    refuse("parameters.nprobe",
           "must be from 1 to the index's " + std::to_string(most) + " lists, got " + std::to_string(nprobe));
  }
  lists_->nprobe = static_cast<std::size_t>(nprobe);  // where a search cannot be told
  if (!takes_parameters(*lists_)) unpack();
}

// A fast-scan index and a plain one have the same codes in another order. FAISS 1.7.3's own way back
// (reconstruct_orig_invlists) does nothing, and its access to one code wraps after 16 sub-quantisers; asked
// within one pair of them, as here, it is right in every version.
void CandidateIndex::unpack() {
  auto* packed = dynamic_cast<faiss::IndexIVFPQFastScan*>(lists_);
  if (packed == nullptr || packed->bbs != static_cast<int>(kBlock) || packed->pq.nbits != 4) {
    throw BackendError(
        ErrorKind::kUnsupported,
        name_ + ": has fast-scan codes that this FAISS cannot filter; link FAISS 1.8 or later");
  }
  auto plain = std::make_unique<faiss::IndexIVFPQ>(packed->quantizer, static_cast<std::size_t>(packed->d),
                                                   packed->nlist, packed->pq.M, packed->pq.nbits,
                                                   faiss::METRIC_INNER_PRODUCT);
  plain->own_fields = false;  // the quantiser belongs to `packed`
  plain->pq = packed->pq;
  plain->by_residual = packed->by_residual;
  plain->is_trained = true;
  plain->ntotal = packed->ntotal;
  std::vector<std::uint8_t> codes;
  for (std::size_t list = 0; list < packed->nlist; ++list) {
    const std::size_t count = packed->invlists->list_size(list);
    faiss::InvertedLists::ScopedCodes blocks(packed->invlists, list);
    faiss::InvertedLists::ScopedIds ids(packed->invlists, list);
    codes.assign(count * plain->code_size, 0);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t* block = blocks.get() + i / kBlock * (packed->M2 / 2) * kBlock;
      for (std::size_t part = 0; part < packed->pq.M; ++part) {
        const std::uint8_t code =
            faiss::pq4_get_packed_element(block + part / 2 * kBlock, kBlock, 2, i % kBlock, part % 2);
        codes[i * plain->code_size + part / 2] |= static_cast<std::uint8_t>(code << (4 * (part % 2)));
      }
    }
    if (count > 0) plain->invlists->add_entries(list, count, ids.get(), codes.data());
  }
  filterable_ = std::move(plain);
}

void CandidateIndex::use_gpu(int device, const GpuLimits& limits) {
  gpu_ = std::make_unique<GpuIndex>(*inner_, name_, device, nprobe_, limits);
}

void CandidateIndex::search(const float* query, std::int64_t width, const AllowedRows* allowed,
                            std::int64_t* rows) const {
  if (width == 0) return;
  std::unique_ptr<const float[]> owned;
  const float* transformed = query;
  if (chain_ != nullptr) {
    transformed = chain_->apply_chain(1, query);
    if (transformed != query) owned.reset(transformed);
  }
  const auto size = static_cast<std::int64_t>(inner_->ntotal);
  const std::int64_t passing = allowed != nullptr ? allowed->passing : size;
  const std::int64_t most = lists_ != nullptr ? static_cast<std::int64_t>(lists_->nlist) : 0;
  std::int64_t nprobe = nprobe_;
  // A filter thins every list out by the same factor, on average.
  if (passing > 0 && passing < size) nprobe = std::min(most, (nprobe * size + passing - 1) / passing);
  const std::int64_t wanted = std::min(width, passing);
  while (true) {
    probe(transformed, width, nprobe, allowed, rows);
    if (nprobe >= most || width - std::count(rows, rows + width, -1) >= wanted) return;
    nprobe = std::min(most, nprobe * 4);
  }
}

void CandidateIndex::probe(const float* transformed, std::int64_t width, std::int64_t nprobe,
                           const AllowedRows* allowed, std::int64_t* rows) const {
  std::vector<float> distances(static_cast<std::size_t>(width));
  const auto bytes = static_cast<std::size_t>((inner_->ntotal + 7) / 8);
  faiss::IDSelectorBitmap selector(allowed != nullptr ? bytes : 0,
                                   allowed != nullptr ? allowed->bitmap : nullptr);
  faiss::IDSelector* filter = allowed != nullptr ? &selector : nullptr;
  if (lists_ == nullptr) {
    faiss::SearchParameters parameters;
    parameters.sel = filter;
    inner_->search(1, transformed, width, distances.data(), rows, filter != nullptr ? &parameters : nullptr);
  } else if (filterable_ != nullptr && filter == nullptr && nprobe == nprobe_) {
    lists_->search(1, transformed, width, distances.data(), rows);
  } else {
    faiss::SearchParametersIVF parameters;
    parameters.nprobe = static_cast<std::size_t>(nprobe);
    parameters.sel = filter;
    const faiss::Index& index = filterable_ != nullptr ? *filterable_ : *lists_;
    index.search(1, transformed, width, distances.data(), rows, &parameters);
  }
}

void CandidateIndex::search_on_gpu(const float* queries, std::int64_t count, std::int64_t width,
                                   std::int64_t* rows) {
  std::unique_ptr<const float[]> owned;
  const float* transformed = queries;
  if (chain_ != nullptr) {
    transformed = chain_->apply_chain(count, queries);
    if (transformed != queries) owned.reset(transformed);
  }
  std::vector<float> distances(static_cast<std::size_t>(count * width));
  gpu_->search(transformed, count, width, nprobe_, distances.data(), rows);
}

}  // namespace attributary::triton
