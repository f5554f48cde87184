// Normalised cubes of the wanted tokens on a GPU: every byte is read once, in runs of 16 where the layout has them.
#pragma once

#include <cstdint>
#include <cstring>

#include "../cubes.h"
#include "stored.h"

namespace maedfer {

constexpr int kTubeletsThreads = 192;

template <typename Out>
struct TubeletsArguments {
    // [B, I, T, H, W]
    const uint8_t *frames;
    Clips clips;
    Cube cube;
    // [B, n]
    const int64_t *index;
    int64_t index_clip, index_token, tokens, count;
    // [I] each
    const float *scale, *shift;
    // [B, n, I * cube] contiguous
    Out *out;
};

// A thread turns a run of RUN pixels of one row and one channel into floats.
// VECTOR: rows are contiguous and every run starts at a multiple of 16 bytes, so that it is one load.
template <typename Out, int RUN, bool VECTOR>
MAEDFER_KERNEL(kTubeletsThreads, 1)
tubelets_kernel(const TubeletsArguments<Out> in) {
    const Cube &cube = in.cube;
    const int runs = cube.width / RUN;
    const int64_t each = int64_t(in.clips.channels) * cube.frames * cube.height * runs;
    const int64_t item = int64_t(block_index()) * kTubeletsThreads + thread_index();
    if (item >= in.tokens * each) return;
    const int64_t number = item / each;
    int part = int(item % each);
    const int x = part % runs * RUN;
    part /= runs;
    const int y = part % cube.height;
    part /= cube.height;
    const int t = part % cube.frames, channel = part / cube.frames;
    const int64_t clip = number / in.count, place = number % in.count;
    const int64_t token = in.index[clip * in.index_clip + place * in.index_token];
    const uint8_t *from = in.frames + in.clips.corner(cube, clip, token) + channel * in.clips.channel +
                          t * in.clips.frame + y * in.clips.row + x * in.clips.column;
    alignas(16) uint8_t pixels[RUN];
    if constexpr (VECTOR) {
        *reinterpret_cast<Vector *>(pixels) = *reinterpret_cast<const Vector *>(from);
    } else {
#pragma unroll
        for (int i = 0; i < RUN; ++i) pixels[i] = from[i * in.clips.column];
    }
    const float by = in.scale[channel], add = in.shift[channel];
    alignas(16) Out values[RUN];
#pragma unroll
    for (int i = 0; i < RUN; ++i) values[i] = rounded<Out>(fmaf(float(pixels[i]), by, add));
    Out *to = in.out + item * RUN;
    if constexpr (RUN * sizeof(Out) % 16 == 0) {
        // Runs follow each other, so that all of them start at a multiple of 16 bytes.
#pragma unroll
        for (int i = 0; i < int(RUN * sizeof(Out) / 16); ++i)
            reinterpret_cast<Vector *>(to)[i] = reinterpret_cast<const Vector *>(values)[i];
    } else {
#pragma unroll
        for (int i = 0; i < RUN; ++i) to[i] = values[i];
    }
}

}  // namespace maedfer
