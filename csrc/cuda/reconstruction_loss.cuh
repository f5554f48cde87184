// Masked appearance-motion loss from bytes on a GPU: a block a token, its cube read once into registers.
#pragma once

#include <cstdint>

#include "../cubes.h"
#include "stored.h"

namespace maedfer {

constexpr int kLossThreads = 128;
constexpr int kLossSharedBytes = kLossThreads / 32 * 4;

// Sums over a block, the same in all threads: exact for integers, and always added in the same order for floats.
MAEDFER_DEVICE uint32_t block_sum(uint32_t value) {
    for (int lanes = 16; lanes > 0; lanes /= 2) value += shuffle_xor_word(value, lanes);
    block_barrier();
    if (thread_index() % 32 == 0) store_shared_word(shared_memory() + thread_index() / 32 * 4, value);
    block_barrier();
    value = 0;
    for (int warp = 0; warp < kLossThreads / 32; ++warp) value += load_shared_word(shared_memory() + warp * 4);
    return value;
}

MAEDFER_DEVICE float block_sum(float value) {
    for (int lanes = 16; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
    block_barrier();
    if (thread_index() % 32 == 0) store_shared_float(shared_memory() + thread_index() / 32 * 4, value);
    block_barrier();
    value = 0.0f;
    for (int warp = 0; warp < kLossThreads / 32; ++warp) value += load_shared_float(shared_memory() + warp * 4);
    return value;
}

template <typename T>
struct ReconstructionLossArguments {
    // [B, n, P * I], strides (prediction_clip, prediction_token, 1)
    const T *prediction;
    int64_t prediction_clip, prediction_token;
    // [B, I, T, H, W]
    const uint8_t *frames;
    Clips clips;
    Cube cube;
    // [B, n]
    const int64_t *index;
    int64_t index_clip, index_token, count;
    bool motion, normalize;
    // [B * n, 2]: squares of the first frame's and of the other frames' errors
    float *sums;
    // [B, n, P * I] contiguous, or null
    T *difference;
};

// A thread has PIXELS pixels of each of FRAMES frames, pixel = place * kLossThreads + thread.
template <typename T, int FRAMES, int PIXELS>
MAEDFER_KERNEL(kLossThreads, 1)
reconstruction_loss_kernel(const ReconstructionLossArguments<T> in) {
    const Clips &clips = in.clips;
    const Cube &cube = in.cube;
    const int64_t number = block_index(), clip = number / in.count, place = number % in.count;
    const int64_t token = in.index[clip * in.index_clip + place * in.index_token];
    const uint8_t *corner = in.frames + clips.corner(cube, clip, token);
    const T *prediction = in.prediction + clip * in.prediction_clip + place * in.prediction_token;
    const int pixels = cube.pixels();
    const float values = float(cube.values());
    float appearance = 0.0f, moved = 0.0f;
    for (int channel = 0; channel < clips.channels; ++channel) {
        const uint8_t *plane = corner + channel * clips.channel;
        int held[FRAMES][PIXELS];
        uint32_t sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = i * kLossThreads + thread_index();
            const int64_t at = pixel / cube.width * clips.row + pixel % cube.width * clips.column;
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) {
                held[t][i] = pixel < pixels ? plane[t * clips.frame + at] : 0;
                sum += held[t][i];
                squares += held[t][i] * held[t][i];
            }
        }
        float mean = 0.0f, scale = 1.0f / 255.0f;
        if (in.normalize) {
            sum = block_sum(sum);
            squares = block_sum(squares);
            mean = float(sum) / values;
            // values^2 times the variance, exact in 64 bits.
            const int64_t exact = int64_t(cube.values()) * squares - int64_t(sum) * sum;
            scale = 1.0f / (sqrtf(float(exact) / (values * (values - 1.0f))) + 1e-6f * 255.0f);
        }
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = i * kLossThreads + thread_index();
            if (pixel >= pixels) continue;
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) {
                const bool differs = in.motion && t > 0;
                // A difference of bytes is exact; so is a flat cube's, whose 1 / 1e-6 would blow up a rounding.
                const float target = (differs ? float(held[t][i] - held[0][i]) : float(held[t][i]) - mean) * scale;
                const int at = (t * pixels + pixel) * clips.channels + channel;
                const float error = widened(prediction[at]) - target;
                if (in.difference) in.difference[number * cube.values() * clips.channels + at] = rounded<T>(error);
                if (t == 0) {
                    appearance += error * error;
                } else {
                    moved += error * error;
                }
            }
        }
    }
    appearance = block_sum(appearance);
    moved = block_sum(moved);
    if (thread_index() == 0) {
        in.sums[2 * number] = appearance;
        in.sums[2 * number + 1] = moved;
    }
}

}  // namespace maedfer
