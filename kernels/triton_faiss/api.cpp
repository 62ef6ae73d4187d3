// The backend `faiss` as Triton calls it: thin entry points, no exception passes them.
#include <atomic>
#include <memory>
#include <string>

#include "triton_faiss/call.h"
#include "triton_faiss/instance.h"
#include "triton_faiss/model.h"

namespace {

using namespace attributary::triton;

// A loaded model, and whether its index has an owner already.
struct Loaded {
  explicit Loaded(Settings settings) : model(std::move(settings)) {}
  Model model;
  std::atomic<bool> owned{false};
};

template <typename Body>
TRITONSERVER_Error* guarded(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (...) {
    return current_error();
  }
}

std::string read_config(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  call(TRITONBACKEND_ModelConfig(model, 1, &message));
  const std::unique_ptr<TRITONSERVER_Message, void (*)(TRITONSERVER_Message*)> owner(
      message, [](TRITONSERVER_Message* held) { ignore(TRITONSERVER_MessageDelete(held)); });
  const char* text = nullptr;
  std::size_t size = 0;
  call(TRITONSERVER_MessageSerializeToJson(message, &text, &size));
  return std::string(text, size);
}

Loaded* loaded_of(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model = nullptr;
  void* state = nullptr;
  call(TRITONBACKEND_ModelInstanceModel(instance, &model));
  call(TRITONBACKEND_ModelState(model, &state));
  return static_cast<Loaded*>(state);
}

}  // namespace

extern "C" {

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
  return guarded([] {
    std::uint32_t major = 0, minor = 0;
    call(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major == TRITONBACKEND_API_VERSION_MAJOR && minor >= TRITONBACKEND_API_VERSION_MINOR) return;
    throw BackendError(ErrorKind::kUnsupported,
                       "faiss: built for backend API " + std::to_string(TRITONBACKEND_API_VERSION_MAJOR) +
                           "." + std::to_string(TRITONBACKEND_API_VERSION_MINOR) + ", this server has " +
                           std::to_string(major) + "." + std::to_string(minor));
  });
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([model] {
    auto loaded = std::make_unique<Loaded>(parse_settings(read_config(model)));
    const Settings& settings = loaded->model.settings();
    log(TRITONSERVER_LOG_INFO,
        "opened " + settings.bundle + ": " + std::to_string(settings.items) + " vectors of " +
            std::to_string(settings.dim) + " dimensions, FAISS " + std::to_string(FAISS_VERSION_MAJOR) + "." +
            std::to_string(FAISS_VERSION_MINOR) + "." + std::to_string(FAISS_VERSION_PATCH) +
            (loaded->model.unpacked() ? ", filters on a second copy of the codes" : ""));
    call(TRITONBACKEND_ModelSetState(model, loaded.get()));
    loaded.release();
  });
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([model] {
    void* state = nullptr;
    call(TRITONBACKEND_ModelState(model, &state));
    delete static_cast<Loaded*>(state);
  });
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([instance] {
    Loaded* loaded = loaded_of(instance);
    if (loaded->owned.exchange(true)) {
      throw BackendError(
          ErrorKind::kInvalidArgument,
          "instance_group: count must be 1 in one group, an index has one owner; let batches form instead");
    }
    TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
    std::int32_t device = 0;
    call(TRITONBACKEND_ModelInstanceKind(instance, &kind));
    call(TRITONBACKEND_ModelInstanceDeviceId(instance, &device));
    if (kind == TRITONSERVER_INSTANCEGROUPKIND_GPU) loaded->model.use_gpu(device);
    auto state = std::make_unique<Instance>(instance, loaded->model);
    call(TRITONBACKEND_ModelInstanceSetState(instance, state.get()));
    state.release();
  });
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([instance] {
    void* state = nullptr;
    call(TRITONBACKEND_ModelInstanceState(instance, &state));
    delete static_cast<Instance*>(state);
    loaded_of(instance)->owned.store(false);
  });
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const std::uint32_t count) {
  void* state = nullptr;
  // An error here would leave the requests to Triton; it has none to give for an instance that was
  // initialised.
  if (TRITONSERVER_Error* error = TRITONBACKEND_ModelInstanceState(instance, &state)) return error;
  static_cast<Instance*>(state)->execute(requests, count);
  return nullptr;
}

}  // extern "C"
