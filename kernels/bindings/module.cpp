// The Python module attributary.kernels._native: thin, zero-copy doors into the kernels.
#include <nanobind/nanobind.h>

#include "common/isa.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.doc() = "Compiled CPU kernels of attributary; call them through attributary.kernels.";
  m.def(
      "best_isa", [] { return attributary::isa_name(attributary::best_isa()); },
      "The highest instruction set of this machine that was compiled in.");
}
