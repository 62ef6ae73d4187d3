// PRIVATE: what the binding files share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "common/isa.h"

namespace attributary::bindings {

namespace nb = nanobind;

template <typename T, int kDims>
using Array = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

// Memory safety rests on these checks; the Python face has told the caller more kindly before.
inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// The level named by "portable", "avx2" or "avx512"; throws where this machine has it not.
Isa parse_isa(const std::string& name);

void bind_preprocess(nb::module_& m);
void bind_rescore(nb::module_& m);
void bind_reply(nb::module_& m);
void bind_scan(nb::module_& m);

}  // namespace attributary::bindings
