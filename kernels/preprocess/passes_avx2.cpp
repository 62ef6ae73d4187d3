// Compiled with AVX2 flags: no inline library code may be instantiated here, or a plain machine could run it.
#include <immintrin.h>

#include "preprocess/passes.h"

namespace attributary::preprocess {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);
constexpr std::int64_t kStep = 4 * 4;  // bytes of weights: low 01, high 01, low 23, high 23
constexpr std::int64_t kStepBytes = 3 * kTapsAStep;
constexpr std::int64_t kLoad = 16;         // a step reads its 12 bytes and 4 more
constexpr std::int64_t kRowsTogether = 4;  // that share a load of the weights

inline __m256i broadcast(const std::uint8_t* pair) { return _mm256_broadcastd_epi32(_mm_loadu_si32(pair)); }

// Sums of products with the low and the high halves of the weights.
struct Sums {
  __m256i low, high;

  void add(__m256i pixels, __m256i low_weights, __m256i high_weights) {
    low = _mm256_add_epi32(low, _mm256_madd_epi16(pixels, low_weights));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, high_weights));
  }
  // In pixel units, not yet limited to 0 .. 255.
  __m256i pixels() const {
    return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, 16)), kWeightBits);
  }
};

inline Sums no_sums() { return {_mm256_set1_epi32(kHalf), _mm256_setzero_si256()}; }

// Sixteen bytes of which only `readable` may be touched.
inline __m128i load_edge(const std::uint8_t* p, std::int64_t readable) {
  alignas(16) std::uint8_t bytes[kLoad] = {};
  for (std::int64_t i = 0; i < kLoad && i < readable; ++i) bytes[i] = p[i];
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

template <bool kEdge>
inline __m256i load_two(const std::uint8_t* a, const std::uint8_t* b, std::int64_t readable) {
  if constexpr (kEdge) return _mm256_set_m128i(load_edge(b, readable), load_edge(a, readable));
  return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(b), reinterpret_cast<const __m128i*>(a));
}

// Writes the pixels of four rows; the fourth byte of each belongs to the next output, or to the slack.
inline void store_pixels(std::uint8_t* const* targets, std::int64_t at, __m256i rows01, __m256i rows23) {
  const __m256i words = _mm256_packs_epi32(rows01, rows23);
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const __m128i rows02 = _mm256_castsi256_si128(bytes), rows13 = _mm256_extracti128_si256(bytes, 1);
  _mm_storeu_si32(targets[0] + at, rows02);
  _mm_storeu_si32(targets[1] + at, rows13);
  _mm_storeu_si32(targets[2] + at, _mm_srli_si128(rows02, 4));
  _mm_storeu_si32(targets[3] + at, _mm_srli_si128(rows13, 4));
}

// One output of four rows; a lane of 128 bits is a row. kSteps > 0 unrolls the loop over taps.
template <int kSteps, bool kEdge>
inline void output_of_rows(const Filter& filter, std::int64_t output, const std::uint8_t* const* sources,
                           std::uint8_t* const* targets) {
  // Two taps of [red, green, blue, nothing] as pairs of 16-bit numbers.
  const __m256i first_two =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i last_two =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const std::int64_t steps = kSteps > 0 ? kSteps : filter.steps;
  const std::uint8_t* weights = filter.packed + output * steps * kStep;
  const std::int64_t start = filter.start[output] * 3;
  const std::uint8_t *row0 = sources[0] + start, *row1 = sources[1] + start;
  const std::uint8_t *row2 = sources[2] + start, *row3 = sources[3] + start;
  std::int64_t readable = filter.sources * 3 - start;
  Sums rows01 = no_sums(), rows23 = no_sums();
  for (std::int64_t s = 0; s < steps; ++s, weights += kStep, readable -= kStepBytes) {
    const __m256i low01 = broadcast(weights), high01 = broadcast(weights + 4);
    const __m256i low23 = broadcast(weights + 8), high23 = broadcast(weights + 12);
    const std::int64_t at = s * kStepBytes;
    const __m256i bytes01 = load_two<kEdge>(row0 + at, row1 + at, readable);
    rows01.add(_mm256_shuffle_epi8(bytes01, first_two), low01, high01);
    rows01.add(_mm256_shuffle_epi8(bytes01, last_two), low23, high23);
    const __m256i bytes23 = load_two<kEdge>(row2 + at, row3 + at, readable);
    rows23.add(_mm256_shuffle_epi8(bytes23, first_two), low01, high01);
    rows23.add(_mm256_shuffle_epi8(bytes23, last_two), low23, high23);
  }
  store_pixels(targets, output * 3, rows01.pixels(), rows23.pixels());
}

template <int kSteps>
void horizontal_steps(const Filter& filter, const std::uint8_t* const* sources,
                      std::uint8_t* const* targets) {
  const std::int64_t reach = (filter.steps - 1) * kStepBytes + kLoad;
  for (std::int64_t o = 0; o < filter.outputs; ++o) {
    if (filter.start[o] * 3 + reach <= filter.sources * 3) {
      output_of_rows<kSteps, false>(filter, o, sources, targets);
    } else {
      output_of_rows<0, true>(filter, o, sources, targets);
    }
  }
}

void horizontal(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += kRowsTogether) {
    const std::uint8_t* source[kRowsTogether];
    std::uint8_t* target[kRowsTogether];
    for (std::int64_t i = 0; i < kRowsTogether; ++i) {
      // A missing row is the last one once more: it writes the same bytes again.
      const std::int64_t row = r + i < rows ? r + i : rows - 1;
      source[i] = sources[row];
      target[i] = targets[row];
    }
    switch (filter.steps) {
      case 1:
        horizontal_steps<1>(filter, source, target);
        break;
      case 2:
        horizontal_steps<2>(filter, source, target);
        break;
      case 3:
        horizontal_steps<3>(filter, source, target);
        break;
      case 4:
        horizontal_steps<4>(filter, source, target);
        break;
      case 5:
        horizontal_steps<5>(filter, source, target);
        break;
      default:
        horizontal_steps<0>(filter, source, target);
    }
  }
}

// 32 bytes of one output row. Interleaving works inside 128-bit lanes, and so does the packing at the end.
inline __m256i vertical_register(const Filter& filter, const std::uint8_t* weights,
                                 const std::uint8_t* const* sources, std::int64_t from) {
  const __m256i zero = _mm256_setzero_si256();
  Sums sums[4] = {no_sums(), no_sums(), no_sums(), no_sums()};
  for (std::int64_t pair = 0; pair < filter.steps * 2; ++pair, weights += kStep / 2) {
    const __m256i low = broadcast(weights), high = broadcast(weights + 4);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sources[2 * pair] + from));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sources[2 * pair + 1] + from));
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    sums[0].add(_mm256_unpacklo_epi8(ab_low, zero), low, high);
    sums[1].add(_mm256_unpackhi_epi8(ab_low, zero), low, high);
    sums[2].add(_mm256_unpacklo_epi8(ab_high, zero), low, high);
    sums[3].add(_mm256_unpackhi_epi8(ab_high, zero), low, high);
  }
  return _mm256_packus_epi16(_mm256_packs_epi32(sums[0].pixels(), sums[1].pixels()),
                             _mm256_packs_epi32(sums[2].pixels(), sums[3].pixels()));
}

void vertical(const Filter& filter, std::int64_t output, const std::uint8_t* const* sources,
              std::uint8_t* target, std::int64_t bytes) {
  constexpr std::int64_t kWide = 32;
  const std::uint8_t* weights = filter.packed + output * filter.steps * kStep;
  if (bytes < kWide) return kPortablePasses.vertical(filter, output, sources, target, bytes);
  for (std::int64_t from = 0; from < bytes; from += kWide) {
    // The last register overlaps the one before: source and target are apart, so that writing twice is
    // harmless.
    const std::int64_t at = from + kWide <= bytes ? from : bytes - kWide;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + at),
                        vertical_register(filter, weights, sources, at));
  }
}

}  // namespace

extern const Passes kAvx2Passes = {horizontal, vertical};

}  // namespace attributary::preprocess
