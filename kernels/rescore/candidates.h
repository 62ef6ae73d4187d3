// PRIVATE: from a query's raw candidates to sorted, distinct, allowed rows.
#pragma once

#include "rescore/rescore.h"
#include "rescore/scratch.h"

namespace attributary::rescore {

// Fills scratch.rows from `width` candidates; drops -1 (any negative), repeated rows and rows whose bit in
// `allowed` is 0. Sorting makes the gather walk memory forwards. Returns the first candidate at or above
// `store_rows`, or -1 where all are in range.
std::int64_t gather_rows(const std::int64_t* candidates, std::int64_t width, std::int64_t store_rows,
                         const std::uint8_t* allowed, Scratch& scratch);

// The same where similarities are known already: fills scratch.rows and scratch.similarity beside it. Of
// repeated rows the first counts.
std::int64_t gather_scored(const std::int64_t* candidates, const float* similarity, std::int64_t width,
                           std::int64_t store_rows, Scratch& scratch);

}  // namespace attributary::rescore
