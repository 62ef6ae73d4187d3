// PRIVATE: everything about a resize that depends on sizes alone; kept between images of one size.
#pragma once

#include <memory>

#include "common/isa.h"
#include "preprocess/passes.h"

namespace attributary::preprocess {

struct Plan {
  std::int64_t height = 0, width = 0, size = 0;
  Isa isa = Isa::kPortable;
  bool copy = false;               // the short side has the size wanted: nothing to resample
  std::int64_t top = 0, left = 0;  // of the crop, in resized pixels
  bool vertical_first = false;
  Axis columns, rows;
  Tables column_tables, row_tables;
  const Passes* passes = nullptr;

  Filter column_filter() const;
  Filter row_filter() const;
};

// From a small process-wide cache, or built.
std::shared_ptr<const Plan> find_plan(std::int64_t height, std::int64_t width, std::int64_t size, Isa isa);

}  // namespace attributary::preprocess
