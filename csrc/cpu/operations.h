// Operations on a CPU, by pointers and sizes.
#pragma once

#include <cstdint>

#include "../cubes.h"
#include "../element.h"

namespace maedfer {

// Normalised cubes of the wanted tokens, and no others: out[b, k, i, t, h, w] = frames * scale[i] + shift[i].
//   frames: uint8 or float32 clips; index: [B, n], strides index_clip and index_token; out: [B, n, I * cube] contiguous.
void tubelets(const void *frames, Element frames_type, const Clips &clips, const Cube &cube, const int64_t *index,
              int64_t index_clip, int64_t index_token, int64_t batch, int64_t count, const float *scale,
              const float *shift, void *out, Element out_type, int threads);

struct Losses {
    double appearance, motion;
};

// Mean squared errors of the first frames and of the other frames of the wanted tokens' cubes.
//   prediction: [B, n, frame * row * column * channel], strides prediction_clip and prediction_token; difference:
//   prediction - target, contiguous, or null. `maximum` is the value of white.
Losses reconstruction_loss(const void *prediction, Element type, int64_t prediction_clip, int64_t prediction_token,
                           const void *frames, Element frames_type, const Clips &clips, const Cube &cube,
                           const int64_t *index, int64_t index_clip, int64_t index_token, int64_t batch, int64_t count,
                           bool motion, bool normalize, float maximum, void *difference, int threads);

}  // namespace maedfer
