#include "products.h"

#include "../pointer.h"
#include "modules.h"

namespace py = pybind11;

namespace maedfer {
namespace {

Matrix matrix_or_none(const Matrix *matrix) {
    return matrix ? *matrix : Matrix{nullptr, Element::float32, 0, 0, 0, 1, 0};
}

}  // namespace

void bind_products(py::module_ &module) {
    const py::call_guard<py::gil_scoped_release> released;
    py::class_<Epilogue>(module, "Epilogue", py::module_local())
        .def(py::init([](const Matrix &out, const Matrix *bias, const Matrix *residual, uintptr_t keep,
                         int64_t rows_a_factor, int activation, const Matrix *slope, uintptr_t sums) {
                 return Epilogue{matrix_or_none(bias),
                                 Activation(activation),
                                 matrix_or_none(slope),
                                 matrix_or_none(residual),
                                 pointer<const float>(keep),
                                 rows_a_factor,
                                 out,
                                 pointer<float>(sums)};
             }),
             py::arg("out"), py::arg("bias") = nullptr, py::arg("residual") = nullptr, py::arg("keep") = 0,
             py::arg("rows_a_factor") = 1, py::arg("activation") = 0, py::arg("slope") = nullptr, py::arg("sums") = 0);
    module.def("packed_size",
               [](int64_t columns, int64_t depth, int type) { return packed_size(columns, depth, Element(type)); });
    module.def(
        "pack",
        [](const Matrix &matrix, bool transposed, int type, uintptr_t out, int threads) {
            pack(matrix, transposed, Element(type), pointer<void>(out), threads);
        },
        released);
    module.def(
        "product",
        [](const Matrix &left, uintptr_t packed, int type, const Epilogue &epilogue, int threads) {
            product(Left{left, false, nullptr},
                    Packed{pointer<void>(packed), Element(type), epilogue.out.columns, left.columns}, epilogue,
                    threads);
        },
        released);
    // left^T packed: sums over the rows of both, and of `left` alone.
    module.def(
        "product_of_transpose",
        [](const Matrix &left, uintptr_t sums, uintptr_t packed, int type, const Epilogue &epilogue, int threads) {
            product(Left{left, true, pointer<float>(sums)},
                    Packed{pointer<void>(packed), Element(type), epilogue.out.columns, left.rows}, epilogue, threads);
        },
        released);
    module.def("finish", finish, released);
}

}  // namespace maedfer
