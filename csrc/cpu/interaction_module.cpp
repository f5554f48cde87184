#include "../pointer.h"
#include "fold.h"
#include "interaction.h"
#include "modules.h"

namespace py = pybind11;

namespace maedfer {

void bind_interaction(py::module_ &module) {
    const py::call_guard<py::gil_scoped_release> released;
    py::class_<Stream>(module, "Stream", py::module_local())
        .def(py::init([](uintptr_t data, int type, int64_t clip, int64_t region, int64_t row) {
            return Stream{pointer<void>(data), Element(type), clip, region, row};
        }));
    py::class_<Keys>(module, "Keys", py::module_local())
        .def(py::init([](uintptr_t data, int type, int64_t clip, int64_t head, int64_t key) {
            return Keys{pointer<void>(data), Element(type), clip, head, key};
        }));
    py::class_<InteractionSizes>(module, "InteractionSizes", py::module_local())
        .def(py::init([](int64_t clips, int64_t regions, int64_t rows, int64_t heads, int64_t channels) {
            return InteractionSizes{clips, regions, rows, heads, channels};
        }));
    py::class_<NextNorm>(module, "NextNorm", py::module_local())
        .def(py::init([](uintptr_t weight, uintptr_t bias, float eps) {
            return NextNorm{pointer<float>(weight), pointer<float>(bias), eps};
        }));
    module.def(
        "interaction_forward",
        [](const InteractionSizes &sizes, const Stream &z, const Stream &s, const Keys &a, uintptr_t offset,
           const Keys &v, const NextNorm &norm, const Stream &y, const Stream &n, uintptr_t p, int64_t p_clip,
           int threads) {
            interaction_forward({sizes, z, s, a, v, pointer<float>(offset), norm, y, n, pointer<void>(p), p_clip},
                                threads);
        },
        released);
    module.def(
        "interaction_backward",
        [](const InteractionSizes &sizes, const Stream &g, const Stream &z, const Keys &a, const Keys &v, uintptr_t p,
           int64_t p_clip, float eps, const Stream &dz, const Stream &ds, const Keys &da, uintptr_t doffset,
           const Keys &dv, int threads) {
            interaction_backward({sizes, g, z, a, v, pointer<void>(p), p_clip, eps, dz, ds, da, dv,
                                  pointer<float>(doffset), nullptr, nullptr, nullptr},
                                 threads);
        },
        released);
    py::class_<FoldRows>(module, "FoldRows", py::module_local())
        .def(py::init([](uintptr_t data, int type, int64_t clip, int64_t row) {
            return FoldRows{pointer<void>(data), Element(type), clip, row};
        }));
    module.def(
        "fold_forward",
        [](const InteractionSizes &sizes, const FoldRows &kv, const FoldRows &query, const FoldRows &output,
           uintptr_t value_bias, uintptr_t norm_weight, uintptr_t norm_bias, uintptr_t query_bias, uintptr_t out_bias,
           uintptr_t keep, const Keys &a, const Keys &v, uintptr_t offset, int threads) {
            fold_forward({sizes, kv, query, output, pointer<float>(value_bias), pointer<float>(norm_weight),
                          pointer<float>(norm_bias), pointer<float>(query_bias), pointer<float>(out_bias),
                          pointer<float>(keep), a, v, pointer<float>(offset)},
                         threads);
        },
        released);
}

}  // namespace maedfer
