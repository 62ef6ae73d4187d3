#include "preprocess/tables.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace attributary::preprocess {
namespace {

// The signed byte `digit` of a weight.
std::uint8_t digit_of(std::int32_t weight, int digit) {
  for (int d = 0;; ++d) {
    const auto low = static_cast<std::int8_t>(weight & 0xff);
    if (d == digit) return static_cast<std::uint8_t>(low);
    weight = (weight - low) / 256;
  }
}

std::int32_t weight_at(const Axis& axis, std::int64_t output, std::int64_t tap) {
  return tap < axis.taps ? axis.weight[static_cast<std::size_t>(output * axis.taps + tap)] : 0;
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The most sources between the first and the last start of a group.
std::int64_t widest_group(const Axis& axis) {
  std::int64_t widest = 0;
  for (std::int64_t o = 0; o < axis.outputs; o += kGroup) {
    const std::int64_t last = std::min(o + kGroup, axis.outputs) - 1;
    widest = std::max(widest,
                      axis.start[static_cast<std::size_t>(last)] - axis.start[static_cast<std::size_t>(o)]);
  }
  return widest;
}

void pack_group(const Axis& axis, std::int64_t first, std::int64_t step, std::uint8_t* registers) {
  const std::int64_t members = std::min<std::int64_t>(kGroup, axis.outputs - first);
  const std::int64_t origin = axis.start[static_cast<std::size_t>(first)];
  for (std::int64_t m = 0; m < members; ++m) {
    const std::int64_t shift = axis.start[static_cast<std::size_t>(first + m)] - origin;
    for (int channel = 0; channel < 3; ++channel) {
      for (int j = 0; j < kTapsAStep; ++j) {
        const std::int64_t at = (m * 3 + channel) * kTapsAStep + j;
        registers[at] = static_cast<std::uint8_t>((shift + j) * 3 + channel);
        const std::int32_t weight = weight_at(axis, first + m, step * kTapsAStep + j);
        for (int d = 0; d < kDigits; ++d) registers[(1 + d) * kRegister + at] = digit_of(weight, d);
      }
    }
  }
}

Tables pack_groups(const Axis& axis, Layout layout) {
  Tables tables;
  tables.layout = layout;
  tables.steps = divide_up(axis.taps, kTapsAStep);
  tables.groups = divide_up(axis.outputs, kGroup);
  constexpr std::int64_t kStep = (1 + kDigits) * kRegister;
  tables.packed = AlignedBytes(static_cast<std::size_t>(tables.groups * tables.steps * kStep));
  for (std::int64_t g = 0; g < tables.groups; ++g) {
    for (std::int64_t s = 0; s < tables.steps; ++s) {
      pack_group(axis, g * kGroup, s, tables.packed.data() + (g * tables.steps + s) * kStep);
    }
  }
  return tables;
}

Tables pack_long(const Axis& axis) {
  Tables tables;
  tables.layout = Layout::kLong;
  tables.steps = divide_up(axis.taps, kLongTaps);
  constexpr std::int64_t kStep = kDigits * kRegister;
  tables.packed = AlignedBytes(static_cast<std::size_t>(axis.outputs * tables.steps * kStep));
  for (std::int64_t o = 0; o < axis.outputs; ++o) {
    for (std::int64_t tap = 0; tap < axis.taps; ++tap) {
      std::uint8_t* step = tables.packed.data() + (o * tables.steps + tap / kLongTaps) * kStep;
      const std::int64_t quad = tap % kLongTaps / 4, j = tap % 4;
      for (int channel = 0; channel < 3; ++channel) {
        for (int d = 0; d < kDigits; ++d) {
          step[d * kRegister + quad * 16 + channel * 4 + j] = digit_of(weight_at(axis, o, tap), d);
        }
      }
    }
  }
  return tables;
}

}  // namespace

AlignedBytes::AlignedBytes(std::size_t bytes) : size_(bytes) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64;
  data_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(64, rounded)));
  if (!data_) throw std::bad_alloc();
  std::memset(data_.get(), 0, rounded);
}

Tables pack_horizontal_avx512(const Axis& axis) {
  const std::int64_t last_byte = (widest_group(axis) + kTapsAStep) * 3;
  if (last_byte <= kRegister) return pack_groups(axis, Layout::kGroups);
  if (last_byte <= 2 * kRegister) return pack_groups(axis, Layout::kWideGroups);
  return pack_long(axis);
}

Tables pack_vertical_avx512(const Axis& axis) {
  Tables tables;
  tables.layout = Layout::kDigitQuads;
  tables.steps = divide_up(axis.taps, kTapsAStep);
  tables.packed = AlignedBytes(static_cast<std::size_t>(axis.outputs * tables.steps * kDigits * 4));
  for (std::int64_t o = 0; o < axis.outputs; ++o) {
    for (std::int64_t tap = 0; tap < axis.taps; ++tap) {
      std::uint8_t* step = tables.packed.data() + (o * tables.steps + tap / 4) * kDigits * 4;
      for (int d = 0; d < kDigits; ++d) step[d * 4 + tap % 4] = digit_of(weight_at(axis, o, tap), d);
    }
  }
  return tables;
}

Tables pack_avx2(const Axis& axis) {
  Tables tables;
  tables.layout = Layout::kQuads;
  tables.steps = divide_up(axis.taps, kTapsAStep);
  constexpr std::int64_t kStep = 4 * 4;
  tables.packed = AlignedBytes(static_cast<std::size_t>(axis.outputs * tables.steps * kStep));
  for (std::int64_t o = 0; o < axis.outputs; ++o) {
    for (std::int64_t tap = 0; tap < axis.taps; ++tap) {
      const std::int32_t weight = weight_at(axis, o, tap);
      const auto low = static_cast<std::int16_t>(weight & 0xffff);
      const auto high = static_cast<std::int16_t>((weight - low) / 65536);
      std::uint8_t* pair =
          tables.packed.data() + (o * tables.steps + tap / 4) * kStep + tap % 4 / 2 * 8 + tap % 2 * 2;
      std::memcpy(pair, &low, sizeof(low));
      std::memcpy(pair + 4, &high, sizeof(high));
    }
  }
  return tables;
}

}  // namespace attributary::preprocess
