// What Python calls on a GPU: pointers, sizes and the stream, checked by the native.py of maedfer/kernels' operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../pointer.h"
#include "launch.h"
#include "operations.h"

namespace py = pybind11;
using namespace maedfer;

namespace {

using Sizes = std::vector<int64_t>;
using Addresses = std::vector<uintptr_t>;

// sizes: groups, rows, heads, head dim; qkv: three addresses.
RegionAttention attention(int element, const Sizes &sizes, const Addresses &qkv, int64_t group, int64_t row) {
    return {Element(element),
            sizes.at(0),
            sizes.at(1),
            sizes.at(2),
            sizes.at(3),
            pointer<void>(qkv.at(0)),
            pointer<void>(qkv.at(1)),
            pointer<void>(qkv.at(2)),
            group,
            row};
}

}  // namespace

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
    module.def("region_attention_supported", &region_attention_supported);
    module.def("region_attention_forward", [](int element, const Sizes &sizes, const Addresses &qkv, int64_t group,
                                              int64_t row, uintptr_t out, uintptr_t stream) {
        return region_attention_forward(attention(element, sizes, qkv, group, row), pointer<void>(out),
                                        pointer<void>(stream));
    });
    module.def("region_attention_backward",
               [](int element, const Sizes &sizes, const Addresses &qkv, int64_t group, int64_t row, uintptr_t dout,
                  int64_t dout_group, int64_t dout_row, const Addresses &gradients, int64_t gradient_group,
                  int64_t gradient_row, uintptr_t stream) {
                   return region_attention_backward(attention(element, sizes, qkv, group, row), pointer<void>(dout),
                                                    dout_group, dout_row, pointer<void>(gradients.at(0)),
                                                    pointer<void>(gradients.at(1)), pointer<void>(gradients.at(2)),
                                                    gradient_group, gradient_row, pointer<void>(stream));
               });
    module.def("local_global_interaction_supported",
               [](int64_t regions, int64_t heads, int64_t channels, int64_t shared_limit) {
                   return local_global_interaction_plan(regions, heads, channels, shared_limit).supported;
               });
    // sizes: clips, regions, rows, heads, channels. addresses: z, s, A, a, V, weight, shift, y, n, p.
    // strides: of z (3), s (2), A, a and V (3 each).
    module.def("local_global_interaction_forward",
               [](int element, const Sizes &sizes, const Addresses &addresses, const Sizes &strides,
                  bool weights_float32, float eps, uintptr_t stream) {
                   LocalGlobalInteraction in{};
                   in.element = Element(element);
                   in.clips = sizes.at(0), in.regions = sizes.at(1), in.rows = sizes.at(2);
                   in.heads = sizes.at(3), in.channels = sizes.at(4);
                   in.z = pointer<void>(addresses.at(0)), in.s = pointer<void>(addresses.at(1));
                   in.matrix = pointer<void>(addresses.at(2)), in.offset = pointer<void>(addresses.at(3));
                   in.values = pointer<void>(addresses.at(4));
                   in.weight = pointer<void>(addresses.at(5)), in.shift = pointer<void>(addresses.at(6));
                   in.y = pointer<void>(addresses.at(7)), in.n = pointer<void>(addresses.at(8));
                   in.p = pointer<void>(addresses.at(9));
                   in.z_clip = strides.at(0), in.z_region = strides.at(1), in.z_row = strides.at(2);
                   in.s_clip = strides.at(3), in.s_region = strides.at(4);
                   in.matrix_clip = strides.at(5), in.matrix_head = strides.at(6), in.matrix_key = strides.at(7);
                   in.offset_clip = strides.at(8), in.offset_head = strides.at(9), in.offset_key = strides.at(10);
                   in.values_clip = strides.at(11), in.values_head = strides.at(12), in.values_key = strides.at(13);
                   in.weights_float32 = weights_float32;
                   in.eps = eps;
                   return local_global_interaction_forward(in, 0, pointer<void>(stream));
               });
}
