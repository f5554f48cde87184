#include "../pointer.h"
#include "modules.h"
#include "norms.h"

namespace py = pybind11;

namespace maedfer {
namespace {

// None is a matrix without data, of the shape of one that is there.
Matrix or_none(const Matrix *matrix, const Matrix &like) {
    if (matrix) return *matrix;
    Matrix none = like;
    none.data = nullptr;
    return none;
}

}  // namespace

void bind_norms(py::module_ &module) {
    const py::call_guard<py::gil_scoped_release> released;
    module.def(
        "norm_forward",
        [](const Matrix &residual, const Matrix *branch, uintptr_t branch_bias, uintptr_t keep, int64_t rows_a_factor,
           uintptr_t weight, uintptr_t bias, float eps, int64_t every, const Matrix *z, const Matrix *s,
           const Matrix *n, int threads) {
            norm_forward({residual, or_none(branch, residual), pointer<float>(branch_bias), pointer<float>(keep),
                          rows_a_factor, pointer<float>(weight), pointer<float>(bias), eps, every, or_none(z, residual),
                          or_none(s, residual), or_none(n, residual)},
                         threads);
        },
        released);
    module.def(
        "norm_backward",
        [](const Matrix *dz, const Matrix *ds, const Matrix *dn, const Matrix *z, uintptr_t weight, uintptr_t keep,
           int64_t rows_a_factor, float eps, int64_t every, const Matrix *dresidual, const Matrix *dbranch,
           bool branch_bias, bool affine, uintptr_t sums, int threads) {
            // One of the two is there.
            const Matrix &stream = dz ? *dz : *z;
            norm_backward({or_none(dz, stream), or_none(ds, stream), or_none(dn, stream), or_none(z, stream),
                           pointer<float>(weight), pointer<float>(keep), rows_a_factor, eps, every,
                           or_none(dresidual, stream), or_none(dbranch, stream)},
                          branch_bias, affine, pointer<float>(sums), threads);
        },
        released);
    module.def(
        "gelu_forward",
        [](const Matrix &x, uintptr_t bias, const Matrix &out, int threads) {
            gelu_forward({x, pointer<float>(bias), out}, threads);
        },
        released);
    module.def(
        "gelu_backward",
        [](const Matrix &dout, const Matrix &x, uintptr_t bias, const Matrix *dx, uintptr_t sum, int threads) {
            gelu_backward({dout, x, pointer<float>(bias), or_none(dx, x)}, pointer<float>(sum), threads);
        },
        released);
}

}  // namespace maedfer
