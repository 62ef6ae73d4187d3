#include "triton_faiss/call.h"

#include <exception>
#include <new>

namespace attributary::triton {
namespace {

TRITONSERVER_Error_Code code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return TRITONSERVER_ERROR_INVALID_ARG;
    case ErrorKind::kUnsupported:
      return TRITONSERVER_ERROR_UNSUPPORTED;
    case ErrorKind::kUnavailable:
      return TRITONSERVER_ERROR_UNAVAILABLE;
    case ErrorKind::kInternal:
      break;
  }
  return TRITONSERVER_ERROR_INTERNAL;
}

}  // namespace

TRITONSERVER_Error* current_error() noexcept {
  try {
    throw;
  } catch (const BackendError& error) {
    return TRITONSERVER_ErrorNew(code_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory");
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  } catch (...) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "an unknown exception");
  }
}

void log(TRITONSERVER_LogLevel level, const std::string& message) noexcept {
  ignore(TRITONSERVER_LogMessage(level, __FILE__, __LINE__, ("faiss: " + message).c_str()));
}

}  // namespace attributary::triton
