// PRIVATE: errors between C++ and Triton's C API.
#pragma once

#include <string>

#include "triton_faiss/error.h"
#include "triton_faiss/triton_api.h"

namespace attributary::triton {

// Turns Triton's own errors into exceptions.
inline void call(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  const std::string message = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw BackendError(ErrorKind::kInternal, message);
}

// For calls whose failure changes nothing that could still be done.
inline void ignore(TRITONSERVER_Error* error) {
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

// The exception that is being handled, as Triton's error; call inside a catch block. Never throws.
TRITONSERVER_Error* current_error() noexcept;

// Logs at INFO or WARN.
void log(TRITONSERVER_LogLevel level, const std::string& message) noexcept;

}  // namespace attributary::triton
