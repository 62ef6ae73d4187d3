#include "rescore/rescore.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

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
        ("candidate " + row + " of query " + query + " is outside the " + std::to_string(rows) + " vectors").c_str());
  }
  if (fault.kind == FaultKind::kNotFinite) {
    throw nb::value_error(("the similarity of query " + query + " and row " + row +
                           " is not finite: a stored vector is damaged, or the query's values are too large")
                              .c_str());
  }
}

// float16 or int8 [rows, dim]; the data type is looked at here, since NumPy's halves have no C++ name.
using Vectors = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Store make_store(const Vectors& vectors, const std::optional<Array<const float, 1>>& scales) {
  const auto code = static_cast<nb::dlpack::dtype_code>(vectors.dtype().code);
  const int bits = vectors.dtype().bits;
  Store store;
  store.vectors = vectors.data();
  store.rows = static_cast<std::int64_t>(vectors.shape(0));
  store.dim = static_cast<std::int64_t>(vectors.shape(1));
  if (code == nb::dlpack::dtype_code::Float && bits == 16) return store;
  require(code == nb::dlpack::dtype_code::Int && bits == 8, "vectors: float16 or int8");
  require(scales.has_value() && scales->shape(0) == vectors.shape(0), "scales: one entry an int8 vector");
  store.type = VectorType::kInt8;
  store.scales = scales->data();
  return store;
}

void run(const Vectors& vectors, std::optional<Array<const float, 1>> scales, Array<const float, 2> queries, Array<const std::int64_t, 2> candidates,
         Array<const std::int32_t, 1> creators, Array<const std::int32_t, 1> groups,
         Array<const float, 1> temperature, Array<const float, 1> threshold, Array<const float, 1> background,
         std::optional<Array<const std::uint8_t, 1>> allowed, Array<std::int64_t, 2> out_rows,
         Array<float, 2> out_similarity, Array<float, 2> out_share, Array<float, 1> out_diffuse,
         Array<std::int32_t, 2> out_creators, Array<float, 2> out_creator_share,
         Array<std::int32_t, 2> out_creator_items, const std::string& isa, int threads) {
  Store store = make_store(vectors, scales);
  const std::size_t count = queries.shape(0);
  const auto rows = static_cast<std::size_t>(store.rows);
  require(store.rows < (std::int64_t{1} << 31), "vectors: more than 2^31 - 1 rows");
  require(queries.shape(1) == static_cast<std::size_t>(store.dim), "queries and vectors differ in dimensions");
  require(candidates.shape(0) == count, "candidates: one row a query");
  require(creators.shape(0) == rows && groups.shape(0) == rows, "creators and groups: one entry a vector");
  require(temperature.shape(0) == count && threshold.shape(0) == count && background.shape(0) == count,
          "temperature, threshold and background: one entry a query");
  require(!allowed || allowed->shape(0) >= (rows + 7) / 8, "allowed: one bit a vector");
  const std::size_t top_k = out_rows.shape(1), top_creators = out_creators.shape(1);
  for (const auto& out : {out_similarity, out_share}) {
    require(out.shape(0) == count && out.shape(1) == top_k, "similarity and share: the shape of rows");
  }
  require(out_rows.shape(0) == count && out_diffuse.shape(0) == count && out_creators.shape(0) == count,
          "results: one row a query");
  require(out_creator_share.shape(0) == count && out_creator_share.shape(1) == top_creators &&
              out_creator_items.shape(0) == count && out_creator_items.shape(1) == top_creators,
          "creator_share and creator_items: the shape of creators");

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
}

}  // namespace

void bind_rescore(nb::module_& m) {
  m.def("rescore", &run, nb::arg("vectors").noconvert(), nb::arg("scales").none(), nb::arg("queries").noconvert(),
        nb::arg("candidates").noconvert(), nb::arg("creators").noconvert(), nb::arg("groups").noconvert(),
        nb::arg("temperature").noconvert(), nb::arg("threshold").noconvert(), nb::arg("background").noconvert(),
        nb::arg("allowed").none(), nb::arg("rows").noconvert(), nb::arg("similarity").noconvert(),
        nb::arg("share").noconvert(), nb::arg("diffuse").noconvert(), nb::arg("creator_codes").noconvert(),
        nb::arg("creator_share").noconvert(), nb::arg("creator_items").noconvert(), nb::arg("isa"),
        nb::arg("threads"), "Write the answers into the arrays given; see attributary.kernels.rescore.");
}

}  // namespace attributary::bindings
