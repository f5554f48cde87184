// What Python calls on a CPU: pointers and sizes, checked by the native.py of maedfer/kernels' operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../pointer.h"
#include "modules.h"
#include "operations.h"

namespace py = pybind11;
using namespace maedfer;

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
    py::class_<Pictures>(module, "Pictures", py::module_local()).def(py::init<int64_t, int64_t, int64_t>());
    const py::call_guard<py::gil_scoped_release> released;
    module.def(
        "interleave",
        [](uintptr_t in, int64_t frame, int64_t channel, int64_t row, int64_t column, const Pictures &size,
           int64_t channels, uintptr_t out) {
            interleave(pointer<uint8_t>(in), {frame, channel, row, column}, size, channels, pointer<uint8_t>(out));
        },
        released);
    module.def(
        "resize",
        [](uintptr_t in, int64_t in_row, int64_t in_rows, int64_t in_columns, const Pictures &size, bool mirror,
           bool planar, uintptr_t out) {
            resize(pointer<uint8_t>(in), in_row, in_rows, in_columns, size, mirror, planar, pointer<uint8_t>(out));
        },
        released);
    module.def(
        "affine",
        [](uintptr_t in, const Pictures &size, const std::array<double, 6> &matrix, uintptr_t fill, uintptr_t out) {
            affine(pointer<uint8_t>(in), size, matrix, pointer<float>(fill), pointer<uint8_t>(out));
        },
        released);
    module.def(
        "affine_bicubic",
        [](uintptr_t in, const Pictures &size, const std::array<double, 6> &matrix, uint8_t fill, uintptr_t out) {
            affine_bicubic(pointer<uint8_t>(in), size, matrix, fill, pointer<uint8_t>(out));
        },
        released);
    module.def(
        "look_up",
        [](uintptr_t in, const Pictures &size, uintptr_t tables, uintptr_t out) {
            look_up(pointer<uint8_t>(in), size, pointer<uint8_t>(tables), pointer<uint8_t>(out));
        },
        released);
    module.def(
        "histograms",
        [](uintptr_t in, const Pictures &size, uintptr_t counts) {
            histograms(pointer<uint8_t>(in), size, pointer<int32_t>(counts));
        },
        released);
    module.def(
        "extremes",
        [](uintptr_t in, const Pictures &size, uintptr_t smallest, uintptr_t largest) {
            extremes(pointer<uint8_t>(in), size, pointer<uint8_t>(smallest), pointer<uint8_t>(largest));
        },
        released);
    module.def(
        "grey_sums",
        [](uintptr_t in, const Pictures &size, uintptr_t sums) {
            grey_sums(pointer<uint8_t>(in), size, pointer<int64_t>(sums));
        },
        released);
    module.def(
        "saturate",
        [](uintptr_t in, const Pictures &size, double factor, uintptr_t out) {
            saturate(pointer<uint8_t>(in), size, factor, pointer<uint8_t>(out));
        },
        released);
    module.def(
        "sharpen",
        [](uintptr_t in, const Pictures &size, double factor, uintptr_t out) {
            sharpen(pointer<uint8_t>(in), size, factor, pointer<uint8_t>(out));
        },
        released);
    bind_variants(module);
    bind_norms(module);
    bind_products(module);
    bind_attention(module);
    bind_interaction(module);
}
