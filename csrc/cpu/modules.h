// What module.cpp is put together from: each part says what Python may call of one header.
#pragma once

#include <pybind11/pybind11.h>

namespace maedfer {

void bind_variants(pybind11::module_ &module);
void bind_norms(pybind11::module_ &module);
void bind_products(pybind11::module_ &module);
void bind_attention(pybind11::module_ &module);
void bind_interaction(pybind11::module_ &module);

}  // namespace maedfer
