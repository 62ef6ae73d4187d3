#include "scan/scan.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "bindings/bindings.h"

namespace attributary::bindings {
namespace {

using Addresses = Array<const std::uint64_t, 1>;

void scan_lists(const Addresses& codes, const Addresses& rows, const Array<const std::int64_t, 1>& sizes,
                const Array<const float, 2>& weights, const Array<const std::int64_t, 2>& probes,
                const Array<const float, 2>& base, const std::optional<Array<const std::uint8_t, 1>>& allowed,
                std::int64_t allowed_rows, Array<std::int64_t, 2> found, const std::string& isa,
                int threads) {
  const std::size_t lists = codes.shape(0), queries = weights.shape(0), probed = probes.shape(1);
  require(rows.shape(0) == lists && sizes.shape(0) == lists,
          "one address of codes, of rows and a size a list");
  require(weights.shape(1) <= static_cast<std::size_t>(scan::kMostDim), "too many dimensions");
  require(probes.shape(0) == queries && base.shape(0) == queries && base.shape(1) == probed &&
              found.shape(0) == queries,
          "one row a query");
  require(!allowed || allowed->shape(0) >= static_cast<std::size_t>((allowed_rows + 7) / 8),
          "a bitmap of fewer rows");
  require(std::all_of(probes.data(), probes.data() + probes.size(),
                      [&](std::int64_t list) { return list < static_cast<std::int64_t>(lists); }),
          "a list that is not there");
  require(
      std::all_of(weights.data(), weights.data() + weights.size(), [](float x) { return std::isfinite(x); }),
      "weights must be finite");
  const Isa level = parse_isa(isa);
  const nb::gil_scoped_release release;
  scan::scan({codes.data(), rows.data(), sizes.data(), static_cast<std::int64_t>(lists),
              static_cast<std::int64_t>(weights.shape(1))},
             {weights.data(), probes.data(), base.data(), static_cast<std::int64_t>(queries),
              static_cast<std::int64_t>(probed), allowed ? allowed->data() : nullptr, allowed_rows},
             static_cast<std::int64_t>(found.shape(1)), found.data(), level, threads);
}

}  // namespace

void bind_scan(nb::module_& m) {
  m.attr("most_dim") = scan::kMostDim;
  m.def("scan", &scan_lists, nb::arg("codes").noconvert(), nb::arg("rows").noconvert(),
        nb::arg("sizes").noconvert(), nb::arg("weights").noconvert(), nb::arg("probes").noconvert(),
        nb::arg("base").noconvert(), nb::arg("allowed").noconvert().none(), nb::arg("allowed_rows"),
        nb::arg("found").noconvert(), nb::arg("isa"), nb::arg("threads"),
        "Write the best rows of the probed lists; see attributary.kernels.scan.");
}

}  // namespace attributary::bindings
