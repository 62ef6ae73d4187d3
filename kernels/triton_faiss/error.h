// What goes wrong in the backend: a message for a person, and the kind that Triton reports.
#pragma once

#include <stdexcept>
#include <string>

namespace attributary::triton {

enum class ErrorKind {
  kInvalidArgument,  // the caller's input, or the model's configuration
  kUnsupported,      // a configuration that this build cannot serve
  kUnavailable,      // a file that cannot be read
  kInternal,
};

// The message starts with the name of the input, parameter or file at fault.
class BackendError : public std::runtime_error {
 public:
  BackendError(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace attributary::triton
