// What Python calls on a CPU: pointers and sizes, checked by maedfer/kernels/native.py.
#include <pybind11/pybind11.h>

#include "operations.h"

namespace py = pybind11;
using namespace maedfer;

namespace {

template <typename T>
T *pointer(uintptr_t address) {
    return reinterpret_cast<T *>(address);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    py::class_<Clips>(module, "Clips", py::module_local())
        .def(py::init<int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>());
    py::class_<Cube>(module, "Cube", py::module_local()).def(py::init<int, int, int>());
    module.def(
        "tubelets",
        [](uintptr_t frames, int frames_type, const Clips &clips, const Cube &cube, uintptr_t index, int64_t index_clip,
           int64_t index_token, int64_t batch, int64_t count, uintptr_t scale, uintptr_t shift, uintptr_t out,
           int out_type, int threads) {
            tubelets(pointer<void>(frames), Element(frames_type), clips, cube, pointer<int64_t>(index), index_clip,
                     index_token, batch, count, pointer<float>(scale), pointer<float>(shift), pointer<void>(out),
                     Element(out_type), threads);
        },
        py::call_guard<py::gil_scoped_release>());
    module.def(
        "reconstruction_loss",
        [](uintptr_t prediction, int type, int64_t prediction_clip, int64_t prediction_token, uintptr_t frames,
           int frames_type, const Clips &clips, const Cube &cube, uintptr_t index, int64_t index_clip,
           int64_t index_token, int64_t batch, int64_t count, bool motion, bool normalize, float maximum,
           uintptr_t difference, int threads) {
            const Losses losses = reconstruction_loss(
                pointer<void>(prediction), Element(type), prediction_clip, prediction_token, pointer<void>(frames),
                Element(frames_type), clips, cube, pointer<int64_t>(index), index_clip, index_token, batch, count,
                motion, normalize, maximum, pointer<void>(difference), threads);
            return std::pair(losses.appearance, losses.motion);
        },
        py::call_guard<py::gil_scoped_release>());
}
