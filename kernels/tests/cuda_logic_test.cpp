// The CUDA kernels' logic on the CPU, one thread a block, against the CPU kernels.
// clang-format off: it has to come first
#include "tests/one_thread_cuda.h"
// clang-format on

#include <doctest/doctest.h>

#include "preprocess/plan.h"
#include "preprocess/resize_kernels.cuh"
#include "rescore/rank_kernels.cuh"
#include "tests/naive_resize.h"
#include "tests/rescore_problem.h"

namespace attributary::rescore::device {

float query[8192];  // the kernel's dynamic shared memory

}  // namespace attributary::rescore::device

using namespace attributary;
using namespace attributary::tests;

namespace {

template <typename T>
std::vector<T> zeros(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count));
}

// Memory of a device batch; kept between batches, as on the device.
struct Device {
  std::int64_t places;
  std::int32_t capacity;
  std::vector<std::int32_t> row = zeros<std::int32_t>(places), row_slot = row;
  std::vector<float> similarity = zeros<float>(places);
  std::vector<std::uint32_t> row_keys;

  Device(std::int64_t count, std::int64_t width, std::int32_t table)
      : places(count * width), capacity(table), row_keys(zeros<std::uint32_t>(count * table)) {}

  bool clean() const {
    return std::all_of(row_keys.begin(), row_keys.end(), [](std::uint32_t key) { return key == 0; });
  }
};

Answer run_device(const Problem& p, Device& d, std::int64_t top_k) {
  Answer a(static_cast<std::size_t>(p.count), static_cast<std::size_t>(top_k), 0);
  std::fill(a.rows.begin(), a.rows.end(), 5);  // every place must be written
  std::fill(a.similarity.begin(), a.similarity.end(), 5.0f);
  rescore::device::View v{};
  v.vectors = reinterpret_cast<const __half*>(p.vectors.data());
  v.store_rows = p.rows;
  v.dim = static_cast<std::int32_t>(p.dim);
  v.queries = p.queries.data();
  v.candidates = p.candidates.data();
  v.visible = p.visible.empty() ? nullptr : p.visible.data();
  v.count = static_cast<std::int32_t>(p.count);
  v.width = static_cast<std::int32_t>(p.width);
  v.row = d.row.data();
  v.row_slot = d.row_slot.data();
  v.similarity = d.similarity.data();
  v.capacity = d.capacity;
  v.row_keys = d.row_keys.data();
  v.out_rows = a.rows.data();
  v.out_similarity = a.similarity.data();
  v.top_k = static_cast<std::int32_t>(top_k);
  rescore::device::Wide fault = 0;
  std::vector<std::int64_t> fault_row = zeros<std::int64_t>(p.count);
  v.fault = &fault;
  v.fault_row = fault_row.data();
  const auto width = static_cast<unsigned>(p.width), count = static_cast<unsigned>(p.count);
  for_each_block(width, count, 1, [&] { rescore::device::claim_rows(v); });
  const auto blocks = (width + rescore::device::kRowsABlock - 1) / rescore::device::kRowsABlock;
  for_each_block(blocks, count, 1, [&] { rescore::device::dot_rows(v); });
  for_each_block(count, 1, 1, [&] { rescore::device::select_top(v); });
  if (fault != 0) {
    const rescore::device::Wide plain = ~fault;
    a.fault.kind = (plain & 1) == 0 ? FaultKind::kOutOfRange : FaultKind::kNotFinite;
    a.fault.query = static_cast<std::int64_t>(plain >> 1);
    a.fault.row = fault_row[static_cast<std::size_t>(a.fault.query)];
  }
  return a;
}

bool close(float a, float b) { return std::abs(a - b) <= 2e-5f + 2e-4f * std::abs(b); }

}  // namespace

TEST_CASE("CUDA logic: ranking equals the CPU's, and leaves its table empty") {
  Device device(4, 300, 1024);
  for (std::uint32_t seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    const std::int64_t rows = 1 + seed * 17, width = 1 + seed * 13 % 300,
                       top_k = seed % 3 == 0 ? 0 : seed * 2;
    Problem p = make_problem(rows, 8 * (1 + seed % 9), 1 + seed % 4, width, seed);
    if (seed % 2 != 0) hide_some(p, seed);
    const Answer expected = run_rank(p, p.vectors.data(), Isa::kPortable, top_k);
    const Answer actual = run_device(p, device, top_k);
    CHECK(actual.fault.kind == FaultKind::kNone);
    CHECK(device.clean());
    for (std::size_t i = 0; i < expected.rows.size(); ++i) {
      // Neighbours may swap where their similarities differ in the last bits only.
      CHECK((actual.rows[i] == expected.rows[i] || close(actual.similarity[i], expected.similarity[i])));
      CHECK((actual.rows[i] < 0) == (expected.rows[i] < 0));
      CHECK(close(actual.similarity[i], expected.similarity[i]));
      if (actual.rows[i] >= 0) CHECK(p.sees(actual.rows[i]));
    }
  }
}

TEST_CASE("CUDA logic: equal vectors tie by row, and similarities below 0 come last") {
  Problem p = make_problem(40, 16, 1, 40, 3);
  for (std::int64_t i = 0; i < 40; ++i) {
    std::copy_n(p.vectors.begin(), 16, p.vectors.begin() + i * 16);
    p.candidates[static_cast<std::size_t>(i)] = 39 - i;
  }
  for (std::size_t d = 0; d < 16; ++d) p.vectors[d] ^= 0x8000;  // row 0 points the other way
  Device device(1, 40, 128);
  const Answer answer = run_device(p, device, 40),
               expected = run_rank(p, p.vectors.data(), Isa::kPortable, 40);
  CHECK(answer.rows == expected.rows);
  const bool first = answer.rows[0] == 0;
  for (std::int64_t i = 1; i < 40; ++i) CHECK(answer.rows[static_cast<std::size_t>(first ? i : i - 1)] == i);
  CHECK(answer.similarity.front() > 0);
  CHECK(answer.similarity.back() < 0);
}

TEST_CASE("CUDA logic: a stray candidate is reported for the lowest query, and the table is empty after it") {
  Problem p = make_problem(40, 16, 3, 20, 1);
  p.candidates[1 * 20 + 3] = std::int64_t{1} << 40;
  p.candidates[2 * 20 + 1] = 40;
  Device device(3, 20, 64);
  const Answer answer = run_device(p, device, 5);
  CHECK(answer.fault.kind == FaultKind::kOutOfRange);
  CHECK(answer.fault.query == 1);
  CHECK(answer.fault.row == std::int64_t{1} << 40);
  CHECK(device.clean());
}

TEST_CASE("CUDA logic: both passes of the resize, in both orders, equal the naive resize") {
  struct Shape {
    std::int64_t height, width, size;
  };
  for (const Shape& shape : {Shape{50, 40, 16}, {90, 30, 16}, {7, 9, 20}, {200, 41, 12}, {41, 200, 12}}) {
    const auto plan = preprocess::find_plan(shape.height, shape.width, shape.size, Isa::kPortable);
    std::mt19937 random(9);
    Bytes pixels(static_cast<std::size_t>(shape.height * shape.width * 3));
    for (std::uint8_t& byte : pixels) byte = static_cast<std::uint8_t>(random() >> 5);
    struct Narrowed {
      std::vector<std::int32_t> start, length;
      preprocess::device::AxisView view;
      explicit Narrowed(const preprocess::Axis& axis)
          : start(axis.start.begin(), axis.start.end()),
            length(axis.length.begin(), axis.length.end()),
            view{start.data(), length.data(), axis.weight.data(), static_cast<std::int32_t>(axis.taps),
                 static_cast<std::int32_t>(axis.first)} {}
    };
    Narrowed columns(plan->columns), rows(plan->rows);
    const auto size = static_cast<std::int32_t>(shape.size);
    const std::int64_t stride = shape.width * 3;
    Bytes target(static_cast<std::size_t>(shape.size * shape.size * 3));
    const auto side = static_cast<unsigned>(shape.size);
    if (plan->vertical_first) {
      const auto wide = static_cast<std::int32_t>(plan->columns.sources * 3);
      Bytes between(static_cast<std::size_t>(size * wide));
      for_each_block(static_cast<unsigned>(wide), side, 1, [&] {
        preprocess::device::shorten(rows.view, pixels.data(), stride, 0, columns.view.first * 3,
                                    between.data(), size, wide);
      });
      columns.view.first = 0;
      for_each_block(side, side, 1, [&] {
        preprocess::device::narrow(columns.view, between.data(), wide, 0, 0, target.data(), size, size);
      });
    } else {
      const auto lines = static_cast<std::int32_t>(plan->rows.sources);
      Bytes between(static_cast<std::size_t>(lines * size * 3));
      for_each_block(side, static_cast<unsigned>(lines), 1, [&] {
        preprocess::device::narrow(columns.view, pixels.data(), stride, 0, rows.view.first, between.data(),
                                   size, lines);
      });
      rows.view.first = 0;
      for_each_block(side * 3, side, 1, [&] {
        preprocess::device::shorten(rows.view, between.data(), size * 3, 0, 0, target.data(), size, size * 3);
      });
    }
    CHECK(target == naive_resize_crop(pixels, shape.height, shape.width, shape.size));
  }
}
