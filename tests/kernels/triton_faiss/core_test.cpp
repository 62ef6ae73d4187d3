// What knows nothing of Triton: settings, mapped arrays, candidates under a filter.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/index_io.h>

#include <string>
#include <utility>
#include <vector>

#include "support.h"
#include "triton_faiss/candidate_index.h"
#include "triton_faiss/mapped_file.h"
#include "triton_faiss/settings.h"

using namespace attributary::triton;
using namespace attributary::tests;

namespace {

std::string config(const std::string& name = "", const std::string& value = "") {
  const std::string sha(64, 'a');
  std::vector<std::pair<std::string, std::string>> entries = {
      {"bundle", "/b"},      {"bundle_id", "ef2e0eb713583f87"},
      {"items", "10"},       {"dim", "4"},
      {"nprobe", "2"},       {"candidates", "5"},
      {"sha256_index", sha}, {"sha256_vectors", sha}};
  std::string text;
  bool known = false;
  for (const auto& [key, old] : entries) {
    known = known || key == name;
    if (key == name && value == "absent") continue;
    text += (text.empty() ? "" : ",") +
            ("\"" + key + "\":{\"string_value\":\"" + (key == name ? value : old) + "\"}");
  }
  if (!known && !name.empty()) text += ",\"" + name + "\":{\"string_value\":\"" + value + "\"}";
  return "{\"parameters\":{" + text + "}}";
}

}  // namespace

TEST_CASE("settings are read as they were written") {
  const Settings settings = parse_settings(config());
  CHECK(settings.bundle_id == 0xef2e0eb713583f87u);
  CHECK(settings.bundle == "/b");
  CHECK(settings.candidates == 5);
  CHECK(settings.threads == 1);
  CHECK(parse_settings(config("threads", "0")).threads == 0);
}

TEST_CASE("a wrong setting is named") {
  const std::pair<const char*, const char*> wrong[] = {
      {"bundle", "absent"},       {"bundle_id", "xyz"},     {"items", "0"},
      {"items", "2147483648"},    {"dim", "4.5"},           {"nprobe", "-1"},
      {"nprobe", " 2"},           {"candidates", ""},       {"candidates", "99999999999999999999"},
      {"sha256_index", "absent"}, {"sha256_vectors", "AA"}, {"threads", "-1"},
      {"gpu_temp_bytes", "1"}};
  for (const auto& [name, value] : wrong) {
    const std::string told = message_of([&] { parse_settings(config(name, value)); });
    CHECK_MESSAGE(told.rfind(std::string("parameters.") + name + ": ", 0) == 0, name, " = ", value,
                  " told: ", told);
  }
  CHECK(message_of([] { parse_settings("{"); }).rfind("config: ", 0) == 0);
  CHECK(message_of([] { parse_settings("[]"); }).rfind("config: ", 0) == 0);
  CHECK(message_of([] {
          parse_settings(R"({"parameters": {"bundle": 3}})");
        }).rfind("parameters.bundle: ", 0) == 0);
}

TEST_CASE("a .npy file is held to its type, order, shape and size") {
  const Scratch good(npy("<f2", "False", "(3, 4)", 24));
  const MappedFile file(good.path());
  CHECK(static_cast<const std::uint8_t*>(file.npy("<f2", 3, 4))[23] == 1);
  CHECK(message_of([&] { file.npy("<f2", 4, 3); }) != "");
  CHECK(message_of([&] { file.npy("<i4", 3, 4); }) != "");
  const std::string wrong[] = {"",
                               "not an array",
                               npy("<f2", "True", "(3, 4)", 24),
                               npy("<f2", "False", "(3, 4)", 23),
                               npy("<f2", "False", "(3, 4)", 25),
                               npy("<f2", "False", "(3,)", 24),
                               npy("<f4", "False", "(3, 4)", 24),
                               npy("<f2", "False", "(3, 99999999999999999999)", 24),
                               npy("<f2", "False", "(3, 4)", 24).substr(0, 60)};
  for (const std::string& contents : wrong) {
    const Scratch scratch(contents);
    CHECK_MESSAGE(message_of([&] { MappedFile(scratch.path()).npy("<f2", 3, 4); }) != "", contents);
  }
}

TEST_CASE("a file is held to its SHA-256") {
  const Scratch scratch("abc");  // FIPS 180-4's own example
  const MappedFile file(scratch.path());
  CHECK(message_of(
            [&] { file.verify("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); }) == "");
  CHECK(message_of([&] { file.verify(std::string(64, '0')); }).find("has changed") != std::string::npos);
  CHECK(message_of([] { MappedFile("/nowhere/index.faiss"); }).rfind("index.faiss: ", 0) == 0);
  CHECK(message_of([] { MappedFile("/tmp"); }) != "");
}

TEST_CASE("a filtered search of fast-scan codes is that of the same codes unpacked") {
  constexpr std::size_t kRows = 1999, kLists = 8, kCount = 5, kWidth = 60;
  // More than 16 sub-quantisers, an odd number of rows a list, with and without residuals.
  for (const auto& [dim, parts] : {std::pair<std::size_t, std::size_t>{96, 48}, {64, 16}, {40, 20}}) {
    for (const bool by_residual : {false, true}) {
      const std::vector<float> rows = unit_rows(kRows, dim, 1), queries = unit_rows(kCount, dim, 2);
      faiss::IndexFlatIP quantizer(static_cast<faiss::Index::idx_t>(dim));
      faiss::IndexIVFPQ plain(&quantizer, dim, kLists, parts, 4, faiss::METRIC_INNER_PRODUCT);
      plain.by_residual = by_residual;
      plain.cp.niter = plain.pq.cp.niter = 2;
      plain.train(kRows, rows.data());
      plain.add(kRows, rows.data());
      const faiss::IndexIVFPQFastScan packed(plain);
      const Scratch scratch;
      faiss::write_index(&packed, scratch.path());
      CandidateIndex index(scratch.path(), kRows, static_cast<std::int64_t>(dim), kLists);

      std::vector<std::uint8_t> bitmap((kRows + 7) / 8, 0);
      std::int64_t passing = 0;
      for (std::size_t row = 0; row < kRows; row += 3, ++passing)
        bitmap[row / 8] |= static_cast<std::uint8_t>(1 << (row % 8));
      const AllowedRows allowed{bitmap.data(), passing};
      std::vector<std::int64_t> found(kCount * kWidth), wanted(kCount * kWidth);
      for (std::size_t q = 0; q < kCount; ++q)
        index.search(queries.data() + q * dim, kWidth, &allowed, found.data() + q * kWidth);

      faiss::IDSelectorBitmap selector(bitmap.size(), bitmap.data());
      faiss::SearchParametersIVF parameters;
      parameters.nprobe = kLists;
      parameters.sel = &selector;
      std::vector<float> distances(wanted.size());
      plain.search(kCount, queries.data(), kWidth, distances.data(), wanted.data(), &parameters);
      if (index.unpacked()) CHECK(found == wanted);
      for (const std::int64_t row : found) CHECK((row >= 0 && row % 3 == 0));
    }
  }
}

TEST_CASE("an index that does not fit its bundle is refused by name") {
  const std::vector<float> rows = unit_rows(50, 8, 1);
  faiss::IndexFlatIP flat(8);
  flat.add(50, rows.data());
  faiss::IndexFlatL2 other(8);
  const Scratch good, metric, damaged("IxFI and then nothing that an index holds");
  faiss::write_index(&flat, good.path());
  faiss::write_index(&other, metric.path());
  CandidateIndex(good.path(), 50, 8, 0);
  CHECK(message_of([&] { CandidateIndex(good.path(), 51, 8, 0); }).find("holds 50 vectors") !=
        std::string::npos);
  CHECK(message_of([&] { CandidateIndex(good.path(), 50, 9, 0); }).find("holds 50 vectors") !=
        std::string::npos);
  CHECK(message_of([&] { CandidateIndex(metric.path(), 0, 8, 0); }).find("inner products") !=
        std::string::npos);
  CHECK(message_of([&] { CandidateIndex(damaged.path(), 50, 8, 0); }).find("cannot be opened") !=
        std::string::npos);
  CHECK(message_of([&] { CandidateIndex(good.path(), 50, 8, 0).use_gpu(0, {}); }) != "");
}
