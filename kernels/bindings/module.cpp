// The Python module attributary.kernels._native: the kernels, without copies.
#include "bindings/bindings.h"

namespace attributary::bindings {

Isa parse_isa(const std::string& name) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (name != isa_name(isa)) continue;
    require(isa <= best_isa(), "this machine, or this build, lacks the instruction set asked for");
    return isa;
  }
  throw std::invalid_argument("unknown instruction set: " + name);
}

}  // namespace attributary::bindings

NB_MODULE(_native, m) {
  m.doc() = "Compiled CPU kernels of attributary; call them through attributary.kernels.";
  m.def(
      "best_isa", [] { return attributary::isa_name(attributary::best_isa()); },
      "The highest instruction set of this machine that was compiled in.");
  attributary::bindings::bind_preprocess(m);
  attributary::bindings::bind_rescore(m);
  attributary::bindings::bind_reply(m);
  attributary::bindings::bind_scan(m);
}
