// What Python calls on a GPU: pointers, sizes and the stream, checked by the native.py of maedfer/kernels' operators.
#include <pybind11/pybind11.h>

#include "../pointer.h"
#include "operations.h"

namespace py = pybind11;
using namespace maedfer;

PYBIND11_MODULE(_cuda, module) {
    module.attr("loss_most_frames") = LOSS_MOST_FRAMES;
    module.attr("loss_most_pixels") = LOSS_MOST_PIXELS;
    py::class_<Clips>(module, "Clips", py::module_local())
        .def(py::init<int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>());
    py::class_<Cube>(module, "Cube", py::module_local()).def(py::init<int, int, int>());
    module.def("tubelets", [](uintptr_t frames, const Clips &clips, const Cube &cube, uintptr_t index,
                              int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, uintptr_t scale,
                              uintptr_t shift, uintptr_t out, int out_type, uintptr_t stream) {
        return tubelets_cuda(pointer<void>(frames), clips, cube, pointer<int64_t>(index), index_clip, index_token,
                             batch, count, pointer<float>(scale), pointer<float>(shift), pointer<void>(out),
                             Element(out_type), pointer<void>(stream));
    });
    module.def(
        "reconstruction_loss", [](uintptr_t prediction, int type, int64_t prediction_clip, int64_t prediction_token,
                                  uintptr_t frames, const Clips &clips, const Cube &cube, uintptr_t index,
                                  int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, bool motion,
                                  bool normalize, uintptr_t sums, uintptr_t difference, uintptr_t stream) {
            return reconstruction_loss_cuda(pointer<void>(prediction), Element(type), prediction_clip, prediction_token,
                                            pointer<void>(frames), clips, cube, pointer<int64_t>(index), index_clip,
                                            index_token, batch, count, motion, normalize, pointer<float>(sums),
                                            pointer<void>(difference), pointer<void>(stream));
        });
}
