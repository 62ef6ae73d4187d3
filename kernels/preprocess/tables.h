// PRIVATE: an axis' weights laid out for the vector units. Built once a plan by ordinary code; the
// instruction-set files only read them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "preprocess/axis.h"

namespace attributary::preprocess {

struct FreeDeleter {
  void operator()(void* p) const noexcept { std::free(p); }
};

// Zeroed memory on a 64-byte boundary.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(std::size_t bytes);
  std::uint8_t* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<std::uint8_t, FreeDeleter> data_;
  std::size_t size_ = 0;
};

// AVX-512: a weight is three signed bytes, d2 * 2^16 + d1 * 2^8 + d0, so that VNNI multiplies raw pixel
// bytes. AVX2: a weight is two signed 16-bit halves, high * 2^16 + low, for pmaddwd.
constexpr int kDigits = 3;
constexpr int kTapsAStep = 4;  // of both horizontal short paths and the AVX-512 vertical pass
constexpr int kGroup = 5;      // outputs a register of the AVX-512 short path: 5 * 3 channels of 16 lanes
constexpr int kLongTaps = 16;  // taps a register of the AVX-512 long path
constexpr int kRegister = 64;  // bytes

enum class Layout : std::int32_t {
  kPlain,       // the weights of the axis as they are
  kGroups,      // AVX-512 horizontal, a group's sources lie in one register
  kWideGroups,  // the same, in two registers
  kLong,        // AVX-512 horizontal, many taps: lanes are taps of one output
  kQuads,       // AVX2 horizontal and vertical: [output][step of 4][low 01, high 01, low 23, high 23]
  kDigitQuads,  // AVX-512 vertical: [output][step of 4][digit], four bytes each
};

struct Tables {
  Layout layout = Layout::kPlain;
  std::int64_t steps = 0;   // of the loop over taps
  std::int64_t groups = 0;  // kGroups and kWideGroups
  AlignedBytes packed;
};

// kGroups, kWideGroups: a step holds the byte permutation, then the three digit registers; a group its steps.
// kLong: a step holds three digit registers; an output its steps.
Tables pack_horizontal_avx512(const Axis& axis);
Tables pack_vertical_avx512(const Axis& axis);
Tables pack_avx2(const Axis& axis);

}  // namespace attributary::preprocess
