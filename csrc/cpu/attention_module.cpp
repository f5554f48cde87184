#include "../pointer.h"
#include "attention.h"
#include "modules.h"

namespace py = pybind11;

namespace maedfer {
namespace {

// Columns of rows that hold several parts side by side.
Matrix part(const Matrix &x, int64_t number, int64_t columns) {
    Matrix found = x;
    const int64_t bytes = number * columns * (x.type == Element::float32 ? 4 : 2);
    found.data = static_cast<char *>(x.data) + bytes;
    found.columns = columns;
    return found;
}

}  // namespace

void bind_attention(py::module_ &module) {
    const py::call_guard<py::gil_scoped_release> released;
    // `q` is of the queries alone, or holds keys and values as well where `kv` is the same.
    py::class_<Attention>(module, "Attention", py::module_local())
        .def(py::init([](const Matrix &qkv, uintptr_t q_bias, uintptr_t v_bias, int64_t rows, int64_t heads) {
            const int64_t dim = qkv.columns / 3;
            return Attention{part(qkv, 0, dim),
                             part(qkv, 1, dim),
                             part(qkv, 2, dim),
                             pointer<float>(q_bias),
                             pointer<float>(v_bias),
                             rows,
                             rows,
                             heads};
        }))
        .def(py::init([](const Matrix &q, const Matrix &kv, uintptr_t q_bias, uintptr_t v_bias, int64_t queries,
                         int64_t keys, int64_t heads) {
            return Attention{q,
                             part(kv, 0, q.columns),
                             part(kv, 1, q.columns),
                             pointer<float>(q_bias),
                             pointer<float>(v_bias),
                             queries,
                             keys,
                             heads};
        }));
    py::class_<AttentionGradients>(module, "AttentionGradients", py::module_local())
        .def(py::init([](const Matrix &dout, const Matrix &dqkv, uintptr_t bias) {
            return AttentionGradients{dout, part(dqkv, 0, dout.columns), part(dqkv, 1, dout.columns),
                                      part(dqkv, 2, dout.columns), pointer<float>(bias)};
        }))
        .def(py::init([](const Matrix &dout, const Matrix &dq, const Matrix &dkv, uintptr_t bias) {
            return AttentionGradients{dout, dq, part(dkv, 0, dout.columns), part(dkv, 1, dout.columns),
                                      pointer<float>(bias)};
        }));
    module.def("attention", attention, released);
    module.def(
        "attention_gradients",
        [](const Attention &x, const AttentionGradients &to, uintptr_t bias, int threads) {
            attention_gradients(x, to, pointer<float>(bias), threads);
        },
        released);
}

}  // namespace maedfer
