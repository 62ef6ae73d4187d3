// The one owner of a model's index: takes Triton's batches, one at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "triton_faiss/batch.h"
#include "triton_faiss/model.h"
#include "triton_faiss/request.h"
#include "triton_faiss/triton_api.h"

namespace attributary::triton {

class Instance {
 public:
  Instance(TRITONBACKEND_ModelInstance* handle, Model& model) : handle_(handle), model_(model) {}

  // Answers, reports and releases every request. A wrong input fails its own request only. Never throws.
  void execute(TRITONBACKEND_Request** requests, std::uint32_t count) noexcept;

 private:
  // What becomes of one request.
  struct Entry {
    TRITONBACKEND_Request* request = nullptr;
    TRITONSERVER_Error* error = nullptr;  // owned until it is sent
    Slice slice;
  };

  void read(Entry& entry) noexcept;
  void answer() noexcept;
  bool respond(Entry& entry) noexcept;

  TRITONBACKEND_ModelInstance* handle_;
  Model& model_;
  // Kept between batches.
  std::vector<Entry> entries_;
  Batch batch_;
  Answers answers_;
};

}  // namespace attributary::triton
