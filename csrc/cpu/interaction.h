// The folded local-global interaction on a CPU, with its residual and the LayerNorm that follows.
//
//     xhat = (x - mean) / std;   p = softmax over m of (xhat A^T + a), for each head;   y = x + p V;   n = LN(y)
//
// x are the local tokens of the stream z [B, M, S, C], rows 1 and up of each region; row 0 of y is the representative
// token s. Work is spread by chunks of a clip's local tokens, and for sums over tokens by blocks of channels, so that
// results are the same on any number of threads.
#pragma once

#include "matrix.h"

namespace maedfer {

// Local tokens and channels of a task.
constexpr int64_t interaction_chunk = 48, interaction_block = 64;

// [B, M, S, C], steps in elements; channels are adjacent. Of [B, M, C], there is no step between rows.
struct Stream {
    void *data;
    Element type;
    int64_t clip, region, row;
};

// A or V: [B, H, M, C], steps in elements; channels are adjacent.
struct Keys {
    void *data;
    Element type;
    int64_t clip, head, key;
};

struct InteractionSizes {
    int64_t clips, regions, rows, heads, channels;

    MAEDFER_INLINED int64_t tokens() const { return regions * (rows - 1); }
    MAEDFER_INLINED int64_t keys() const { return heads * regions; }
    MAEDFER_INLINED int64_t chunks() const { return (tokens() + interaction_chunk - 1) / interaction_chunk; }
    MAEDFER_INLINED int64_t blocks() const { return (channels + interaction_block - 1) / interaction_block; }
};

// Keys of a clip as products want them: by columns for the contraction over channels, by rows for that over keys.
struct PackedKeys {
    float *by_columns, *by_rows;
};

// The LayerNorm that follows; its eps is also that of the interaction's own.
struct NextNorm {
    const float *weight, *bias;
    float eps;
};

struct InteractionForward {
    InteractionSizes sizes;
    Stream z, s;
    Keys a, v;
    const float *offset;  // [B, H, M]
    NextNorm norm;
    Stream y, n;
    // Probabilities for the backward pass, in the type of V, or null: `p_clip` elements a clip, of which each chunk of
    // tokens has [H * M, its tokens] after those before it, an odd last number of tokens rounded up.
    void *p;
    int64_t p_clip;
};

struct InteractionBackward {
    InteractionSizes sizes;
    Stream g, z;
    Keys a, v;
    const void *p;
    int64_t p_clip;
    float eps;
    Stream dz, ds;
    Keys da, dv;
    float *doffset;  // [B, H, M]
    // Between both passes: gradients of scores in the type of products, [B, chunks, H * M, tokens of a chunk], their sums
    // over those tokens as they were before rounding, and mean and 1 / deviation of each token.
    float *dscore, *dscore_sums, *moments;
};

struct Interactions {
    // Packs a block of channels of a clip's A and V: the first by columns, the second by rows, or the other way round.
    void (*pack)(const InteractionSizes &sizes, const Keys &by_columns, const Keys &by_rows, int64_t clip,
                 int64_t block, const PackedKeys &packed);
    // Numbers of scratch that a chunk of tokens or a block of channels takes.
    int64_t (*scratch)(const InteractionSizes &sizes);
    void (*forward)(const InteractionForward &task, int64_t clip, int64_t chunk, const PackedKeys &packed,
                    float *scratch);
    void (*representatives)(const InteractionForward &task, int64_t clip);
    void (*backward)(const InteractionBackward &task, int64_t clip, int64_t chunk, const PackedKeys &packed,
                     float *scratch);
    void (*backward_representatives)(const InteractionBackward &task, int64_t clip);
    void (*key_gradients)(const InteractionBackward &task, int64_t clip, int64_t block, bool of_values, float *scratch);
};

void interaction_forward(const InteractionForward &task, int threads);
void interaction_backward(InteractionBackward task, int threads);

}  // namespace maedfer
