#include "operations.h"
#include "tubelets.cuh"

namespace maedfer {
namespace {

constexpr int THREADS = 192;

template <typename Out, int RUN, bool VECTOR>
int launch(const void *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
           int64_t index_token, int64_t batch, int64_t count, const float *scale, const float *shift, void *out,
           cudaStream_t stream) {
    const int64_t items = batch * count * clips.channels * cube.values() / RUN;
    if (items == 0) return cudaSuccess;
    tubelets_kernel<Out, RUN, VECTOR><<<unsigned((items + THREADS - 1) / THREADS), THREADS, 0, stream>>>(
        static_cast<const uint8_t *>(frames), clips, cube, index, index_clip, index_token, batch * count, count, scale,
        shift, static_cast<Out *>(out));
    return cudaGetLastError();
}

bool in_runs_of_16_bytes(const void *frames, const Clips &clips, const Cube &cube) {
    const int64_t starts = clips.clip | clips.channel | clips.frame | clips.row | cube.width;
    return clips.column == 1 && (reinterpret_cast<uintptr_t>(frames) | starts) % 16 == 0;
}

template <typename Out>
int choose(const void *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
           int64_t index_token, int64_t batch, int64_t count, const float *scale, const float *shift, void *out,
           void *stream) {
    const auto run = in_runs_of_16_bytes(frames, clips, cube) ? launch<Out, 16, true>
                     : cube.width % 16 == 0                   ? launch<Out, 16, false>
                                                              : launch<Out, 1, false>;
    return run(frames, clips, cube, index, index_clip, index_token, batch, count, scale, shift, out,
               static_cast<cudaStream_t>(stream));
}

}  // namespace

int tubelets_cuda(const void *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
                  int64_t index_token, int64_t batch, int64_t count, const float *scale, const float *shift, void *out,
                  Element out_type, void *stream) {
    const auto run = out_type == Element::float32    ? choose<float>
                     : out_type == Element::bfloat16 ? choose<__nv_bfloat16>
                                                     : choose<__half>;
    return run(frames, clips, cube, index, index_clip, index_token, batch, count, scale, shift, out, stream);
}

}  // namespace maedfer
