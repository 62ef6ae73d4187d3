// PRIVATE: from similarities to shares and creator totals.
#pragma once

#include "rescore/rescore.h"
#include "rescore/scratch.h"

namespace attributary::rescore {

// Fills scratch.share (beside scratch.rows) and scratch.weight (beside scratch.positive) with shares from
// scratch.similarity; returns the diffuse remainder. `peak` is the largest similarity.
float compute_shares(const Store& store, const Calibration& calibration, float peak, Scratch& scratch);

// Takes what is not in the bitmap out of scratch.rows and what is beside it, and out of the creators' totals;
// returns the sum of its shares.
float withhold(const std::uint8_t* visible, Scratch& scratch);

// Sums the shares by creator and writes the largest totals; call after compute_shares.
void total_creators(Scratch& scratch, std::int64_t top, std::int32_t* creators, float* creator_share,
                    std::int32_t* creator_items);

// exp(x) for x <= 0 within 2 units in the last place; 0 where the result would not be a normal number.
float exp_nonpositive(float x) noexcept;

}  // namespace attributary::rescore
