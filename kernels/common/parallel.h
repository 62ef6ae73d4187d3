// A parallel loop for batches whose items take microseconds to milliseconds.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace attributary {

// Calls body(i) for every i in [0, count) on up to `threads` threads (0: one a core; the caller's own is one
// of them). The first exception is rethrown here, after all threads have ended.
template <typename Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
  std::int64_t wanted =
      threads > 0 ? threads : static_cast<std::int64_t>(std::thread::hardware_concurrency());
  wanted = std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(count, 1));
  if (wanted == 1) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&]() noexcept {
    try {
      for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      next.store(count);
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<std::size_t>(wanted - 1));
  for (std::int64_t t = 1; t < wanted; ++t) {
    try {
      pool.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that run share the work
    }
  }
  work();
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace attributary
