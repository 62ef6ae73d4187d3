#include <cstring>

#include "rescore/dot.h"

namespace attributary::rescore {
namespace {

constexpr int kLanes = 8;

// IEEE half to float in plain integer and float arithmetic, so that a compiler can vectorise the loop around
// it.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  // Rebias the exponent by a multiplication: right for normal and subnormal halves alike.
  float value;
  std::memcpy(&value, &magnitude, sizeof(value));
  value *= 0x1p112f;
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits |= (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  bits |= static_cast<std::uint32_t>(half & 0x8000u) << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float to_float(std::uint16_t half) { return half_to_float(half); }
inline float to_float(std::int8_t code) { return static_cast<float>(code); }

template <typename Element>
float dot(const float* query, const Element* vector, std::int64_t dim) {
  float lanes[kLanes] = {};
  std::int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += query[d + lane] * to_float(vector[d + lane]);
  }
  float sum = 0.0f;
  for (; d < dim; ++d) sum += query[d] * to_float(vector[d]);
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void dot_f16_portable(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                      float* similarity) {
  const auto* vectors = static_cast<const std::uint16_t*>(store.vectors);
  for (std::int64_t i = 0; i < count; ++i) {
    similarity[i] = dot(query, vectors + std::int64_t{rows[i]} * store.dim, store.dim);
  }
}

void dot_i8_portable(const Store& store, const float* query, const std::uint32_t* rows, std::int64_t count,
                     float* similarity) {
  const auto* vectors = static_cast<const std::int8_t*>(store.vectors);
  for (std::int64_t i = 0; i < count; ++i) {
    similarity[i] =
        store.scales[rows[i]] * dot(query, vectors + std::int64_t{rows[i]} * store.dim, store.dim);
  }
}

}  // namespace attributary::rescore
