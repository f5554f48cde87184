#include "operations.h"
#include "reconstruction_loss.cuh"

namespace maedfer {
namespace {

template <typename T, int FRAMES, int PIXELS>
int launch(const void *prediction, int64_t prediction_clip, int64_t prediction_token, const void *frames,
           const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip, int64_t index_token,
           int64_t batch, int64_t count, bool motion, bool normalize, float *sums, void *difference, void *stream) {
    if (batch * count == 0) return cudaSuccess;
    reconstruction_loss_kernel<T, FRAMES, PIXELS>
        <<<unsigned(batch * count), LOSS_THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T *>(prediction), prediction_clip, prediction_token, static_cast<const uint8_t *>(frames),
            clips, cube, index, index_clip, index_token, count, motion, normalize, sums, static_cast<T *>(difference));
    return cudaGetLastError();
}

template <typename T, int FRAMES>
auto by_pixels(int pixels) {
    return pixels <= 2 * LOSS_THREADS ? launch<T, FRAMES, 2> : launch<T, FRAMES, LOSS_MOST_PIXELS / LOSS_THREADS>;
}

template <typename T>
auto by_frames(const Cube &cube) {
    switch (cube.frames) {
        case 1: return by_pixels<T, 1>(cube.pixels());
        case 2: return by_pixels<T, 2>(cube.pixels());
        case 3: return by_pixels<T, 3>(cube.pixels());
        default: return by_pixels<T, LOSS_MOST_FRAMES>(cube.pixels());
    }
}

}  // namespace

int reconstruction_loss_cuda(const void *prediction, Element type, int64_t prediction_clip, int64_t prediction_token,
                             const void *frames, const Clips &clips, const Cube &cube, const int64_t *index,
                             int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, bool motion,
                             bool normalize, float *sums, void *difference, void *stream) {
    if (cube.frames > LOSS_MOST_FRAMES || cube.pixels() > LOSS_MOST_PIXELS) return cudaErrorInvalidValue;
    const auto run = type == Element::float32    ? by_frames<float>(cube)
                     : type == Element::bfloat16 ? by_frames<__nv_bfloat16>(cube)
                                                 : by_frames<__half>(cube);
    return run(prediction, prediction_clip, prediction_token, frames, clips, cube, index, index_clip, index_token,
               batch, count, motion, normalize, sums, difference, stream);
}

}  // namespace maedfer
