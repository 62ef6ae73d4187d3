// PRIVATE: the two passes of a separable resize, one implementation an instruction set.
#pragma once

#include <cstdint>

#include "preprocess/axis.h"
#include "preprocess/tables.h"

namespace attributary::preprocess {

// A plain view of an axis and its tables, free of library types: what the instruction-set files see.
struct Filter {
  std::int64_t outputs;
  std::int64_t taps;
  std::int64_t sources;
  const std::int64_t* start;
  const std::int64_t* length;
  const std::int32_t* weight;
  Layout layout;
  std::int64_t steps;
  std::int64_t groups;
  const std::uint8_t* packed;
};

// Bytes that a horizontal pass may write behind the last pixel of a target row.
constexpr std::int64_t kSlack = 64;
// Row pointers given to a vertical pass are padded to a multiple of this with any readable row.
constexpr std::int64_t kRowPadding = 4;

struct Passes {
  // targets[r][3 o + c] for every output o from sources[r], the first needed pixel of a source row.
  void (*horizontal)(const Filter& filter, const std::uint8_t* const* sources, std::uint8_t* const* targets,
                     std::int64_t rows);
  // target[b] for b < bytes from output `output`'s source rows.
  void (*vertical)(const Filter& filter, std::int64_t output, const std::uint8_t* const* sources,
                   std::uint8_t* target, std::int64_t bytes);
};

extern const Passes kPortablePasses;
#if defined(ATTRIBUTARY_X86)
extern const Passes kAvx2Passes;
extern const Passes kAvx512Passes;
#endif

}  // namespace attributary::preprocess
