// PRIVATE: from similarities to shares and creator totals.
#pragma once

#include "rescore/rescore.h"
#include "rescore/scratch.h"

namespace attributary::rescore {

// How one query is calibrated; see attributary.kernels.rescore for the formula.
struct Calibration {
  float temperature;
  float threshold;
  float background;
};

// Fills scratch.share (beside scratch.rows) from scratch.similarity; returns the diffuse remainder.
float compute_shares(const Store& store, const Calibration& calibration, Scratch& scratch);

// Sums the shares by creator and writes the largest totals; call after compute_shares.
void total_creators(Scratch& scratch, std::int64_t top, std::int32_t* creators, float* creator_share,
                    std::int32_t* creator_items);

// exp(x) for x <= 0 within 2 units in the last place; 0 where the result would not be a normal number.
float exp_nonpositive(float x) noexcept;

}  // namespace attributary::rescore
