#include <pybind11/stl.h>

#include "../pointer.h"
#include "modules.h"
#include "variants.h"

namespace py = pybind11;

namespace maedfer {

void bind_variants(py::module_ &module) {
    module.def("variant", [] { return std::string(variant().name); });
    module.def("variants", variants);
    module.def("choose_variant", choose_variant);
    py::class_<Matrix>(module, "Matrix", py::module_local())
        .def(py::init([](uintptr_t data, int type, int64_t rows, int64_t columns, int64_t stride, int64_t group,
                         int64_t group_stride) {
            return Matrix{pointer<void>(data), Element(type), rows, columns, stride, group, group_stride};
        }));
}

}  // namespace maedfer
