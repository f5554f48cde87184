// Operations on a GPU, by pointers, sizes and the stream. Return a cudaError_t; nothing is waited for.
#pragma once

#include <cstdint>

#include "../cubes.h"
#include "../element.h"

namespace maedfer {

// As on the CPU (cpu/operations.h), from uint8 frames.
int tubelets_cuda(const void *frames, const Clips &clips, const Cube &cube, const int64_t *index, int64_t index_clip,
                  int64_t index_token, int64_t batch, int64_t count, const float *scale, const float *shift, void *out,
                  Element out_type, void *stream);

// Cubes of which frames and of how many pixels the kernel of the loss holds in registers.
constexpr int LOSS_MOST_FRAMES = 4, LOSS_MOST_PIXELS = 1024;

// Sums of squares [B * n, 2] of the first frame's errors and of the other frames', from uint8 frames.
int reconstruction_loss_cuda(const void *prediction, Element type, int64_t prediction_clip, int64_t prediction_token,
                             const void *frames, const Clips &clips, const Cube &cube, const int64_t *index,
                             int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, bool motion,
                             bool normalize, float *sums, void *difference, void *stream);

}  // namespace maedfer
