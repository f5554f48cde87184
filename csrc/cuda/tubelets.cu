#include "tubelets.cuh"

#include "launcher.h"
#include "operations.h"

namespace maedfer {
namespace {

bool in_runs_of_16_bytes(const void *frames, const Clips &clips, const Cube &cube) {
    const int64_t starts = clips.clip | clips.channel | clips.frame | clips.row | cube.width;
    return clips.column == 1 && aligned(frames) && starts % 16 == 0;
}

template <typename Out, int RUN, bool VECTOR>
int launch(const TubeletsArguments<Out> &in, void *stream) {
    const int64_t items = in.tokens * in.clips.channels * in.cube.values() / RUN;
    const int64_t blocks = (items + kTubeletsThreads - 1) / kTubeletsThreads;
    return launch_kernel(tubelets_kernel<Out, RUN, VECTOR>, blocks, kTubeletsThreads, 0, in, stream);
}

template <typename Out>
int choose(TubeletsArguments<Out> in, void *stream) {
    if (in_runs_of_16_bytes(in.frames, in.clips, in.cube)) return launch<Out, 16, true>(in, stream);
    return in.cube.width % 16 == 0 ? launch<Out, 16, false>(in, stream) : launch<Out, 1, false>(in, stream);
}

}  // namespace

int tubelets_cuda(const void *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
                  int64_t index_token, int64_t batch, int64_t count, const float *scale, const float *shift, void *out,
                  Element out_type, void *stream) {
    const auto run = [&](auto example) {
        using Out = decltype(example);
        return choose<Out>({static_cast<const uint8_t *>(frames), clips, cube, index, index_clip, index_token,
                            batch * count, count, scale, shift, static_cast<Out *>(out)},
                           stream);
    };
    switch (out_type) {
        case Element::float32: return run(float{});
        case Element::bfloat16: return run(StoredBfloat{});
        case Element::float16: return run(StoredHalf{});
        default: return kUnsupported;
    }
}

}  // namespace maedfer
