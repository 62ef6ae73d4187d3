#include "triton_faiss/instance.h"

#include <chrono>

#include "triton_faiss/call.h"
#include "triton_faiss/response.h"

namespace attributary::triton {
namespace {

// Triton's clock of statistics.
std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace

void Instance::execute(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept {
  const std::uint64_t exec_start = now_ns();
  entries_.clear();
  batch_.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    entries_.push_back({requests[i], nullptr, {}});
    read(entries_.back());
  }
  const std::uint64_t compute_start = now_ns();
  answer();
  const std::uint64_t compute_end = now_ns();
  for (Entry& entry : entries_) {
    const bool success = respond(entry);
    ignore(TRITONBACKEND_ModelInstanceReportStatistics(handle_, entry.request, success, exec_start,
                                                       compute_start, compute_end, now_ns()));
    ignore(TRITONBACKEND_RequestRelease(entry.request, TRITONSERVER_REQUEST_RELEASE_ALL));
  }
  if (batch_.count() > 0) {
    ignore(TRITONBACKEND_ModelInstanceReportBatchStatistics(handle_, batch_.count(), exec_start,
                                                            compute_start, compute_end, now_ns()));
  }
}

void Instance::read(Entry& entry) noexcept {
  try {
    bool cancelled = false;
    call(TRITONBACKEND_RequestIsCancelled(entry.request, &cancelled));
    if (cancelled) {
      entry.error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_CANCELLED, "the caller has gone");
      return;
    }
    entry.slice = read_request(entry.request, model_.settings(), batch_);
  } catch (...) {
    entry.error = current_error();
  }
}

void Instance::answer() noexcept {
  if (batch_.count() == 0) return;
  try {
    model_.answer(batch_, answers_);
  } catch (...) {
    for (Entry& entry : entries_) {
      if (entry.error == nullptr) entry.error = current_error();
    }
  }
}

bool Instance::respond(Entry& entry) noexcept {
  TRITONBACKEND_Response* response = nullptr;
  TRITONSERVER_Error* refused = TRITONBACKEND_ResponseNew(&response, entry.request);
  if (refused != nullptr) {
    log(TRITONSERVER_LOG_ERROR, TRITONSERVER_ErrorMessage(refused));
    ignore(refused);
    ignore(entry.error);
    return false;
  }
  if (entry.error == nullptr) {
    try {
      write_response(entry.request, response, answers_, entry.slice, model_.settings().bundle_id);
    } catch (...) {
      entry.error = current_error();
    }
  }
  const bool success = entry.error == nullptr;
  ignore(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, entry.error));
  // Triton copies the error.
  ignore(entry.error);
  return success;
}

}  // namespace attributary::triton
