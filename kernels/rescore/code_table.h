// PRIVATE: numbers the distinct int32 codes of a query (near-duplicate groups, creators) in order of arrival.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace attributary::rescore {

class CodeTable {
 public:
  // Forgets all codes and makes room for the `count` codes given, repeats included. Codes that lie close
  // together (creators often do) index the table directly; others are hashed.
  void reset(const std::int32_t* codes, std::size_t count) {
    std::int32_t low = 0, high = 0;
    if (count > 0) {
      low = high = codes[0];
      for (std::size_t i = 1; i < count; ++i) {
        low = std::min(low, codes[i]);
        high = std::max(high, codes[i]);
      }
    }
    const auto span = static_cast<std::size_t>(static_cast<std::int64_t>(high) - low) + 1;
    direct_ = span <= count * 4 + 64;
    base_ = static_cast<std::uint32_t>(low);
    std::size_t capacity = 16;
    while (capacity < (direct_ ? span : count + count / 2)) capacity *= 2;
    if (slots_.size() < capacity) slots_.resize(capacity);
    std::fill_n(slots_.begin(), capacity, Slot{0, kEmpty});
    mask_ = static_cast<std::uint32_t>(capacity - 1);
    codes_.clear();
    codes_.reserve(count);
  }

  // The number of `code`, one of those given to reset; a code seen for the first time gets size() as its
  // number.
  std::uint32_t number(std::int32_t code) {
    const auto bits = static_cast<std::uint32_t>(code);
    std::uint32_t at = direct_ ? bits - base_ : ((bits * 0x9e3779b1u) >> 9) & mask_;
    while (slots_[at].number != kEmpty) {
      if (slots_[at].code == code) return slots_[at].number;
      at = (at + 1) & mask_;
    }
    const auto number = static_cast<std::uint32_t>(codes_.size());
    slots_[at] = Slot{code, number};
    codes_.push_back(code);
    return number;
  }

  std::size_t size() const { return codes_.size(); }
  std::int32_t code(std::uint32_t number) const { return codes_[number]; }

 private:
  static constexpr std::uint32_t kEmpty = 0xffffffffu;
  struct Slot {
    std::int32_t code;
    std::uint32_t number;
  };
  std::vector<Slot> slots_;
  std::vector<std::int32_t> codes_;
  std::uint32_t mask_ = 0;
  std::uint32_t base_ = 0;
  bool direct_ = false;
};

}  // namespace attributary::rescore
