// What the compiled kernels offer to the host: plain functions over pointers, sizes in elements and a stream.
//
// Every function returns a cudaError_t: 0, an error of the launch, or kUnsupported and kMisaligned, for which nothing
// was launched. Tensors are in one 16-bit type unless it is said otherwise, channels adjacent. Pointers are to be
// multiples of 16 bytes and strides of 8 elements.
#pragma once

#include <cstdint>

#include "../element.h"

namespace maedfer {

// Values of cudaErrorNotSupported and cudaErrorMisalignedAddress.
constexpr int kUnsupported = 801;
constexpr int kMisaligned = 716;

// Self-attention inside groups of rows: out = softmax(q k^T / sqrt(head_dim)) v for every group and head.
struct RegionAttention {
    Element element;
    int64_t groups, rows, heads, head_dim;
    // [groups, rows, heads * head_dim] each, as views of one packed product.
    const void *q, *k, *v;
    int64_t group_stride, row_stride;
};

// Whether there are kernels for such groups. They take up to 48 KB of shared memory forward and 96 KB backward.
bool region_attention_supported(int64_t rows, int64_t head_dim);

// out: [groups, rows, heads * head_dim] contiguous.
int region_attention_forward(const RegionAttention &inputs, void *out, void *stream);

// dout: [groups, rows, heads * head_dim], strides (dout_group, dout_row, 1). dq, dk and dv: views of one packed
// gradient like q, k and v, strides (gradient_group, gradient_row, 1).
int region_attention_backward(const RegionAttention &inputs, const void *dout, int64_t dout_group, int64_t dout_row,
                              void *dq, void *dk, void *dv, int64_t gradient_group, int64_t gradient_row, void *stream);

// The folded local-global interaction with its residual and the LayerNorm that follows (local_global_interaction.cuh).
struct LocalGlobalInteraction {
    Element element;
    int64_t clips, regions, rows, heads, channels;
    // [clips, regions, rows, channels]; rows 0 are not read.
    const void *z;
    int64_t z_clip, z_region, z_row;
    // [clips, regions, channels]
    const void *s;
    int64_t s_clip, s_region;
    // A: [clips, heads, regions, channels]
    const void *matrix;
    int64_t matrix_clip, matrix_head, matrix_key;
    // a: [clips, heads, regions] in float32, of any strides
    const void *offset;
    int64_t offset_clip, offset_head, offset_key;
    // V: [clips, heads, regions, channels]
    const void *values;
    int64_t values_clip, values_head, values_key;
    // [channels] each: the next LayerNorm, in float32 or, both, in the type of the others
    const void *weight, *shift;
    bool weights_float32;
    float eps;
    // [clips, regions, rows, channels] contiguous
    void *y, *n;
    // [clips, regions * rows, columns] contiguous (see LocalGlobalInteractionPlan), or null
    void *p;
};

struct LocalGlobalInteractionPlan {
    bool supported;
    // Keys of all heads, heads and keys of a head padded to powers of two; at least 16.
    int64_t columns;
    // Pairs of warps in a block, each with tiles of 16 rows of its own.
    int teams;
    int64_t shared_bytes;
};

// How sizes run where a block may take `shared_limit` bytes of shared memory (cudaDevAttrMaxSharedMemoryPerBlockOptin:
// 166912 on sm_80, 232448 on sm_90 and sm_100). Needs no GPU.
LocalGlobalInteractionPlan local_global_interaction_plan(int64_t regions, int64_t heads, int64_t channels,
                                                         int64_t shared_limit);

// Blocks that share a clip's tiles so that `processors` are busy for the shortest time. Needs no GPU.
int64_t local_global_interaction_walkers(int64_t clips, int64_t rows_of_clip, int teams, int processors);

// walkers: blocks to a clip; 0 chooses by the device.
int local_global_interaction_forward(const LocalGlobalInteraction &arguments, int64_t walkers, void *stream);

}  // namespace maedfer
