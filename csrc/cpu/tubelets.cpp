#include "operations.h"
#include "parallel.h"

namespace maedfer {
namespace {

// A row of a cube; `step` is 1 for planar frames, and the number of channels for interleaved ones.
MAEDFER_SIMD void scale_row(const uint8_t *in, int64_t step, int count, float scale, float shift, float *out) {
    if (step == 1) {
        for (int x = 0; x < count; ++x) out[x] = static_cast<float>(in[x]) * scale + shift;
    } else {
        for (int x = 0; x < count; ++x) out[x] = static_cast<float>(in[x * step]) * scale + shift;
    }
}

MAEDFER_SIMD void scale_row(const float *in, int64_t step, int count, float scale, float shift, float *out) {
    for (int x = 0; x < count; ++x) out[x] = in[x * step] * scale + shift;
}

MAEDFER_SIMD void round_row(const float *in, int count, BFloat16 *out) {
    for (int x = 0; x < count; ++x) from_float(in[x], out[x]);
}

MAEDFER_SIMD void round_row(const float *in, int count, Float16 *out) {
    for (int x = 0; x < count; ++x) from_float(in[x], out[x]);
}

template <typename In>
void row(const In *in, int64_t step, int count, float scale, float shift, float *out, float *) {
    scale_row(in, step, count, scale, shift, out);
}

template <typename In, typename Out>
void row(const In *in, int64_t step, int count, float scale, float shift, Out *out, float *exact) {
    scale_row(in, step, count, scale, shift, exact);
    round_row(exact, count, out);
}

template <typename In, typename Out>
void cubes(const In *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
           int64_t index_token, int64_t count, const float *scale, const float *shift, Out *out, int64_t begin,
           int64_t end) {
    std::vector<float> exact(cube.width);
    out += begin * clips.channels * cube.values();
    for (int64_t number = begin; number < end; ++number) {
        const int64_t clip = number / count, place = number % count;
        const In *corner = frames + clips.corner(cube, clip, index[clip * index_clip + place * index_token]);
        for (int channel = 0; channel < clips.channels; ++channel) {
            for (int t = 0; t < cube.frames; ++t) {
                for (int y = 0; y < cube.height; ++y, out += cube.width) {
                    const In *in = corner + channel * clips.channel + t * clips.frame + y * clips.row;
                    row(in, clips.column, cube.width, scale[channel], shift[channel], out, exact.data());
                }
            }
        }
    }
}

}  // namespace

void tubelets(const void *frames, Element frames_type, const Clips &clips, const Cube &cube, const int64_t *index,
              int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, const float *scale,
              const float *shift, void *out, Element out_type, int threads) {
    parallel(batch * count, 64, threads, [&](int64_t begin, int64_t end) {
        with_float_type(out_type, [&](auto example) {
            auto *to = static_cast<decltype(example) *>(out);
            if (frames_type == Element::uint8) {
                cubes(static_cast<const uint8_t *>(frames), clips, cube, index, index_clip, index_token, count, scale,
                      shift, to, begin, end);
            } else {
                cubes(static_cast<const float *>(frames), clips, cube, index, index_clip, index_token, count, scale,
                      shift, to, begin, end);
            }
        });
    });
}

}  // namespace maedfer
