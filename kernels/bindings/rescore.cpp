#include "rescore/rescore.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "bindings/bindings.h"

namespace attributary::bindings {
namespace {

using rescore::Batch;
using rescore::Fault;
using rescore::FaultKind;
using rescore::Result;
using rescore::Store;
using rescore::VectorType;

void raise(const Fault& fault, std::int64_t rows) {
  const std::string query = std::to_string(fault.query);
  const std::string row = std::to_string(fault.row);
  if (fault.kind == FaultKind::kOutOfRange) {
    throw nb::index_error(
        ("candidate " + row + " of query " + query + " is outside the " + std::to_string(rows) + " vectors")
            .c_str());
  }
  if (fault.kind == FaultKind::kNotFinite) {
    throw nb::value_error(("the similarity of query " + query + " and row " + row +
                           " is not finite: a stored vector is damaged, or the query's values are too large")
                              .c_str());
  }
}

// float16 or int8 [rows, dim]; the data type is looked at here, since NumPy's halves have no C++ name.
using Vectors = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Scales = std::optional<Array<const float, 1>>;
using Bitmap = std::optional<Array<const std::uint8_t, 1>>;
using Candidates = Array<const std::int64_t, 2>;
using Codes = Array<const std::int32_t, 1>;

// Of the array that holds a calibration a row; Python compares it with its own.
constexpr std::int64_t kCalibrationColumns = 9;

static_assert(sizeof(rescore::Calibration) == kCalibrationColumns * sizeof(float));

bool view_store(const Vectors& vectors, const Scales& scales, Store& store) {
  const auto code = static_cast<nb::dlpack::dtype_code>(vectors.dtype().code);
  const int bits = vectors.dtype().bits;
  const bool halves = code == nb::dlpack::dtype_code::Float && bits == 16;
  const bool bytes = code == nb::dlpack::dtype_code::Int && bits == 8;
  if ((!halves && !bytes) || bytes != scales.has_value()) return false;
  if (bytes && scales->shape(0) != vectors.shape(0)) return false;
  if (vectors.shape(0) >= (std::size_t{1} << 31)) return false;
  store.vectors = vectors.data();
  store.type = bytes ? VectorType::kInt8 : VectorType::kFloat16;
  store.scales = bytes ? scales->data() : nullptr;
  store.rows = static_cast<std::int64_t>(vectors.shape(0));
  store.dim = static_cast<std::int64_t>(vectors.shape(1));
  return true;
}

bool view_candidates(const Candidates& candidates, const Bitmap& visible, const Store& store, Batch& batch) {
  if (visible && visible->shape(0) != static_cast<std::size_t>((store.rows + 7) / 8)) return false;
  batch.candidates = candidates.data();
  batch.count = static_cast<std::int64_t>(candidates.shape(0));
  batch.width = static_cast<std::int64_t>(candidates.shape(1));
  batch.visible = visible ? visible->data() : nullptr;
  return true;
}

template <typename Matrix>
bool has_shape(const Matrix& array, std::int64_t rows, std::int64_t columns) {
  return array.shape(0) == static_cast<std::size_t>(rows) &&
         array.shape(1) == static_cast<std::size_t>(columns);
}

bool view_queries(const Array<const float, 2>& queries, const Store& store, Batch& batch) {
  if (!has_shape(queries, batch.count, store.dim)) return false;
  batch.queries = queries.data();
  return std::all_of(queries.data(), queries.data() + queries.size(),
                     [](float x) { return std::isfinite(x); });
}

bool fits(const rescore::Calibration& c) {
  return c.temperature > 0.0f && std::isfinite(c.temperature) && c.threshold >= 0.0f && c.threshold < 1.0f &&
         c.background < std::numeric_limits<float>::infinity() && c.floor >= 0.0f && c.floor < 1.0f &&
         !std::isnan(c.foreign_below) && c.margin >= 0.0f && std::isfinite(c.margin) && c.reach >= 0.0f &&
         c.reach <= 16777216.0f && c.reach_cut >= 0.0f && c.reach_cut <= 1.0f && c.reach_null > 0.0f &&
         std::isfinite(c.reach_null);
}

// Where `answer` writes; the arrays are Python's.
struct Output {
  Array<std::int64_t, 2> rows;
  Array<float, 2> similarity, share;
  Array<float, 1> diffuse, withheld, peak;
  Array<std::int32_t, 2> creators;
  Array<float, 2> creator_share;
  Array<std::int32_t, 2> creator_items;
};

bool view_output(const Output& out, std::int64_t count, Result& result) {
  result.top_k = static_cast<std::int64_t>(out.rows.shape(1));
  result.top_creators = static_cast<std::int64_t>(out.creators.shape(1));
  for (const auto* column : {&out.diffuse, &out.withheld, &out.peak}) {
    if (column->shape(0) != static_cast<std::size_t>(count)) return false;
  }
  result.rows = out.rows.data();
  result.similarity = out.similarity.data();
  result.share = out.share.data();
  result.diffuse = out.diffuse.data();
  result.withheld = out.withheld.data();
  result.peak = out.peak.data();
  result.creators = out.creators.data();
  result.creator_share = out.creator_share.data();
  result.creator_items = out.creator_items.data();
  return has_shape(out.rows, count, result.top_k) && has_shape(out.similarity, count, result.top_k) &&
         has_shape(out.share, count, result.top_k) && has_shape(out.creators, count, result.top_creators) &&
         has_shape(out.creator_share, count, result.top_creators) &&
         has_shape(out.creator_items, count, result.top_creators);
}

// A result may be one that was used before, or never.
void mark_unused(const Result& result, std::int64_t count) {
  const std::int64_t items = count * result.top_k, creators = count * result.top_creators;
  std::fill_n(result.rows, items, -1);
  std::fill_n(result.similarity, items, 0.0f);
  std::fill_n(result.share, items, 0.0f);
  std::fill_n(result.diffuse, count, 1.0f);
  std::fill_n(result.withheld, count, 0.0f);
  std::fill_n(result.peak, count, 0.0f);
  std::fill_n(result.creators, creators, -1);
  std::fill_n(result.creator_share, creators, 0.0f);
  std::fill_n(result.creator_items, creators, 0);
}

using Run = Fault (*)(const Store&, const Batch&, const Result&, Isa, int);

bool start(Run run, const Store& store, const Batch& batch, const Result& result, const std::string& isa,
           int threads) {
  const Isa level = parse_isa(isa);
  Fault fault;
  {
    const nb::gil_scoped_release release;
    fault = run(store, batch, result, level, threads);
  }
  raise(fault, store.rows);
  return true;
}

// The functions below return whether the arguments fit; where they do not, nothing is written and the Python
// face says what is wrong. Memory safety rests on these checks.

// Similarities are computed from `queries` and `vectors`, or given.
bool answer(const std::optional<Vectors>& vectors, const Scales& scales,
            const std::optional<Array<const float, 2>>& queries,
            const std::optional<Array<const float, 2>>& similarity, const Candidates& candidates,
            const Codes& creators, const Codes& groups, const Array<const float, 2>& calibration,
            const Bitmap& visible, Array<std::int64_t, 2> out_rows, Array<float, 2> out_similarity,
            Array<float, 2> out_share, Array<float, 1> out_diffuse, Array<float, 1> out_withheld,
            Array<float, 1> out_peak, Array<std::int32_t, 2> out_creators, Array<float, 2> out_creator_share,
            Array<std::int32_t, 2> out_creator_items, const std::string& isa, int threads) {
  Store store;
  store.rows = static_cast<std::int64_t>(creators.shape(0));
  Batch batch;
  Result result;
  if (vectors.has_value() != queries.has_value() || vectors.has_value() == similarity.has_value())
    return false;
  if (vectors && !view_store(*vectors, scales, store)) return false;
  if (store.rows >= (std::int64_t{1} << 31)) return false;
  for (const Codes* codes : {&creators, &groups}) {
    if (codes->shape(0) != static_cast<std::size_t>(store.rows)) return false;
  }
  if (!view_candidates(candidates, visible, store, batch)) return false;
  if (queries && !view_queries(*queries, store, batch)) return false;
  if (similarity) {
    if (!has_shape(*similarity, batch.count, batch.width)) return false;
    batch.similarity = similarity->data();
  }
  if (!has_shape(calibration, batch.count, kCalibrationColumns)) return false;
  batch.calibration = reinterpret_cast<const rescore::Calibration*>(calibration.data());
  if (!std::all_of(batch.calibration, batch.calibration + batch.count, fits)) return false;
  const Output out{out_rows, out_similarity, out_share,         out_diffuse,      out_withheld,
                   out_peak, out_creators,   out_creator_share, out_creator_items};
  if (!view_output(out, batch.count, result)) return false;
  store.creators = creators.data();
  store.groups = groups.data();
  mark_unused(result, batch.count);
  return start(rescore::rescore, store, batch, result, isa, threads);
}

bool rank(const Vectors& vectors, const Scales& scales, const Array<const float, 2>& queries,
          const Candidates& candidates, const Bitmap& allowed, Array<std::int64_t, 2> out_rows,
          Array<float, 2> out_similarity, const std::string& isa, int threads) {
  Store store;
  Batch batch;
  Result result;
  if (!view_store(vectors, scales, store) || !view_candidates(candidates, allowed, store, batch) ||
      !view_queries(queries, store, batch)) {
    return false;
  }
  result.top_k = static_cast<std::int64_t>(out_rows.shape(1));
  if (!has_shape(out_rows, batch.count, result.top_k) ||
      !has_shape(out_similarity, batch.count, result.top_k)) {
    return false;
  }
  result.rows = out_rows.data();
  result.similarity = out_similarity.data();
  return start(rescore::rank, store, batch, result, isa, threads);
}

}  // namespace

void bind_rescore(nb::module_& m) {
  m.attr("calibration_columns") = kCalibrationColumns;
  m.def("rescore", &answer, nb::arg("vectors").noconvert().none(), nb::arg("scales").noconvert().none(),
        nb::arg("queries").noconvert().none(), nb::arg("similarity").noconvert().none(),
        nb::arg("candidates").noconvert(), nb::arg("creators").noconvert(), nb::arg("groups").noconvert(),
        nb::arg("calibration").noconvert(), nb::arg("visible").noconvert().none(),
        nb::arg("rows").noconvert(), nb::arg("out_similarity").noconvert(), nb::arg("share").noconvert(),
        nb::arg("diffuse").noconvert(), nb::arg("withheld").noconvert(), nb::arg("peak").noconvert(),
        nb::arg("creator_codes").noconvert(), nb::arg("creator_share").noconvert(),
        nb::arg("creator_items").noconvert(), nb::arg("isa"), nb::arg("threads"),
        "Write the answers into the arrays given and return True; return False where an argument's shape or "
        "value "
        "is wrong. See attributary.kernels.rescore and attributary.kernels.share.");
  m.def("rank", &rank, nb::arg("vectors").noconvert(), nb::arg("scales").none(),
        nb::arg("queries").noconvert(), nb::arg("candidates").noconvert(), nb::arg("allowed").none(),
        nb::arg("rows").noconvert(), nb::arg("similarity").noconvert(), nb::arg("isa"), nb::arg("threads"),
        "Write the best rows and their similarities; see attributary.kernels.rank.");
}

}  // namespace attributary::bindings
