#include "region_attention.cuh"

#include <cmath>
#include <type_traits>

#include "launcher.h"

namespace maedfer {
namespace {

// The head dim of all published models; other sizes are left to the Triton kernels.
constexpr int kHeadDim = 64;

template <class T, int TILES, class Arguments>
int launch_instance(const Arguments &arguments, void *stream) {
    constexpr bool kForward = std::is_same_v<Arguments, RegionAttentionForward>;
    using Forward = RegionAttentionShape<TILES, kHeadDim>;
    using Shape = std::conditional_t<kForward, Forward, RegionAttentionBackwardShape<TILES, kHeadDim>>;
    const int64_t blocks = (static_cast<int64_t>(arguments.in.pairs) + Shape::kPairs - 1) / Shape::kPairs;
    if constexpr (kForward)
        return launch_kernel(region_attention_forward_kernel<T, TILES, kHeadDim>, blocks, Shape::kThreads,
                             Shape::kSharedBytes, arguments, stream);
    else
        return launch_kernel(region_attention_backward_kernel<T, TILES, kHeadDim>, blocks, Shape::kThreads,
                             Shape::kSharedBytes, arguments, stream);
}

template <class T, class Arguments>
int launch_tiles(const Arguments &arguments, void *stream) {
    switch ((arguments.in.rows + 15) / 16) {
        case 1: return launch_instance<T, 1>(arguments, stream);
        case 2: return launch_instance<T, 2>(arguments, stream);
        case 3: return launch_instance<T, 3>(arguments, stream);
        case 4: return launch_instance<T, 4>(arguments, stream);
        case 5: return launch_instance<T, 5>(arguments, stream);
        case 6: return launch_instance<T, 6>(arguments, stream);
        case 7: return launch_instance<T, 7>(arguments, stream);
        case 8: return launch_instance<T, 8>(arguments, stream);
        default: return kUnsupported;
    }
}

template <class Arguments>
int launch_element(Element element, const Arguments &arguments, void *stream) {
    return element == Element::float16 ? launch_tiles<Half>(arguments, stream)
                                       : launch_tiles<Bfloat>(arguments, stream);
}

int check(const RegionAttention &inputs) {
    if (!region_attention_supported(inputs.rows, inputs.head_dim)) return kUnsupported;
    if (inputs.groups < 0 || inputs.heads < 1 || inputs.groups > INT32_MAX / inputs.heads) return kUnsupported;
    const bool strides = (inputs.group_stride | inputs.row_stride) % 8 == 0;
    return strides && aligned(inputs.q) && aligned(inputs.k) && aligned(inputs.v) ? 0 : kMisaligned;
}

// Strides in bytes from here on.
RegionAttentionInputs prepare(const RegionAttention &inputs) {
    return {static_cast<const char *>(inputs.q),
            static_cast<const char *>(inputs.k),
            static_cast<const char *>(inputs.v),
            inputs.group_stride * 2,
            inputs.row_stride * 2,
            static_cast<uint32_t>(inputs.groups * inputs.heads),
            static_cast<int>(inputs.rows),
            static_cast<int>(inputs.heads),
            1.0f / std::sqrt(static_cast<float>(inputs.head_dim))};
}

}  // namespace

bool region_attention_supported(int64_t rows, int64_t head_dim) {
    return rows >= 1 && rows <= 128 && head_dim == kHeadDim;
}

int region_attention_forward(const RegionAttention &inputs, void *out, void *stream) {
    if (const int error = check(inputs)) return error;
    if (!aligned(out)) return kMisaligned;
    return launch_element(inputs.element, RegionAttentionForward{prepare(inputs), static_cast<char *>(out)}, stream);
}

int region_attention_backward(const RegionAttention &inputs, const void *dout, int64_t dout_group, int64_t dout_row,
                              void *dq, void *dk, void *dv, int64_t gradient_group, int64_t gradient_row,
                              void *stream) {
    if (const int error = check(inputs)) return error;
    if ((dout_group | dout_row | gradient_group | gradient_row) % 8 != 0) return kMisaligned;
    if (!aligned(dout) || !aligned(dq) || !aligned(dk) || !aligned(dv)) return kMisaligned;
    const RegionAttentionBackward arguments{
        prepare(inputs),         static_cast<const char *>(dout), dout_group * 2,          dout_row * 2,
        static_cast<char *>(dq), static_cast<char *>(dk),         static_cast<char *>(dv), gradient_group * 2,
        gradient_row * 2};
    return launch_element(inputs.element, arguments, stream);
}

}  // namespace maedfer
