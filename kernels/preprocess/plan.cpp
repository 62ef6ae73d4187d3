#include "preprocess/plan.h"

#include <algorithm>
#include <list>
#include <mutex>

namespace attributary::preprocess {
namespace {

// Sizes in flight at a time are few: a generator makes one or two.
constexpr std::size_t kCached = 16;

Filter view(const Axis& axis, const Tables& tables) {
  return {axis.outputs,       axis.taps,     axis.sources, axis.start.data(), axis.length.data(),
          axis.weight.data(), tables.layout, tables.steps, tables.groups,     tables.packed.data()};
}

std::shared_ptr<const Plan> build_plan(std::int64_t height, std::int64_t width, std::int64_t size, Isa isa) {
  auto plan = std::make_shared<Plan>();
  plan->height = height;
  plan->width = width;
  plan->size = size;
  plan->isa = isa;
  const std::int64_t short_side = std::min(height, width);
  const std::int64_t new_height = height <= width ? size : std::max(size, size * height / width);
  const std::int64_t new_width = height <= width ? std::max(size, size * width / height) : size;
  plan->top = (new_height - size) / 2;
  plan->left = (new_width - size) / 2;
  plan->copy = short_side == size;
  if (plan->copy) return plan;
  // Pillow 13 takes this order where the height shrinks by more than twice what the width does.
  plan->vertical_first = height > new_height && height - new_height > (width - new_width) * 2;
  plan->columns = make_axis(width, new_width, plan->left, size);
  plan->rows = make_axis(height, new_height, plan->top, size);
  plan->passes = &kPortablePasses;
#if defined(ATTRIBUTARY_X86)
  if (isa == Isa::kAvx512) {
    plan->passes = &kAvx512Passes;
    plan->column_tables = pack_horizontal_avx512(plan->columns);
    plan->row_tables = pack_vertical_avx512(plan->rows);
  } else if (isa == Isa::kAvx2) {
    plan->passes = &kAvx2Passes;
    plan->column_tables = pack_avx2(plan->columns);
    plan->row_tables = pack_avx2(plan->rows);
  }
#endif
  return plan;
}

}  // namespace

Filter Plan::column_filter() const { return view(columns, column_tables); }
Filter Plan::row_filter() const { return view(rows, row_tables); }

std::shared_ptr<const Plan> find_plan(std::int64_t height, std::int64_t width, std::int64_t size, Isa isa) {
  static std::mutex mutex;
  static std::list<std::shared_ptr<const Plan>> cache;  // the last used first
  {
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto it = cache.begin(); it != cache.end(); ++it) {
      const Plan& plan = **it;
      if (plan.height != height || plan.width != width || plan.size != size || plan.isa != isa) continue;
      cache.splice(cache.begin(), cache, it);
      return cache.front();
    }
  }
  std::shared_ptr<const Plan> plan = build_plan(height, width, size, isa);
  const std::lock_guard<std::mutex> lock(mutex);
  cache.push_front(plan);
  if (cache.size() > kCached) cache.pop_back();
  return plan;
}

}  // namespace attributary::preprocess
