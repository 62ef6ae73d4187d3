// The bytes of an attributary.v1.Attribution without timings and receipt: what is the same in every reply
// comes ready as bytes, the numbers of this one are written around it. See attributary/gateway/reply.py.
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "bindings/bindings.h"

namespace attributary::bindings {
namespace {

// Tags: field number and wire type, as in proto/attributary/v1/attribution.proto.
enum Answer : char { kItems = 0x0a, kCreators = 0x12, kDiffuse = 0x1d, kForeign = 0x20, kWithheld = 0x45 };
enum AnswerLate : char { kRevision = 0x48, kUnjudged = 0x50 };
enum Item : char { kRank = 0x10, kSimilarity = 0x1d, kShare = 0x25 };
enum Creator : char { kTotal = 0x15, kCount = 0x18, kLow = 0x25, kHigh = 0x2d };

constexpr std::size_t kFloatField = 1 + sizeof(float);

std::size_t varint_size(std::uint64_t value) {
  std::size_t size = 1;
  while (value >>= 7) ++size;
  return size;
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value > 0x7f) {
    out.push_back(static_cast<char>((value & 0x7f) | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// Little-endian, as every machine that the kernels are built for is.
void put_float(std::string& out, char tag, float value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.push_back(tag);
  out.append(bytes, sizeof value);
}

// What was kept under a number, or is made and kept now.
nb::bytes kept_or_made(nb::dict& kept, const nb::callable& make, std::int64_t number) {
  const nb::int_ key(number);
  if (PyObject* found = PyDict_GetItemWithError(kept.ptr(), key.ptr())) return nb::borrow<nb::bytes>(found);
  if (PyErr_Occurred()) throw nb::python_error();
  const nb::bytes made = nb::cast<nb::bytes>(make(key));
  kept[key] = made;
  return made;
}

using Rows = Array<const std::int64_t, 1>;
using Codes = Array<const std::int32_t, 1>;
using Floats = Array<const float, 1>;
using Doubles = Array<const double, 1>;

void put_items(std::string& out, nb::dict& kept, const nb::callable& make, const Rows& rows,
               const Floats& similarity, const Floats& share) {
  for (std::size_t i = 0; i < rows.shape(0); ++i) {
    const nb::bytes same = kept_or_made(kept, make, rows.data()[i]);
    out.push_back(kItems);
    put_varint(out, same.size() + 1 + varint_size(i + 1) + 2 * kFloatField);
    out.append(same.c_str(), same.size());
    out.push_back(kRank);
    put_varint(out, i + 1);
    put_float(out, kSimilarity, similarity.data()[i]);
    put_float(out, kShare, share.data()[i]);
  }
}

// The creators of an answer, column by column; `low` and `high` where the bundle's calibration says between
// what a share lies.
struct Creators {
  const std::int32_t* codes;
  const float* totals;
  const std::int32_t* counts;
  const double *low, *high;
};

void put_creators(std::string& out, nb::dict& kept, const nb::callable& make, const Creators& of,
                  std::size_t most) {
  for (std::size_t i = 0; i < most && of.codes[i] >= 0; ++i) {
    const nb::bytes same = kept_or_made(kept, make, of.codes[i]);
    const auto count = static_cast<std::uint32_t>(of.counts[i]);
    out.push_back(kCreators);
    put_varint(out, same.size() + kFloatField + 1 + varint_size(count) + (of.low ? 2 * kFloatField : 0));
    out.append(same.c_str(), same.size());
    put_float(out, kTotal, of.totals[i]);
    out.push_back(kCount);
    put_varint(out, count);
    if (of.low) {
      put_float(out, kLow, static_cast<float>(of.low[i]));
      put_float(out, kHigh, static_cast<float>(of.high[i]));
    }
  }
}

nb::bytes reply(nb::dict kept_items, const nb::callable& make_item, const Rows& rows,
                const Floats& similarity, const Floats& share, nb::dict kept_creators,
                const nb::callable& make_creator, const Codes& codes, const Floats& totals,
                const Codes& counts, const std::optional<Doubles>& low, const std::optional<Doubles>& high,
                std::size_t top_creators, float diffuse, float withheld, bool foreign, bool unjudged,
                std::uint64_t revision, const nb::bytes& bundle) {
  require(rows.shape(0) == similarity.shape(0) && rows.shape(0) == share.shape(0), "items of one length");
  require(low.has_value() == high.has_value(), "both ends of the intervals, or none");
  const bool whole = top_creators <= codes.shape(0) && top_creators <= totals.shape(0) &&
                     top_creators <= counts.shape(0) && (!low || top_creators <= low->shape(0)) &&
                     (!high || top_creators <= high->shape(0));
  require(whole, "fewer creators than asked for");
  const Creators creators{codes.data(), totals.data(), counts.data(), low ? low->data() : nullptr,
                          high ? high->data() : nullptr};
  std::string out;
  out.reserve(256 * (rows.shape(0) + top_creators / 2 + 1));
  put_items(out, kept_items, make_item, rows, similarity, share);
  put_creators(out, kept_creators, make_creator, creators, top_creators);
  put_float(out, kDiffuse, diffuse);
  if (foreign) out.append({kForeign, 1});
  out.append(bundle.c_str(), bundle.size());
  put_float(out, kWithheld, withheld);
  out.push_back(kRevision);
  put_varint(out, revision);
  if (unjudged) out.append({kUnjudged, 1});
  return nb::bytes(out.data(), out.size());
}

}  // namespace

void bind_reply(nb::module_& m) {
  m.def("reply", &reply, nb::arg("kept_items"), nb::arg("make_item"), nb::arg("rows").noconvert(),
        nb::arg("similarity").noconvert(), nb::arg("share").noconvert(), nb::arg("kept_creators"),
        nb::arg("make_creator"), nb::arg("codes").noconvert(), nb::arg("totals").noconvert(),
        nb::arg("counts").noconvert(), nb::arg("low").noconvert().none(), nb::arg("high").noconvert().none(),
        nb::arg("top_creators"), nb::arg("diffuse"), nb::arg("withheld"), nb::arg("foreign"),
        nb::arg("unjudged"), nb::arg("revision"), nb::arg("bundle"),
        "Return the bytes of an Attribution; see attributary.gateway.reply.");
}

}  // namespace attributary::bindings
