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

bool view_store(const Vectors& vectors, const std::optional<Array<const float, 1>>& scales, Store& store) {
  const auto code = static_cast<nb::dlpack::dtype_code>(vectors.dtype().code);
  const int bits = vectors.dtype().bits;
  const bool halves = code == nb::dlpack::dtype_code::Float && bits == 16;
  const bool bytes = code == nb::dlpack::dtype_code::Int && bits == 8;
  if ((!halves && !bytes) || bytes != scales.has_value()) return false;
  if (bytes && scales->shape(0) != vectors.shape(0)) return false;
  store.vectors = vectors.data();
  store.type = bytes ? VectorType::kInt8 : VectorType::kFloat16;
  store.scales = bytes ? scales->data() : nullptr;
  store.rows = static_cast<std::int64_t>(vectors.shape(0));
  store.dim = static_cast<std::int64_t>(vectors.shape(1));
  return true;
}

template <typename Matrix>
bool has_shape(const Matrix& array, std::size_t rows, std::size_t columns) {
  return array.shape(0) == rows && array.shape(1) == columns;
}

template <typename Values, typename Condition>
bool all_of(const Values& array, const Condition& condition) {
  return std::all_of(array.data(), array.data() + array.size(), condition);
}

// Returns whether the arguments fit; where they do not, nothing is written and the Python face says what is
// wrong. Memory safety rests on these checks.
bool run(const Vectors& vectors, std::optional<Array<const float, 1>> scales, Array<const float, 2> queries,
         Array<const std::int64_t, 2> candidates, Array<const std::int32_t, 1> creators,
         Array<const std::int32_t, 1> groups, Array<const float, 1> temperature,
         Array<const float, 1> threshold, Array<const float, 1> background,
         std::optional<Array<const std::uint8_t, 1>> allowed, Array<std::int64_t, 2> out_rows,
         Array<float, 2> out_similarity, Array<float, 2> out_share, Array<float, 1> out_diffuse,
         Array<std::int32_t, 2> out_creators, Array<float, 2> out_creator_share,
         Array<std::int32_t, 2> out_creator_items, const std::string& isa, int threads) {
  const std::size_t count = queries.shape(0), rows = vectors.shape(0);
  const std::size_t top_k = out_rows.shape(1), top_creators = out_creators.shape(1);
  const bool shapes_fit =
      rows < (std::size_t{1} << 31) && queries.shape(1) == vectors.shape(1) && candidates.shape(0) == count &&
      creators.shape(0) == rows && groups.shape(0) == rows && temperature.shape(0) == count &&
      threshold.shape(0) == count && background.shape(0) == count &&
      (!allowed || allowed->shape(0) == (rows + 7) / 8) && out_rows.shape(0) == count &&
      has_shape(out_similarity, count, top_k) && has_shape(out_share, count, top_k) &&
      out_diffuse.shape(0) == count && out_creators.shape(0) == count &&
      has_shape(out_creator_share, count, top_creators) && has_shape(out_creator_items, count, top_creators);
  Store store;
  if (!shapes_fit || !view_store(vectors, scales, store)) return false;
  const bool values_fit =
      all_of(queries, [](float x) { return std::isfinite(x); }) &&
      all_of(temperature, [](float x) { return x > 0.0f && std::isfinite(x); }) &&
      all_of(threshold, [](float x) { return x >= 0.0f && x < 1.0f; }) &&
      all_of(background, [](float x) { return x < std::numeric_limits<float>::infinity(); });
  if (!values_fit) return false;

  store.creators = creators.data();
  store.groups = groups.data();
  Batch batch;
  batch.queries = queries.data();
  batch.candidates = candidates.data();
  batch.count = static_cast<std::int64_t>(count);
  batch.width = static_cast<std::int64_t>(candidates.shape(1));
  batch.temperature = temperature.data();
  batch.threshold = threshold.data();
  batch.background = background.data();
  batch.allowed = allowed ? allowed->data() : nullptr;
  Result result;
  result.rows = out_rows.data();
  result.similarity = out_similarity.data();
  result.share = out_share.data();
  result.diffuse = out_diffuse.data();
  result.creators = out_creators.data();
  result.creator_share = out_creator_share.data();
  result.creator_items = out_creator_items.data();
  result.top_k = static_cast<std::int64_t>(top_k);
  result.top_creators = static_cast<std::int64_t>(top_creators);

  const Isa level = parse_isa(isa);
  Fault fault;
  {
    const nb::gil_scoped_release release;
    fault = rescore::rescore(store, batch, result, level, threads);
  }
  raise(fault, store.rows);
  return true;
}

}  // namespace

void bind_rescore(nb::module_& m) {
  m.def("rescore", &run, nb::arg("vectors").noconvert(), nb::arg("scales").none(),
        nb::arg("queries").noconvert(), nb::arg("candidates").noconvert(), nb::arg("creators").noconvert(),
        nb::arg("groups").noconvert(), nb::arg("temperature").noconvert(), nb::arg("threshold").noconvert(),
        nb::arg("background").noconvert(), nb::arg("allowed").none(), nb::arg("rows").noconvert(),
        nb::arg("similarity").noconvert(), nb::arg("share").noconvert(), nb::arg("diffuse").noconvert(),
        nb::arg("creator_codes").noconvert(), nb::arg("creator_share").noconvert(),
        nb::arg("creator_items").noconvert(), nb::arg("isa"), nb::arg("threads"),
        "Write the answers into the arrays given and return True; return False where an argument's shape or "
        "value "
        "is wrong. See attributary.kernels.rescore.");
}

}  // namespace attributary::bindings
