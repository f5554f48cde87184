// Operations on a CPU, by pointers and sizes.
#pragma once

#include <array>
#include <cstdint>

#include "../cubes.h"
#include "../element.h"

namespace maedfer {

// Normalised cubes of the wanted tokens, and no others: out[b, k, i, t, h, w] = frames * scale[i] + shift[i].
//   frames: uint8 or float32 clips; index: [B, n], strides index_clip and index_token; out: [B, n, I * cube], packed.
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

// What follows gives the bytes of maedfer/data/augment/torch_pictures.py: the order of operations and their roundings are
// part of it, and setup.py sees to it that none are joined (-ffp-contract=off).

// Pictures of a clip side by side in memory: [rows, columns, lanes], where a lane is a channel of a frame, [C, T]. What
// is done alike to all frames has the same weights in all lanes.
struct Pictures {
    int64_t rows, columns, lanes;
};

// uint8 frames [T, C, H, W] of any strides (in this order) to pictures side by side.
void interleave(const uint8_t *in, const std::array<int64_t, 4> &strides, const Pictures &size, int64_t channels,
                uint8_t *out);

// Bilinear with antialias, columns before rows, like PyTorch's own of uint8; `size` is that of the result.
//   in: rows of in_row bytes, of which in_columns pixels are read; planar: out is [lanes, rows, columns].
void resize(const uint8_t *in, int64_t in_row, int64_t in_rows, int64_t in_columns, const Pictures &size, bool mirror,
            bool planar, uint8_t *out);

// Bilinear samples at (x, y) = matrix (2 x 3) times (column, row, 1); fill: [lanes], what there is outside.
void affine(const uint8_t *in, const Pictures &size, const std::array<double, 6> &matrix, const float *fill,
            uint8_t *out);

// Bicubic samples at such places, as PIL's: `fill` in all lanes outside.
void affine_bicubic(const uint8_t *in, const Pictures &size, const std::array<double, 6> &matrix, uint8_t fill,
                    uint8_t *out);

// out = tables[lane, in].
void look_up(const uint8_t *in, const Pictures &size, const uint8_t *tables, uint8_t *out);

// Adds to counts: [lanes, 256].
void histograms(const uint8_t *in, const Pictures &size, int32_t *counts);

// Lowers `smallest` and raises `largest`, [lanes] each, to the values that occur.
void extremes(const uint8_t *in, const Pictures &size, uint8_t *smallest, uint8_t *largest);

// Adds the integer parts of the grey values of every frame to sums: [T]. Three channels.
void grey_sums(const uint8_t *in, const Pictures &size, int64_t *sums);

// factor * picture + (1 - factor) * its grey. Three channels.
void saturate(const uint8_t *in, const Pictures &size, double factor, uint8_t *out);

// factor * picture + (1 - factor) * the picture smoothed over 3 x 3 pixels; borders stay.
void sharpen(const uint8_t *in, const Pictures &size, double factor, uint8_t *out);

}  // namespace maedfer
