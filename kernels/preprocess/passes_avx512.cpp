// Compiled with AVX-512 flags: no inline library code may be instantiated here, or a plain machine could run
// it.
#include <immintrin.h>

#include "preprocess/passes.h"

namespace attributary::preprocess {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

inline __m512i load_register(const std::uint8_t* p) { return _mm512_load_si512(p); }

// A mask of the first `bytes` bytes, 0 to 64.
inline __mmask64 first_bytes(std::int64_t bytes) {
  return bytes >= 64 ? ~__mmask64(0) : bytes <= 0 ? __mmask64(0) : (__mmask64(1) << bytes) - 1;
}

// The digits' sums put together, the rounding half included in the lowest.
inline __m512i join_digits(__m512i d0, __m512i d1, __m512i d2) {
  return _mm512_add_epi32(d0, _mm512_add_epi32(_mm512_slli_epi32(d1, 8), _mm512_slli_epi32(d2, 16)));
}

// kSteps > 0 lets the compiler hold a whole group's tables in registers over the rows.
template <int kSteps, bool kWide>
inline void group_rows(const Filter& filter, std::int64_t group, const std::uint8_t* const* sources,
                       std::uint8_t* const* targets, std::int64_t rows) {
  constexpr std::int64_t kStep = (1 + kDigits) * kRegister;
  const std::int64_t steps = kSteps > 0 ? kSteps : filter.steps;
  const std::int64_t offset = filter.start[group * kGroup] * 3;
  const std::int64_t readable = filter.sources * 3 - offset;
  const std::uint8_t* tables = filter.packed + group * steps * kStep;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* source = sources[r] + offset;
    __m512i d0 = _mm512_set1_epi32(kHalf), d1 = _mm512_setzero_si512(), d2 = _mm512_setzero_si512();
    for (std::int64_t s = 0; s < steps; ++s) {
      const std::uint8_t* step = tables + s * kStep;
      const std::int64_t from = s * kTapsAStep * 3;
      __m512i pixels = _mm512_maskz_loadu_epi8(first_bytes(readable - from), source + from);
      if constexpr (kWide) {
        const __m512i more =
            _mm512_maskz_loadu_epi8(first_bytes(readable - from - kRegister), source + from + kRegister);
        pixels = _mm512_permutex2var_epi8(pixels, load_register(step), more);
      } else {
        pixels = _mm512_permutexvar_epi8(load_register(step), pixels);
      }
      d0 = _mm512_dpbusd_epi32(d0, pixels, load_register(step + kRegister));
      d1 = _mm512_dpbusd_epi32(d1, pixels, load_register(step + 2 * kRegister));
      d2 = _mm512_dpbusd_epi32(d2, pixels, load_register(step + 3 * kRegister));
    }
    const __m512i sums = _mm512_srai_epi32(join_digits(d0, d1, d2), kWeightBits);
    const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(sums, _mm512_setzero_si512()));
    // The sixteenth byte belongs to the next group, which is written later, or to the slack.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(targets[r] + group * kGroup * 3), bytes);
  }
}

template <int kSteps, bool kWide>
void all_groups(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                std::int64_t rows) {
  for (std::int64_t g = 0; g < filter.groups; ++g)
    group_rows<kSteps, kWide>(filter, g, sources, targets, rows);
}

template <bool kWide>
void horizontal_groups(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                       std::int64_t rows) {
  switch (filter.steps) {
    case 1:
      return all_groups<1, kWide>(filter, sources, targets, rows);
    case 2:
      return all_groups<2, kWide>(filter, sources, targets, rows);
    case 3:
      return all_groups<3, kWide>(filter, sources, targets, rows);
    case 4:
      return all_groups<4, kWide>(filter, sources, targets, rows);
    case 5:
      return all_groups<5, kWide>(filter, sources, targets, rows);
    default:
      return all_groups<0, kWide>(filter, sources, targets, rows);
  }
}

// Brings 16 RGB pixels into four lanes of [4 reds, 4 greens, 4 blues, nothing].
inline __m512i long_permutation() {
  alignas(64) std::uint8_t index[kRegister] = {};
  for (int quad = 0; quad < 4; ++quad) {
    for (int channel = 0; channel < 3; ++channel) {
      for (int j = 0; j < 4; ++j) {
        index[quad * 16 + channel * 4 + j] = static_cast<std::uint8_t>((quad * 4 + j) * 3 + channel);
      }
    }
  }
  return load_register(index);
}

void horizontal_long(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                     std::int64_t rows) {
  constexpr std::int64_t kStep = kDigits * kRegister;
  const __m512i permutation = long_permutation();
  for (std::int64_t o = 0; o < filter.outputs; ++o) {
    const std::int64_t offset = filter.start[o] * 3;
    const std::int64_t readable = filter.length[o] * 3;
    const std::uint8_t* tables = filter.packed + o * filter.steps * kStep;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::uint8_t* source = sources[r] + offset;
      __m512i d0 = _mm512_setzero_si512(), d1 = d0, d2 = d0;
      for (std::int64_t s = 0; s < filter.steps; ++s) {
        const std::uint8_t* step = tables + s * kStep;
        const std::int64_t from = s * kLongTaps * 3;
        const __m512i loaded = _mm512_maskz_loadu_epi8(first_bytes(readable - from), source + from);
        const __m512i pixels = _mm512_permutexvar_epi8(permutation, loaded);
        d0 = _mm512_dpbusd_epi32(d0, pixels, load_register(step));
        d1 = _mm512_dpbusd_epi32(d1, pixels, load_register(step + kRegister));
        d2 = _mm512_dpbusd_epi32(d2, pixels, load_register(step + 2 * kRegister));
      }
      const __m512i joined = join_digits(d0, d1, d2);
      const __m256i pair =
          _mm256_add_epi32(_mm512_castsi512_si256(joined), _mm512_extracti64x4_epi64(joined, 1));
      __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pair), _mm256_extracti128_si256(pair, 1));
      sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(kHalf)), kWeightBits);
      const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
      // The fourth byte belongs to the next output, or to the slack.
      _mm_storeu_si32(targets[r] + o * 3, bytes);
    }
  }
}

void horizontal(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                std::int64_t rows) {
  if (filter.layout == Layout::kGroups) return horizontal_groups<false>(filter, sources, targets, rows);
  if (filter.layout == Layout::kWideGroups) return horizontal_groups<true>(filter, sources, targets, rows);
  horizontal_long(filter, sources, targets, rows);
}

inline __m512i digit(const std::uint8_t* quad) { return _mm512_broadcastd_epi32(_mm_loadu_si32(quad)); }

// 64 bytes of one output row. Interleaving works inside 128-bit lanes, and so does the packing at the end.
inline __m512i vertical_register(const Filter& filter, const std::uint8_t* weights,
                                 const std::uint8_t* const* sources, std::int64_t from, __mmask64 mask) {
  __m512i d0[4], d1[4], d2[4];
  for (int q = 0; q < 4; ++q) {
    d0[q] = _mm512_set1_epi32(kHalf);
    d1[q] = d2[q] = _mm512_setzero_si512();
  }
  for (std::int64_t s = 0; s < filter.steps; ++s, weights += kDigits * 4) {
    const std::uint8_t* const* row = sources + s * 4;
    const __m512i a = _mm512_maskz_loadu_epi8(mask, row[0] + from),
                  b = _mm512_maskz_loadu_epi8(mask, row[1] + from);
    const __m512i c = _mm512_maskz_loadu_epi8(mask, row[2] + from),
                  d = _mm512_maskz_loadu_epi8(mask, row[3] + from);
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    const __m512i quads[4] = {_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
                              _mm512_unpacklo_epi16(ab_high, cd_high),
                              _mm512_unpackhi_epi16(ab_high, cd_high)};
    const __m512i w0 = digit(weights), w1 = digit(weights + 4), w2 = digit(weights + 8);
    for (int q = 0; q < 4; ++q) {
      d0[q] = _mm512_dpbusd_epi32(d0[q], quads[q], w0);
      d1[q] = _mm512_dpbusd_epi32(d1[q], quads[q], w1);
      d2[q] = _mm512_dpbusd_epi32(d2[q], quads[q], w2);
    }
  }
  __m512i sums[4];
  for (int q = 0; q < 4; ++q) sums[q] = _mm512_srai_epi32(join_digits(d0[q], d1[q], d2[q]), kWeightBits);
  return _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]));
}

void vertical(const Filter& filter, std::int64_t output, const std::uint8_t* const* sources,
              std::uint8_t* target, std::int64_t bytes) {
  const std::uint8_t* weights = filter.packed + output * filter.steps * kDigits * 4;
  for (std::int64_t from = 0; from < bytes; from += kRegister) {
    const __mmask64 mask = first_bytes(bytes - from);
    _mm512_mask_storeu_epi8(target + from, mask, vertical_register(filter, weights, sources, from, mask));
  }
}

}  // namespace

extern const Passes kAvx512Passes = {horizontal, vertical};

}  // namespace attributary::preprocess
