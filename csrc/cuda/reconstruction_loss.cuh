// Masked appearance-motion loss from bytes on a GPU: a block a token, its cube read once into registers.
#pragma once

#include <cstdint>

#include "../cubes.h"
#include "floats.cuh"

namespace maedfer {

constexpr int LOSS_THREADS = 128;

// The sum over a block, the same in all threads. Sums of integers have one value in any order; those of floats are
// always added in the same order.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T *shared) {
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int warp = 1; warp < LOSS_THREADS / 32; ++warp) value += shared[warp];
    return value;
}

// frames [B, I, T, H, W] uint8; prediction [B, n, P * I], strides (prediction_clip, prediction_token, 1); sums [B * n, 2]
// squares of the first frame's and of the other frames' errors; difference [B, n, P * I] contiguous, or null.
// A thread has PIXELS pixels of each of FRAMES frames, pixel = place * LOSS_THREADS + thread.
template <typename T, int FRAMES, int PIXELS>
__global__ void __launch_bounds__(LOSS_THREADS)
    reconstruction_loss_kernel(const T *__restrict__ prediction, int64_t prediction_clip, int64_t prediction_token,
                               const uint8_t *__restrict__ frames, Clips clips, Cube cube,
                               const int64_t *__restrict__ index, int64_t index_clip, int64_t index_token,
                               int64_t count, bool motion, bool normalize, float *__restrict__ sums,
                               T *__restrict__ difference) {
    __shared__ unsigned int whole[LOSS_THREADS / 32];
    __shared__ float parts[LOSS_THREADS / 32];
    const int64_t number = blockIdx.x, clip = number / count, place = number % count;
    const uint8_t *corner = frames + clips.corner(cube, clip, index[clip * index_clip + place * index_token]);
    prediction += clip * prediction_clip + place * prediction_token;
    const int pixels = cube.pixels();
    const float values = float(cube.values());
    float appearance = 0.0f, moved = 0.0f;
    for (int channel = 0; channel < clips.channels; ++channel) {
        const uint8_t *plane = corner + channel * clips.channel;
        int held[FRAMES][PIXELS];
        unsigned int sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = i * LOSS_THREADS + threadIdx.x;
            const int64_t at = pixel / cube.width * clips.row + pixel % cube.width * clips.column;
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) {
                held[t][i] = pixel < pixels ? plane[t * clips.frame + at] : 0;
                sum += held[t][i];
                squares += held[t][i] * held[t][i];
            }
        }
        float mean = 0.0f, scale = 1.0f / 255.0f;
        if (normalize) {
            sum = block_sum(sum, whole);
            squares = block_sum(squares, whole);
            mean = float(sum) / values;
            // values^2 times the variance, exact in 64 bits.
            const long long exact = (long long)cube.values() * squares - (long long)sum * sum;
            scale = 1.0f / (sqrtf(float(exact) / (values * (values - 1.0f))) + 1e-6f * 255.0f);
        }
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = i * LOSS_THREADS + threadIdx.x;
            if (pixel >= pixels) continue;
#pragma unroll
            for (int t = 0; t < FRAMES; ++t) {
                const bool differs = motion && t > 0;
                // A difference of bytes is exact; so is a flat cube's, whose 1 / 1e-6 would blow up a rounding.
                const float target = (differs ? float(held[t][i] - held[0][i]) : float(held[t][i]) - mean) * scale;
                const int at = (t * pixels + pixel) * clips.channels + channel;
                const float error = widened(prediction[at]) - target;
                if (difference) difference[number * cube.values() * clips.channels + at] = rounded<T>(error);
                if (t == 0) appearance += error * error;
                else moved += error * error;
            }
        }
    }
    appearance = block_sum(appearance, parts);
    moved = block_sum(moved, parts);
    if (threadIdx.x == 0) {
        sums[2 * number] = appearance;
        sums[2 * number + 1] = moved;
    }
}

}  // namespace maedfer
