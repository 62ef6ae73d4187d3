// From Triton's requests to a checked batch, and from answers to responses. The contract is in
// docs/triton.md.
#pragma once

#include <cstddef>

#include "triton_faiss/batch.h"
#include "triton_faiss/settings.h"
#include "triton_faiss/triton_api.h"

namespace attributary::triton {

// Where a request's queries stand in the batch.
struct Slice {
  std::size_t first = 0;
  std::size_t count = 0;
};

// Checks every input of a request and appends its queries. Raises BackendError that starts with the input's
// name; the batch is then as it was before.
Slice read_request(TRITONBACKEND_Request* request, const Settings& settings, Batch& batch);

}  // namespace attributary::triton
