// PRIVATE: numbers the distinct int32 codes of a query (near-duplicate groups, creators) in order of arrival.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace attributary::rescore {

class CodeTable {
 public:
  // Forgets all codes and makes room for up to `codes` distinct ones.
  void reset(std::size_t codes) {
    std::size_t capacity = 16;
    while (capacity < codes * 2) capacity *= 2;
    if (slots_.size() < capacity) slots_.resize(capacity);
    std::fill_n(slots_.begin(), capacity, Slot{0, kEmpty});
    mask_ = static_cast<std::uint32_t>(capacity - 1);
    codes_.clear();
    codes_.reserve(codes);
  }

  // The number of `code`; a new code gets size() as its number.
  std::uint32_t number(std::int32_t code) {
    std::uint32_t at = (static_cast<std::uint32_t>(code) * 0x9e3779b1u) >> 7 & mask_;
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
};

}  // namespace attributary::rescore
