// A fixed piece of work for an instruction counter: counted preprocess|rescore portable|avx2 [repeats]
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "preprocess/resize.h"
#include "rescore/rescore.h"

using namespace attributary;

namespace {

void count_preprocess(Isa isa, int repeats) {
  std::mt19937 random(1);
  std::vector<std::uint8_t> pixels(512 * 512 * 3), result(224 * 224 * 3);
  for (std::uint8_t& byte : pixels) byte = static_cast<std::uint8_t>(random() >> 7);
  for (int i = 0; i < repeats; ++i) {
    preprocess::resize_crop({pixels.data(), 512, 512, 512 * 3}, 224, result.data(), isa);
  }
  std::printf("%d\n", result[1000]);
}

void count_rescore(Isa isa, int repeats) {
  constexpr std::int64_t kRows = 20'000, kDim = 256, kWidth = 2'000;
  std::mt19937 random(1);
  std::vector<std::uint16_t> vectors(kRows * kDim);
  for (std::uint16_t& half : vectors) half = static_cast<std::uint16_t>((random() & 0x83ff) | 0x2c00);
  std::vector<std::int32_t> creators(kRows), groups(kRows);
  for (std::int32_t& code : creators) code = static_cast<std::int32_t>(random() % 500);
  for (std::int32_t& code : groups) code = static_cast<std::int32_t>(random() % 15'000);
  std::vector<float> query(kDim, 0.0625f);
  std::vector<std::int64_t> candidates(kWidth);
  for (std::int64_t& row : candidates) row = static_cast<std::int64_t>(random() % kRows);
  rescore::Calibration calibration;
  calibration.temperature = 0.05f;
  calibration.threshold = 0.01f;
  calibration.background = 0.1f;
  std::int64_t rows[20];
  float similarity[20], share[20], diffuse, withheld, peak, creator_share[10];
  std::int32_t codes[10], items[10];
  const rescore::Store store{
      vectors.data(), rescore::VectorType::kFloat16, nullptr, kRows, kDim, creators.data(), groups.data()};
  rescore::Batch batch;
  batch.queries = query.data();
  batch.candidates = candidates.data();
  batch.count = 1;
  batch.width = kWidth;
  batch.calibration = &calibration;
  const rescore::Result result{rows,  similarity,    share, &diffuse, &withheld, &peak,
                               codes, creator_share, items, 20,       10};
  for (int i = 0; i < repeats; ++i) rescore::rescore(store, batch, result, isa, 1);
  std::printf("%ld\n", static_cast<long>(rows[0]));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const Isa isa = std::string(argv[2]) == "avx2" ? Isa::kAvx2 : Isa::kPortable;
  if (isa > best_isa()) return 3;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 1;
  if (std::string(argv[1]) == "preprocess") {
    count_preprocess(isa, repeats);
  } else {
    count_rescore(isa, repeats);
  }
  return 0;
}
