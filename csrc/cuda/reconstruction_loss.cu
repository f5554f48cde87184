#include "reconstruction_loss.cuh"

#include "launcher.h"
#include "operations.h"

namespace maedfer {
namespace {

template <typename T, int FRAMES>
int by_pixels(const ReconstructionLossArguments<T> &in, int64_t tokens, void *stream) {
    constexpr int MOST = LOSS_MOST_PIXELS / kLossThreads;
    if (in.cube.pixels() <= 2 * kLossThreads)
        return launch_kernel(reconstruction_loss_kernel<T, FRAMES, 2>, tokens, kLossThreads, kLossSharedBytes, in,
                             stream);
    return launch_kernel(reconstruction_loss_kernel<T, FRAMES, MOST>, tokens, kLossThreads, kLossSharedBytes, in,
                         stream);
}

template <typename T>
int by_frames(const ReconstructionLossArguments<T> &in, int64_t tokens, void *stream) {
    switch (in.cube.frames) {
        case 1: return by_pixels<T, 1>(in, tokens, stream);
        case 2: return by_pixels<T, 2>(in, tokens, stream);
        case 3: return by_pixels<T, 3>(in, tokens, stream);
        case 4: return by_pixels<T, 4>(in, tokens, stream);
        default: return kUnsupported;
    }
}

}  // namespace

static_assert(LOSS_MOST_FRAMES == 4, "by_frames has a case for each");

int reconstruction_loss_cuda(const void *prediction, Element type, int64_t prediction_clip, int64_t prediction_token,
                             const void *frames, const Clips &clips, const Cube &cube, const int64_t *index,
                             int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, bool motion,
                             bool normalize, float *sums, void *difference, void *stream) {
    if (cube.pixels() > LOSS_MOST_PIXELS) return kUnsupported;
    const auto run = [&](auto example) {
        using T = decltype(example);
        const ReconstructionLossArguments<T> in{static_cast<const T *>(prediction),
                                                prediction_clip,
                                                prediction_token,
                                                static_cast<const uint8_t *>(frames),
                                                clips,
                                                cube,
                                                index,
                                                index_clip,
                                                index_token,
                                                count,
                                                motion,
                                                normalize,
                                                sums,
                                                static_cast<T *>(difference)};
        return by_frames(in, batch * count, stream);
    };
    switch (type) {
        case Element::float32: return run(float{});
        case Element::bfloat16: return run(StoredBfloat{});
        case Element::float16: return run(StoredHalf{});
        default: return kUnsupported;
    }
}

}  // namespace maedfer
