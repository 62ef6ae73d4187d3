// A whole model on files: what a query is answered, alone and beside others.
#include "triton_faiss/model.h"

#include <doctest/doctest.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/VectorTransform.h>
#include <faiss/index_io.h>
#include <faiss/utils/fp16.h>
#include <openssl/sha.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>

#include "support.h"

using namespace attributary::triton;
using namespace attributary::tests;

namespace {

constexpr std::int64_t kItems = 1203, kDim = 64, kLists = 8, kWidth = 90;
constexpr auto kBytes = static_cast<std::size_t>((kItems + 7) / 8);

// Clusters whose members differ by parts in a million: the R best of a query end inside one, so that the last
// bit of an inner product decides which rows are candidates.
std::vector<float> clustered() {
  const std::vector<float> centres = unit_rows(30, kDim, 1);
  std::vector<float> rows = unit_rows(kItems, kDim, 2);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t row = i / kDim;
    rows[i] = centres[row % 30 * kDim + i % kDim] + 1e-6f * rows[i];
  }
  return rows;
}

std::string hash_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string data(std::istreambuf_iterator<char>(file), {});
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  std::string text;
  for (const unsigned char byte : digest) {
    char two[3];
    std::snprintf(two, sizeof(two), "%02x", byte);
    text += two;
  }
  return text;
}

// A bundle of one kind of index in a folder that goes when the test ends.
class BundleFolder {
 public:
  BundleFolder(const std::string& kind, const std::vector<float>& rows) : path_(scratch_folder()) {
    faiss::IndexFlatIP flat(kDim), quantizer(kDim);
    // One of 4 dimensions a part, and one of 16: FAISS makes lookup tables of the latter in BLAS.
    faiss::IndexIVFPQ codes(&quantizer, kDim, kLists, kind == "wide" ? 4 : 16, kind == "ivfpq" ? 6 : 4,
                            faiss::METRIC_INNER_PRODUCT);
    codes.cp.niter = codes.pq.cp.niter = 2;
    faiss::Index* index = &flat;
    std::unique_ptr<faiss::Index> packed, rotated;
    faiss::RandomRotationMatrix rotation(kDim, kDim);
    rotation.init(3);
    if (kind != "flat") {
      codes.train(kItems, rows.data());
      index = &codes;
    }
    index->add(kItems, rows.data());
    if (kind == "fastscan" || kind == "rotated" || kind == "wide") {
      packed = std::make_unique<faiss::IndexIVFPQFastScan>(codes);
      index = packed.get();
    }
    if (kind == "rotated") {
      rotated = std::make_unique<faiss::IndexPreTransform>(&rotation, index);
      index = rotated.get();
    }
    faiss::write_index(index, (path_ + "/index.faiss").c_str());
    std::string halves(rows.size() * 2, '\0');
    auto* half = reinterpret_cast<std::uint16_t*>(halves.data());
    for (std::size_t i = 0; i < rows.size(); ++i) half[i] = faiss::encode_fp16(rows[i]);
    std::string file =
        npy("<f2", "False", "(" + std::to_string(kItems) + ", " + std::to_string(kDim) + ")", 0);
    std::ofstream(path_ + "/vectors.npy", std::ios::binary) << file << halves;
    settings.bundle = path_;
    settings.items = kItems;
    settings.dim = kDim;
    settings.nprobe = kind == "flat" ? 0 : 2;
    settings.candidates = kWidth;
    settings.sha256_index = hash_of(path_ + "/index.faiss");
    settings.sha256_vectors = hash_of(path_ + "/vectors.npy");
  }
  ~BundleFolder() { std::filesystem::remove_all(path_); }

  Settings settings;

 private:
  static std::string scratch_folder() {
    char path[] = "/tmp/attributary_XXXXXX";
    if (mkdtemp(path) == nullptr) throw std::runtime_error("mkdtemp");
    return path;
  }
  std::string path_;
};

struct Asked {
  std::vector<float> embedding;
  std::vector<std::uint8_t> bitmap;  // empty: no filter
};

Batch joined(const std::vector<Asked>& queries) {
  Batch batch;
  for (const Asked& query : queries) {
    batch.embeddings.insert(batch.embeddings.end(), query.embedding.begin(), query.embedding.end());
    batch.filter.push_back(query.bitmap.empty() ? kNoFilter
                                                : static_cast<std::ptrdiff_t>(batch.bitmaps.size()));
    batch.bitmaps.insert(batch.bitmaps.end(), query.bitmap.begin(), query.bitmap.end());
  }
  return batch;
}

bool passes(const std::vector<std::uint8_t>& bitmap, std::int64_t row) {
  return bitmap.empty() || ((bitmap[static_cast<std::size_t>(row / 8)] >> (row % 8)) & 1) != 0;
}

// Bitmaps of nothing, of fewer than R, R, R + 1, a third and all of the rows.
std::vector<std::vector<std::uint8_t>> some_filters() {
  std::vector<std::vector<std::uint8_t>> filters;
  std::mt19937 random(4);
  std::vector<std::int64_t> rows(kItems);
  std::iota(rows.begin(), rows.end(), 0);
  for (const std::int64_t count : {std::int64_t{0}, kWidth / 3, kWidth, kWidth + 1, kItems / 3, kItems}) {
    std::shuffle(rows.begin(), rows.end(), random);
    filters.emplace_back(kBytes, std::uint8_t{0});
    for (std::int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<std::size_t>(rows[static_cast<std::size_t>(i)]);
      filters.back()[row / 8] |= static_cast<std::uint8_t>(1 << (row % 8));
    }
  }
  return filters;
}

const char* const kKinds[] = {"flat", "ivfpq", "fastscan", "rotated", "wide"};

}  // namespace

TEST_CASE("a query's answer alone is its answer in any batch, bit for bit") {
  const std::vector<float> rows = clustered(), embeddings = unit_rows(40, kDim, 5);
  const std::vector<std::vector<std::uint8_t>> filters = some_filters();
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    BundleFolder bundle(kind, rows);
    std::mt19937 random(6);
    Model single(bundle.settings);
    bundle.settings.threads = 3;
    Model together(bundle.settings);
    for (int round = 0; round < 12; ++round) {
      std::vector<Asked> queries(1 + random() % 40);
      for (Asked& query : queries) {
        const float* from = embeddings.data() + random() % 40 * kDim;
        query.embedding.assign(from, from + kDim);
        const std::size_t filter = random() % (filters.size() * 2);
        if (filter < filters.size() && round % 4 != 0) query.bitmap = filters[filter];
      }
      Answers whole, alone;
      together.answer(joined(queries), whole);
      for (std::size_t q = 0; q < queries.size(); ++q) {
        single.answer(joined({queries[q]}), alone);
        REQUIRE(alone.row.size() == static_cast<std::size_t>(kWidth));
        const auto at = static_cast<std::ptrdiff_t>(q) * kWidth;
        CHECK(std::equal(alone.row.begin(), alone.row.end(), whole.row.begin() + at));
        CHECK(std::equal(alone.similarity.begin(), alone.similarity.end(), whole.similarity.begin() + at));
      }
    }
  }
}

TEST_CASE("an answer has R places: what passes, by descending similarity, equal ones by ascending row") {
  const std::vector<float> rows = clustered(), embeddings = unit_rows(4, kDim, 5);
  for (const char* kind : kKinds) {
    const BundleFolder bundle(kind, rows);
    Model model(bundle.settings);
    for (const std::vector<std::uint8_t>& filter : some_filters()) {
      for (const bool filtered : {false, true}) {
        Asked query{{embeddings.begin(), embeddings.begin() + kDim}, {}};
        if (filtered) query.bitmap = filter;
        Answers answers;
        model.answer(joined({query}), answers);
        std::int64_t passing = 0;
        for (std::int64_t row = 0; row < kItems; ++row) passing += passes(query.bitmap, row) ? 1 : 0;
        const auto found = static_cast<std::size_t>(std::min(passing, kWidth));
        for (std::size_t i = 0; i < static_cast<std::size_t>(kWidth); ++i) {
          CAPTURE(kind);
          if (i >= found) {
            CHECK(answers.row[i] == -1);
            CHECK(answers.similarity[i] == 0.0f);
            continue;
          }
          REQUIRE(answers.row[i] >= 0);
          CHECK(passes(query.bitmap, answers.row[i]));
          double exact = 0;
          for (std::size_t d = 0; d < static_cast<std::size_t>(kDim); ++d) {
            exact += query.embedding[d] * faiss::decode_fp16(faiss::encode_fp16(
                                              rows[static_cast<std::size_t>(answers.row[i] * kDim) + d]));
          }
          CHECK(std::abs(exact - answers.similarity[i]) < 1e-5);
          if (i == 0) continue;
          const float before = answers.similarity[i - 1];
          CHECK((before > answers.similarity[i] ||
                 (before == answers.similarity[i] && answers.row[i - 1] < answers.row[i])));
        }
      }
    }
  }
}

TEST_CASE("no more places than items") {
  BundleFolder bundle("flat", clustered());
  bundle.settings.candidates = 100'000;
  Model model(bundle.settings);
  CHECK(model.width() == kItems);
  Answers answers;
  model.answer(joined({{unit_rows(1, kDim, 5), {}}}), answers);
  std::vector<std::int64_t> found = answers.row, all(kItems);
  std::sort(found.begin(), found.end());
  std::iota(all.begin(), all.end(), 0);
  CHECK(found == all);
}

TEST_CASE("a damaged vector is a fault of the queries that meet it, and of no other") {
  std::vector<float> rows = clustered();
  rows[7 * kDim] = std::numeric_limits<float>::infinity();
  rows[37 * kDim] = 65504.0f;  // the index must be able to hold it
  const BundleFolder bundle("flat", rows);
  Model model(bundle.settings);
  std::vector<std::uint8_t> others(kBytes, 0xff);
  others[0] = 0x7f;  // row 7 is out
  others[kBytes - 1] = 0x07;
  const std::vector<float> embedding = unit_rows(1, kDim, 5);
  std::vector<std::uint8_t> only(kBytes, 0);
  only[0] = 0x80;
  Answers answers;
  model.answer(joined({{embedding, others}, {embedding, only}, {embedding, others}}), answers);
  CHECK(answers.fault[0] == "");
  CHECK(answers.fault[1] == "vectors.npy: the similarity of row 7 is not finite");
  CHECK(answers.fault[2] == "");
  CHECK(answers.row[0] >= 0);
  CHECK(answers.row[static_cast<std::size_t>(2 * kWidth)] >= 0);
}
