#include "preprocess/resize.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "preprocess/plan.h"

namespace attributary::preprocess {
namespace {

constexpr std::int64_t kBlock = 16;  // rows that a horizontal pass takes together, to use its tables often

// Rows of one size in one piece of memory that a thread keeps and grows.
class Rows {
 public:
  void shape(std::int64_t rows, std::int64_t bytes) {
    stride_ = (bytes + kSlack + 63) / 64 * 64;
    const auto wanted = static_cast<std::size_t>(rows * stride_);
    if (memory_.size() < wanted) memory_ = AlignedBytes(wanted);
  }
  std::uint8_t* row(std::int64_t r) const { return memory_.data() + r * stride_; }

 private:
  std::int64_t stride_ = 0;
  AlignedBytes memory_;
};

struct Scratch {
  Rows first, second;
  std::vector<const std::uint8_t*> sources;
};

Scratch& scratch() {
  static thread_local Scratch instance;
  return instance;
}

// Points `sources` at the rows that output `y` needs, padded for the vertical pass.
template <typename RowAt>
void point_at_rows(const Axis& rows, std::int64_t y, const RowAt& row_at,
                   std::vector<const std::uint8_t*>& sources) {
  const std::int64_t start = rows.start[static_cast<std::size_t>(y)];
  const std::int64_t length = rows.length[static_cast<std::size_t>(y)];
  const std::int64_t padded = (rows.taps + kRowPadding - 1) / kRowPadding * kRowPadding;
  sources.resize(static_cast<std::size_t>(padded));
  for (std::int64_t t = 0; t < padded; ++t) {
    sources[static_cast<std::size_t>(t)] = row_at(start + std::min(t, length - 1));
  }
}

// Rows narrow to the crop's columns as they are needed; a ring keeps those that the vertical filter still
// reaches.
void resize_columns_first(const Plan& plan, const std::uint8_t* origin, std::int64_t stride,
                          std::uint8_t* target) {
  const Filter columns = plan.column_filter(), rows = plan.row_filter();
  const std::int64_t bytes = plan.size * 3;
  Scratch& work = scratch();
  const std::int64_t ring = plan.rows.taps + kBlock;
  work.first.shape(ring, bytes);
  std::int64_t done = 0;
  for (std::int64_t y = 0; y < plan.size; ++y) {
    const std::int64_t needed = rows.start[y] + rows.length[y];
    while (done < needed) {
      const std::uint8_t* sources[kBlock];
      std::uint8_t* targets[kBlock];
      const std::int64_t block = std::min(kBlock, rows.sources - done);
      for (std::int64_t r = 0; r < block; ++r) {
        sources[r] = origin + (done + r) * stride;
        targets[r] = work.first.row((done + r) % ring);
      }
      plan.passes->horizontal(columns, sources, targets, block);
      done += block;
    }
    point_at_rows(plan.rows, y, [&](std::int64_t r) { return work.first.row(r % ring); }, work.sources);
    plan.passes->vertical(rows, y, work.sources.data(), target + y * bytes, bytes);
  }
}

// Output rows are made at the image's own width, a block at a time, then narrowed.
void resize_rows_first(const Plan& plan, const std::uint8_t* origin, std::int64_t stride,
                       std::uint8_t* target) {
  const Filter columns = plan.column_filter(), rows = plan.row_filter();
  const std::int64_t bytes = plan.size * 3, wide_bytes = plan.columns.sources * 3;
  Scratch& work = scratch();
  work.first.shape(kBlock, wide_bytes);
  work.second.shape(kBlock, bytes);
  for (std::int64_t y = 0; y < plan.size; y += kBlock) {
    const std::uint8_t* sources[kBlock];
    std::uint8_t* targets[kBlock];
    const std::int64_t block = std::min(kBlock, plan.size - y);
    for (std::int64_t r = 0; r < block; ++r) {
      point_at_rows(plan.rows, y + r, [&](std::int64_t s) { return origin + s * stride; }, work.sources);
      plan.passes->vertical(rows, y + r, work.sources.data(), work.first.row(r), wide_bytes);
      sources[r] = work.first.row(r);
      targets[r] = work.second.row(r);
    }
    plan.passes->horizontal(columns, sources, targets, block);
    for (std::int64_t r = 0; r < block; ++r) {
      std::memcpy(target + (y + r) * bytes, targets[r], static_cast<std::size_t>(bytes));
    }
  }
}

void run_plan(const Plan& plan, const Image& image, std::uint8_t* target) {
  if (plan.copy) {
    for (std::int64_t y = 0; y < plan.size; ++y) {
      std::memcpy(target + y * plan.size * 3, image.data + (plan.top + y) * image.stride + plan.left * 3,
                  static_cast<std::size_t>(plan.size * 3));
    }
    return;
  }
  const std::uint8_t* origin = image.data + plan.rows.first * image.stride + plan.columns.first * 3;
  if (plan.vertical_first) {
    resize_rows_first(plan, origin, image.stride, target);
  } else {
    resize_columns_first(plan, origin, image.stride, target);
  }
}

}  // namespace

void resize_crop(const Image& image, std::int64_t size, std::uint8_t* target, Isa isa) {
  run_plan(*find_plan(image.height, image.width, size, isa), image, target);
}

void resize_crop_batch(const Image* images, std::int64_t count, std::int64_t size, std::uint8_t* targets,
                       Isa isa, int threads) {
  parallel_for(count, threads,
               [&](std::int64_t i) { resize_crop(images[i], size, targets + i * size * size * 3, isa); });
}

}  // namespace attributary::preprocess
