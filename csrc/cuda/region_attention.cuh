// Attention inside groups of up to 128 rows: out = softmax(q k^T / sqrt(D)) v for every group and head.
//
// A group's rows fill TILES tiles of 16: 101 rows take 112, where a power of two takes 128. One block holds q, k and v
// of a group and head in shared memory (of several, where groups are small), and each warp has 16 of the rows. Scores
// and probabilities stay in registers: no online softmax, no split over keys. Rows that a tile has too many are zeros
// in shared memory, and as keys their scores are -inf.
//
// The backward pass forms the probabilities again. A warp's rows give it dq; the rows of p and of ds that all warps
// have then meet in shared memory, those of ds in the place of k and v, for dv = p^T dout and dk = ds^T q, of which
// each warp has 16 rows again. Nothing is added atomically. Scores, softmax and sums are float32; operands of products
// are 16 bits wide.
#pragma once

#include <cstdint>

#include "device.h"
#include "launch.h"
#include "tile.h"

namespace maedfer {

struct RegionAttentionInputs {
    const char *q, *k, *v;  // [G, S, H * D], strides (group_stride, row_stride) in bytes
    int64_t group_stride, row_stride;
    uint32_t pairs;  // G * H
    int rows, heads;
    float scale;
};

struct RegionAttentionForward {
    RegionAttentionInputs in;
    char *out;  // [G, S, H * D] contiguous
};

struct RegionAttentionBackward {
    RegionAttentionInputs in;
    const char *dout;  // [G, S, H * D], strides (dout_group, dout_row) in bytes
    int64_t dout_group, dout_row;
    char *dq, *dk, *dv;  // [G, S, H * D], strides (gradient_group, gradient_row) in bytes
    int64_t gradient_group, gradient_row;
};

template <int TILES, int D>
struct RegionAttentionShape {
    static constexpr int kRows = 16 * TILES;
    // Pairs of a group and a head to a block: blocks of one warp would be too many and too short.
    static constexpr int kPairs = TILES == 1 ? 4 : TILES <= 3 ? 2 : 1;
    static constexpr int kPairThreads = 32 * TILES;
    static constexpr int kThreads = kPairs * kPairThreads;
    // For 16 warps to a multiprocessor, which leaves a thread 128 registers, so that one block's memory is read while
    // another's products run. With 8 tiles, one of them would spill.
    static constexpr int kBlocks = TILES == 8 ? 1 : 512 / kThreads;
    static constexpr int kTileBytes = kRows * D * 2;
    static constexpr int kPairBytes = 3 * kTileBytes;
    static constexpr int kSharedBytes = kPairs * kPairBytes;
};

// left right^T + start for a warp's 16 rows `left` and the 16 rows of a tile from `first` on: [16, 16]. `start` is the
// same for all of a row, given for the rows lane / 4 and lane / 4 + 8.
template <class T, int D>
MAEDFER_DEVICE void key_product(float (&result)[2][4], const float (&start)[2], const uint32_t (&left)[D / 16][4],
                                uint32_t tile, int first, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) result[0][i] = result[1][i] = start[i / 2];
#pragma unroll
    for (int depth = 0; depth < D / 16; ++depth) {
        uint32_t b[4];
        load_matrices(b, right_then_down<D>(tile, first, 16 * depth, lane));
        multiply_add<T>(result[0], left[depth], b[0], b[1]);
        multiply_add<T>(result[1], left[depth], b[2], b[3]);
    }
}

// sum += left right for `left` [16, 16] and the 16 rows of a tile from `first` on.
template <class T, int D>
MAEDFER_DEVICE void add_product(float (&sum)[D / 8][4], const uint32_t (&left)[4], uint32_t tile, int first, int lane) {
#pragma unroll
    for (int column = 0; column < D / 16; ++column) {
        uint32_t b[4];
        load_matrices_transposed(b, down_then_right<D>(tile, first, 16 * column, lane));
        multiply_add<T>(sum[2 * column], left, b[0], b[1]);
        multiply_add<T>(sum[2 * column + 1], left, b[2], b[3]);
    }
}

// Scores of a warp's 16 rows q with all keys, and of those exp((score - maximum) * scale) for the base 2, in place,
// with the sums for the rows lane / 4 and lane / 4 + 8.
template <class T, int TILES, int D>
MAEDFER_DEVICE void region_softmax(float (&score)[2 * TILES][4], float (&total)[2], const uint32_t (&q)[D / 16][4],
                                   uint32_t tiles, int k_row, int rows, float scale_log2, int lane) {
#pragma unroll
    for (int key = 0; key < TILES; ++key) {
        const float start[2] = {};
        float pair[2][4];
        key_product<T, D>(pair, start, q, tiles, k_row + 16 * key, lane);
#pragma unroll
        for (int i = 0; i < 8; ++i) score[2 * key + i / 4][i % 4] = pair[i / 4][i % 4];
    }
    float peak[2] = {-infinity(), -infinity()};
#pragma unroll
    for (int key = 0; key < 2 * TILES; ++key) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            // Only the last tile is not full.
            const bool present = key < 2 * TILES - 2 || 8 * key + lane % 4 * 2 + i % 2 < rows;
            score[key][i] = present ? score[key][i] : -infinity();
            peak[i / 2] = larger(peak[i / 2], score[key][i]);
        }
    }
    peak[0] = quad_max(peak[0]) * scale_log2;
    peak[1] = quad_max(peak[1]) * scale_log2;
    total[0] = total[1] = 0.0f;
#pragma unroll
    for (int key = 0; key < 2 * TILES; ++key) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            score[key][i] = exp2_fast(score[key][i] * scale_log2 - peak[i / 2]);
            total[i / 2] += score[key][i];
        }
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
}

// A warp's 16 rows of results, rounded, to rows `row_stride` bytes apart. They go through 16 rows of a tile that no
// warp has read since the last barrier.
template <class T, int D>
MAEDFER_DEVICE void write_rows(uint32_t tile, const float (&result)[D / 8][4], const float (&factor)[2], char *target,
                               int64_t row_stride, int first, int rows, int lane) {
#pragma unroll
    for (int column = 0; column < D / 8; ++column) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float *values = &result[column][2 * half];
            const uint32_t pair = pack<T>(values[0] * factor[half], values[1] * factor[half]);
            store_shared_word(pair_address<D>(tile, first + 8 * half, 8 * column, lane), pair);
        }
    }
    sync_warp();
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        const int row = first + (i * 32 + lane) / (D / 8), chunk = (i * 32 + lane) % (D / 8);
        if (row < rows) store(target + row * row_stride + chunk * 16, load_shared(tile + chunk_offset<D>(row, chunk)));
    }
}

template <class T, int TILES, int D>
MAEDFER_KERNEL((RegionAttentionShape<TILES, D>::kThreads), (RegionAttentionShape<TILES, D>::kBlocks))
region_attention_forward_kernel(const RegionAttentionForward arguments) {
    using Shape = RegionAttentionShape<TILES, D>;
    const RegionAttentionInputs &in = arguments.in;
    const int lane = thread_index() % 32, slot = thread_index() / Shape::kPairThreads;
    const int thread = thread_index() % Shape::kPairThreads, first = thread / 32 * 16;
    const uint32_t pair = block_index() * Shape::kPairs + slot;
    const uint32_t group = pair / in.heads, head = pair % in.heads;
    const int rows = pair < in.pairs ? in.rows : 0;
    const int64_t offset = rows > 0 ? group * in.group_stride + head * (D * 2) : 0;
    // q, k and v follow each other as one tile; these are the first rows of k and v.
    constexpr int kKey = Shape::kRows, kValue = 2 * Shape::kRows;
    const uint32_t tiles = shared_memory() + slot * Shape::kPairBytes;
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, 0, in.q + offset, in.row_stride, rows, thread);
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, kKey, in.k + offset, in.row_stride, rows, thread);
    copy_async_commit();
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, kValue, in.v + offset, in.row_stride, rows, thread);
    copy_async_commit();
    copy_async_wait<1>();
    block_barrier();

    uint32_t q[D / 16][4];
#pragma unroll
    for (int depth = 0; depth < D / 16; ++depth)
        load_matrices(q[depth], down_then_right<D>(tiles, first, 16 * depth, lane));
    float score[2 * TILES][4], total[2];
    region_softmax<T, TILES, D>(score, total, q, tiles, kKey, rows, in.scale * 1.4426950408889634f, lane);

    copy_async_wait<0>();
    block_barrier();
    float out[D / 8][4] = {};
#pragma unroll
    for (int key = 0; key < TILES; ++key) {
        uint32_t p[4];
        to_operand<T>(p, score[2 * key], score[2 * key + 1]);
        add_product<T, D>(out, p, tiles, kValue + 16 * key, lane);
    }
    const float factor[2] = {1.0f / total[0], 1.0f / total[1]};
    const int64_t out_row = static_cast<int64_t>(in.heads) * (D * 2);
    char *target = arguments.out + group * (in.rows * out_row) + head * (D * 2);
    write_rows<T, D>(tiles, out, factor, target, out_row, first, rows, lane);
}

template <int TILES, int D>
struct RegionAttentionBackwardShape : RegionAttentionShape<TILES, D> {
    using Forward = RegionAttentionShape<TILES, D>;
    // Columns of the tiles of p and ds; that of ds takes the place of k and v.
    static constexpr int kColumns = 128;
    static constexpr int kMatrixBytes = Forward::kRows * kColumns * 2;
    static_assert(kMatrixBytes <= 2 * Forward::kTileBytes, "k and v take as much room as ds");
    static constexpr int kPairBytes = 4 * Forward::kTileBytes + kMatrixBytes;
    static constexpr int kSharedBytes = Forward::kPairs * kPairBytes;
    // As many as leave a thread the registers it takes; with two of 7 tiles, 128 registers, some would spill.
    static constexpr int kBlocks = TILES >= 7 ? 1 : TILES >= 5 ? 2 : 512 / Forward::kThreads;
};

// 16 columns of a warp's 16 rows of p or ds, in the form of an operand, into the tile of all rows.
template <int COLUMNS>
MAEDFER_DEVICE void store_operand(uint32_t tile, const uint32_t (&a)[4], int row, int column, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
        store_shared_word(pair_address<COLUMNS>(tile, row + i % 2 * 8, column + i / 2 * 8, lane), a[i]);
}

// sum += rows `first` to `first` + 15 of matrix^T right, for a matrix of all queries' rows and the rows of a tile from
// `right_row` on: [16, D].
template <class T, int TILES, int D, int COLUMNS>
MAEDFER_DEVICE void add_transposed_product(float (&sum)[D / 8][4], uint32_t matrix, uint32_t right, int right_row,
                                           int first, int lane) {
#pragma unroll
    for (int query = 0; query < TILES; ++query) {
        uint32_t a[4];
        load_matrices_transposed(a, right_then_down<COLUMNS>(matrix, 16 * query, first, lane));
        add_product<T, D>(sum, a, right, right_row + 16 * query, lane);
    }
}

template <class T, int TILES, int D>
MAEDFER_KERNEL((RegionAttentionShape<TILES, D>::kThreads), (RegionAttentionBackwardShape<TILES, D>::kBlocks))
region_attention_backward_kernel(const RegionAttentionBackward arguments) {
    using Shape = RegionAttentionBackwardShape<TILES, D>;
    constexpr int kColumns = Shape::kColumns;
    const RegionAttentionInputs &in = arguments.in;
    const int lane = thread_index() % 32, slot = thread_index() / Shape::kPairThreads;
    const int thread = thread_index() % Shape::kPairThreads, first = thread / 32 * 16;
    const uint32_t pair = block_index() * Shape::kPairs + slot;
    const uint32_t group = pair / in.heads, head = pair % in.heads;
    const int rows = pair < in.pairs ? in.rows : 0;
    const int64_t column = head * (D * 2);
    const int64_t offset = rows > 0 ? group * in.group_stride + column : 0;
    const int64_t dout_offset = rows > 0 ? group * arguments.dout_group + column : 0;
    // q, dout, k and v follow each other as one tile; these are the first rows of the last three.
    constexpr int kGradient = Shape::kRows, kKey = 2 * Shape::kRows, kValue = 3 * Shape::kRows;
    const uint32_t tiles = shared_memory() + slot * Shape::kPairBytes, ds_tile = tiles + 2 * Shape::kTileBytes;
    const uint32_t p_tile = tiles + 4 * Shape::kTileBytes;
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, 0, in.q + offset, in.row_stride, rows, thread);
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, kKey, in.k + offset, in.row_stride, rows, thread);
    copy_async_commit();
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, kValue, in.v + offset, in.row_stride, rows, thread);
    copy_tile<Shape::kRows, D, Shape::kPairThreads>(tiles, kGradient, arguments.dout + dout_offset, arguments.dout_row,
                                                    rows, thread);
    copy_async_commit();
    copy_async_wait<1>();
    block_barrier();

    float p[2 * TILES][4], total[2];
    {
        uint32_t q[D / 16][4];
#pragma unroll
        for (int depth = 0; depth < D / 16; ++depth)
            load_matrices(q[depth], down_then_right<D>(tiles, first, 16 * depth, lane));
        region_softmax<T, TILES, D>(p, total, q, tiles, kKey, rows, in.scale * 1.4426950408889634f, lane);
    }
    const float inverse[2] = {1.0f / total[0], 1.0f / total[1]};
    copy_async_wait<0>();
    block_barrier();

    uint32_t ds_low[TILES][4];
    {
        uint32_t dout[D / 16][4];
#pragma unroll
        for (int depth = 0; depth < D / 16; ++depth)
            load_matrices(dout[depth], down_then_right<D>(tiles, kGradient + first, 16 * depth, lane));
        // dp once for the sums of p dp and once for ds: all of it would not fit the registers beside p.
        const float none[2] = {};
        float share[2] = {};
#pragma unroll
        for (int key = 0; key < TILES; ++key) {
            float dp[2][4];
            key_product<T, D>(dp, none, dout, tiles, kValue + 16 * key, lane);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float &value = p[2 * key + i / 4][i % 4];
                value *= inverse[i % 4 / 2];
                share[i % 4 / 2] -= value * dp[i / 4][i % 4];
            }
            uint32_t p_low[4];
            to_operand<T>(p_low, p[2 * key], p[2 * key + 1]);
            store_operand<kColumns>(p_tile, p_low, first, 16 * key, lane);
        }
        share[0] = quad_sum(share[0]);
        share[1] = quad_sum(share[1]);
        // Only to keep the compiler from loading the operands of both products at once.
        block_barrier();
#pragma unroll
        for (int key = 0; key < TILES; ++key) {
            float ds[2][4];
            key_product<T, D>(ds, share, dout, tiles, kValue + 16 * key, lane);
#pragma unroll
            for (int i = 0; i < 8; ++i) ds[i / 4][i % 4] *= p[2 * key + i / 4][i % 4];
            to_operand<T>(ds_low[key], ds[0], ds[1]);
        }
    }
    float dq[D / 8][4] = {};
#pragma unroll
    for (int key = 0; key < TILES; ++key) add_product<T, D>(dq, ds_low[key], tiles, kKey + 16 * key, lane);
    block_barrier();
    const int64_t target = group * arguments.gradient_group + column;
    const float scale[2] = {in.scale, in.scale}, one[2] = {1.0f, 1.0f};
    // Through the place where this warp's rows of ds come next.
    write_rows<T, D>(ds_tile + first * (kColumns - D) * 2, dq, scale, arguments.dq + target, arguments.gradient_row,
                     first, rows, lane);
    sync_warp();
#pragma unroll
    for (int key = 0; key < TILES; ++key) store_operand<kColumns>(ds_tile, ds_low[key], first, 16 * key, lane);
    block_barrier();
    float dv[D / 8][4] = {}, dk[D / 8][4] = {};
    add_transposed_product<T, TILES, D, kColumns>(dv, p_tile, tiles, kGradient, first, lane);
    add_transposed_product<T, TILES, D, kColumns>(dk, ds_tile, tiles, 0, first, lane);
    block_barrier();
    write_rows<T, D>(tiles, dk, scale, arguments.dk + target, arguments.gradient_row, first, rows, lane);
    write_rows<T, D>(tiles + Shape::kTileBytes, dv, one, arguments.dv + target, arguments.gradient_row, first, rows,
                     lane);
}

}  // namespace maedfer
