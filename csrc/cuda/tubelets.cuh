// Normalised cubes of the wanted tokens on a GPU: every byte that is read once, in runs of 16 where the layout has them.
#pragma once

#include <cstdint>

#include "../cubes.h"
#include "floats.cuh"

namespace maedfer {

// A thread turns a run of RUN pixels of one row and one channel into floats.
//   frames [B, I, T, H, W] uint8; index [B, n]; scale, shift [I]; out [B, n, I * cube].
// VECTOR: rows are contiguous and every run starts at a multiple of 16 bytes, so that it is one load.
template <typename Out, int RUN, bool VECTOR>
__global__ void tubelets_kernel(const uint8_t *__restrict__ frames, Clips clips, Cube cube,
                                const int64_t *__restrict__ index, int64_t index_clip, int64_t index_token,
                                int64_t tokens, int64_t count, const float *__restrict__ scale,
                                const float *__restrict__ shift, Out *__restrict__ out) {
    const int runs = cube.width / RUN;
    const int64_t each = int64_t(clips.channels) * cube.frames * cube.height * runs;
    const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= tokens * each) return;
    const int64_t number = item / each;
    int part = int(item % each);
    const int x = part % runs * RUN;
    part /= runs;
    const int y = part % cube.height;
    part /= cube.height;
    const int t = part % cube.frames, channel = part / cube.frames;
    const int64_t clip = number / count, place = number % count;
    const uint8_t *in = frames + clips.corner(cube, clip, index[clip * index_clip + place * index_token]) +
                        channel * clips.channel + t * clips.frame + y * clips.row + x * clips.column;
    alignas(16) uint8_t pixels[RUN];
    if constexpr (VECTOR) {
        *reinterpret_cast<uint4 *>(pixels) = *reinterpret_cast<const uint4 *>(in);
    } else {
#pragma unroll
        for (int i = 0; i < RUN; ++i) pixels[i] = in[i * clips.column];
    }
    const float by = scale[channel], add = shift[channel];
    alignas(16) Out values[RUN];
#pragma unroll
    for (int i = 0; i < RUN; ++i) values[i] = rounded<Out>(fmaf(float(pixels[i]), by, add));
    Out *to = out + item * RUN;
    if constexpr (RUN * sizeof(Out) % 16 == 0) {
        // Runs follow each other, so that all of them start at a multiple of 16 bytes.
#pragma unroll
        for (int i = 0; i < int(RUN * sizeof(Out) / 16); ++i)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(values)[i];
    } else {
#pragma unroll
        for (int i = 0; i < RUN; ++i) to[i] = values[i];
    }
}

}  // namespace maedfer
