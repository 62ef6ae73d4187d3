// From answers to Triton's responses: only the outputs that a caller asked for. The contract is in
// docs/triton.md.
#pragma once

#include <cstdint>

#include "triton_faiss/batch.h"
#include "triton_faiss/request.h"
#include "triton_faiss/triton_api.h"

namespace attributary::triton {

// Fills a request's response from its slice of the answers. Raises BackendError, also where one of its
// queries has a fault.
void write_response(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, const Answers& answers,
                    const Slice& slice, std::uint64_t bundle_id);

}  // namespace attributary::triton
