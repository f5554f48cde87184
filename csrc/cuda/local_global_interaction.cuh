// The folded local-global interaction with its residual and the LayerNorm that follows:
//
//   xhat = (x - mean) / std;   p = softmax over m of (xhat A^T + a), for each head;   y = x + p V;   n = LN(y)
//
// x are the local tokens of the stream z [B, M, S, C], rows 1 and up of each region; row 0 of y is the representative
// token s as it is given. A and V [H * M, C] belong to a clip, and so each block keeps those of one clip in shared
// memory while it walks over tiles of the clip's R = M * S rows.
//
// A team of two warps takes 16 rows at a time, apart from the other teams, so that one team's memory is read while
// another's products run. Its tile holds x, then y in the same place, then, from where y was taken, the next x, copied
// while n is formed. Each of the two warps normalises 8 of the rows, forms the scores of every second 16 keys, and adds
// p V to half of the channels. Keys are columns: heads and keys of a head are padded to powers of two, at least 16 in
// all, and at most 64. Statistics, softmax and sums are float32; operands of products are 16 bits wide.
#pragma once

#include <cstdint>

#include "device.h"
#include "tile.h"

namespace maedfer {

struct LocalGlobalInteractionArguments {
    const char *z, *s;  // [B, M, S, C] and [B, M, C]; all strides in bytes
    int64_t z_clip, z_region, z_row, s_clip, s_region;
    const char *matrix, *offset, *values;  // A [B, H, M, C], a [B, H, M] in float32, V [B, H, M, C]
    int64_t matrix_clip, matrix_head, matrix_key, offset_clip, offset_head, offset_key;
    int64_t values_clip, values_head, values_key;
    const char *weight, *shift;  // [C] in float32 or in the type of z
    char *y, *n;                 // [B, R, C] contiguous
    char *p;                     // [B, R, columns] contiguous, or null
    int regions, rows, heads, keys, columns, walkers;
    bool weights_float32;
    float eps;
};

template <int C>
struct LocalGlobalInteractionShape {
    static constexpr int kTileRows = 16;
    static constexpr int kTeamThreads = 64;
    static constexpr int kMostTeams = 4;
    static constexpr int kMostColumns = 64;
    // A team's memory: x or y, p, and the mean and 1 / std of each row of x.
    static constexpr int kTileBytes = kTileRows * C * 2;
    static constexpr int kProbabilityBytes = kTileRows * kMostColumns * 2;
    static constexpr int kTeamBytes = kTileBytes + kProbabilityBytes + kTileRows * 8;
    static constexpr int64_t shared_bytes(int64_t columns, int teams) {
        return 2 * columns * C * 2 + kMostColumns * 4 + teams * kTeamBytes;
    }
    // Chunks of a row to a lane, the last one not of all lanes where they do not divide.
    static constexpr int kLaneChunks = (C / 8 + 31) / 32;
};

// Begin to copy A or V of a clip into the rows of a tile, zeros for keys that pad.
template <int C>
MAEDFER_DEVICE void copy_keys(uint32_t tile, const char *source, int64_t head_stride, int64_t key_stride,
                              const LocalGlobalInteractionArguments &arguments) {
    for (int i = thread_index(); i < arguments.columns * (C / 8); i += block_size()) {
        const int column = i / (C / 8), chunk = i % (C / 8);
        const int head = column / arguments.keys, key = column % arguments.keys;
        const bool present = head < arguments.heads && key < arguments.regions;
        const char *from = present ? source + head * head_stride + key * key_stride + chunk * 16 : source;
        copy_async(tile + chunk_offset<C>(column, chunk), from, present);
    }
}

// The clip's row `row` of x, null past the last one.
MAEDFER_DEVICE const char *source_row(const char *z, const char *s, int row,
                                      const LocalGlobalInteractionArguments &arguments) {
    const int region = row / arguments.rows, line = row % arguments.rows;
    if (region >= arguments.regions) return nullptr;
    return line == 0 ? s + region * arguments.s_region : z + region * arguments.z_region + line * arguments.z_row;
}

// This lane's chunks of row `source` into row `row` of the team's tile.
template <int C>
MAEDFER_DEVICE void copy_row(uint32_t tile, int row, const char *source, const char *elsewhere, int lane) {
#pragma unroll
    for (int i = 0; i < LocalGlobalInteractionShape<C>::kLaneChunks; ++i) {
        const int chunk = i * 32 + lane;
        if (chunk < C / 8)
            copy_async(tile + chunk_offset<C>(row, chunk), source ? source + chunk * 16 : elsewhere, source != nullptr);
    }
}

// This lane's chunks of a row of the team's tile, zeros where it has none.
template <class T, int C>
MAEDFER_DEVICE void load_row(float (&x)[LocalGlobalInteractionShape<C>::kLaneChunks * 8],
                             Vector (&bits)[LocalGlobalInteractionShape<C>::kLaneChunks], uint32_t tile, int row,
                             int lane) {
#pragma unroll
    for (int i = 0; i < LocalGlobalInteractionShape<C>::kLaneChunks; ++i) {
        const int chunk = i * 32 + lane;
        bits[i] = Vector{{0, 0, 0, 0}};
        if (chunk < C / 8) bits[i] = load_shared(tile + chunk_offset<C>(row, chunk));
#pragma unroll
        for (int word = 0; word < 4; ++word)
            unpack<T>(bits[i].word[word], x[8 * i + 2 * word], x[8 * i + 2 * word + 1]);
    }
}

// Mean and 1 / std over the row whose chunks the lanes of a warp hold.
template <int C>
MAEDFER_DEVICE void row_statistics(const float (&x)[LocalGlobalInteractionShape<C>::kLaneChunks * 8], float &mean,
                                   float &rstd, float eps, int lane) {
    constexpr int kLaneChunks = LocalGlobalInteractionShape<C>::kLaneChunks;
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 8 * kLaneChunks; ++i) sum += x[i];
    mean = warp_sum(sum) * (1.0f / C);
#pragma unroll
    for (int i = 0; i < 8 * kLaneChunks; ++i) {
        const float centred = i / 8 * 32 + lane < C / 8 ? x[i] - mean : 0.0f;
        squares += centred * centred;
    }
    rstd = inverse_sqrt(warp_sum(squares) * (1.0f / C) + eps);
}

// Reduce two rows' scores [2][2][2] (row, matrix of 8 keys, neighbour) over the keys of each head, every score becoming
// the result of its head.
template <class Reduce>
MAEDFER_DEVICE void reduce_heads(float (&x)[2][2][2], int keys, Reduce reduce) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        if (keys >= 2) {
#pragma unroll
            for (int matrix = 0; matrix < 2; ++matrix) {
                float (&pair)[2] = x[row][matrix];
                pair[0] = reduce(pair[0], pair[1]);
                if (keys >= 4) pair[0] = reduce(pair[0], shuffle_xor(pair[0], 1));
                if (keys >= 8) pair[0] = reduce(pair[0], shuffle_xor(pair[0], 2));
                pair[1] = pair[0];
            }
        }
        if (keys >= 16) {
            const float both = reduce(x[row][0][0], x[row][1][0]);
            x[row][0][0] = x[row][0][1] = x[row][1][0] = x[row][1][1] = both;
        }
    }
}

template <class T, int C>
MAEDFER_KERNEL((LocalGlobalInteractionShape<C>::kMostTeams * LocalGlobalInteractionShape<C>::kTeamThreads), 1)
local_global_interaction_forward_kernel(const LocalGlobalInteractionArguments arguments) {
    using Shape = LocalGlobalInteractionShape<C>;
    constexpr int kLaneChunks = Shape::kLaneChunks, kTileRows = Shape::kTileRows, kMostColumns = Shape::kMostColumns;
    static_assert(C % 128 == 0, "half of the channels in steps of 64");
    const int team = thread_index() / Shape::kTeamThreads, member = thread_index() / 32 % 2;
    const int lane = thread_index() % 32;
    const int64_t clip = block_index() / static_cast<uint32_t>(arguments.walkers);
    const int walker = static_cast<int>(block_index() % static_cast<uint32_t>(arguments.walkers));
    const int columns = arguments.columns, keys = arguments.keys;
    const int clip_rows = arguments.regions * arguments.rows, tiles = (clip_rows + kTileRows - 1) / kTileRows;
    const uint32_t a_tile = shared_memory(), v_tile = a_tile + columns * (C * 2), bias = v_tile + columns * (C * 2);
    const uint32_t tile = bias + kMostColumns * 4 + team * Shape::kTeamBytes;
    const uint32_t p_tile = tile + Shape::kTileBytes, statistics = p_tile + Shape::kProbabilityBytes;
    const char *z = arguments.z + clip * arguments.z_clip;
    const char *s = arguments.s + clip * arguments.s_clip;

    const int step = arguments.walkers * (block_size() / Shape::kTeamThreads);
    int number = walker * (block_size() / Shape::kTeamThreads) + team;
    copy_keys<C>(a_tile, arguments.matrix + clip * arguments.matrix_clip, arguments.matrix_head, arguments.matrix_key,
                 arguments);
    copy_keys<C>(v_tile, arguments.values + clip * arguments.values_clip, arguments.values_head, arguments.values_key,
                 arguments);
    for (int i = 0; i < 8; ++i) {
        const int row = member * 8 + i;
        copy_row<C>(tile, row, source_row(z, s, number * kTileRows + row, arguments), arguments.s, lane);
    }
    copy_async_commit();
    for (int column = thread_index(); column < columns; column += block_size()) {
        const int head = column / keys, key = column % keys;
        const bool present = head < arguments.heads && key < arguments.regions;
        const char *from =
            arguments.offset + clip * arguments.offset_clip + head * arguments.offset_head + key * arguments.offset_key;
        store_shared_float(bias + column * 4, present ? load_float(from) : 0.0f);
    }
    float weight[8 * kLaneChunks], shift[8 * kLaneChunks];
#pragma unroll
    for (int i = 0; i < 8 * kLaneChunks; ++i) {
        const int channel = (i / 8 * 32 + lane) * 8 + i % 8;
        weight[i] = shift[i] = 0.0f;
        if (channel >= C) continue;
        if (arguments.weights_float32) {
            weight[i] = load_float(arguments.weight + channel * 4);
            shift[i] = load_float(arguments.shift + channel * 4);
        } else {
            weight[i] = to_float<T>(load_element(arguments.weight + channel * 2));
            shift[i] = to_float<T>(load_element(arguments.shift + channel * 2));
        }
    }
    copy_async_wait<0>();
    block_barrier();

    for (; number < tiles; number += step) {
        // Rows as this very lane copied them: their statistics need nobody else.
        copy_async_wait<0>();
#pragma unroll 4
        for (int i = 0; i < 8; ++i) {
            float x[8 * kLaneChunks], mean, rstd;
            Vector bits[kLaneChunks];
            load_row<T, C>(x, bits, tile, member * 8 + i, lane);
            row_statistics<C>(x, mean, rstd, arguments.eps, lane);
            if (lane == 0) {
                store_shared_float(statistics + (member * 8 + i) * 8, mean);
                store_shared_float(statistics + (member * 8 + i) * 8 + 4, rstd);
            }
        }
        barrier(1 + team, Shape::kTeamThreads);

        // Scores of this warp's columns: 16 from 16 * member on, and 16 more from there + 32 on.
        float score[2][2][4] = {};
        const float mean[2] = {load_shared_float(statistics + lane / 4 * 8),
                               load_shared_float(statistics + (lane / 4 + 8) * 8)};
        const float rstd[2] = {load_shared_float(statistics + lane / 4 * 8 + 4),
                               load_shared_float(statistics + (lane / 4 + 8) * 8 + 4)};
#pragma unroll 8
        for (int depth = 0; depth < C / 16; ++depth) {
            uint32_t x[4];
            load_matrices(x, down_then_right<C>(tile, 0, 16 * depth, lane));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float low, high;
                unpack<T>(x[i], low, high);
                x[i] = pack<T>((low - mean[i % 2]) * rstd[i % 2], (high - mean[i % 2]) * rstd[i % 2]);
            }
#pragma unroll
            for (int unit = 0; unit < 2; ++unit) {
                const int column = 16 * member + 32 * unit;
                if (column < columns) {
                    uint32_t b[4];
                    load_matrices(b, right_then_down<C>(a_tile, column, 16 * depth, lane));
                    multiply_add<T>(score[unit][0], x, b[0], b[1]);
                    multiply_add<T>(score[unit][1], x, b[2], b[3]);
                }
            }
        }
        bool local[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            local[half] = (number * kTileRows + lane / 4 + 8 * half) % arguments.rows != 0;
#pragma unroll
        for (int unit = 0; unit < 2; ++unit) {
            const int first = 16 * member + 32 * unit;
            if (first >= columns) continue;
            float x[2][2][2], other[2][2][2];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int row = i / 4, matrix = i / 2 % 2, neighbour = i % 2;
                const int column = first + 8 * matrix + lane % 4 * 2 + neighbour;
                const float whole = score[unit][matrix][2 * row + neighbour] + load_shared_float(bias + column * 4);
                x[row][matrix][neighbour] =
                    column % keys < arguments.regions ? whole * 1.4426950408889634f : -infinity();
                other[row][matrix][neighbour] = x[row][matrix][neighbour];
            }
            reduce_heads(other, keys, [](float left, float right) { return larger(left, right); });
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float &value = x[i / 4][i / 2 % 2][i % 2];
                float &peak = other[i / 4][i / 2 % 2][i % 2];
                value = exp2_fast(value - peak);
                peak = value;
            }
            reduce_heads(other, keys, [](float left, float right) { return left + right; });
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = i / 2, matrix = i % 2, column = first + 8 * matrix + lane % 4 * 2;
                float pair[2];
#pragma unroll
                for (int neighbour = 0; neighbour < 2; ++neighbour) {
                    // Representative tokens take no part, and heads that pad have no values.
                    const bool counts = local[row] && (column + neighbour) / keys < arguments.heads;
                    pair[neighbour] = counts ? x[row][matrix][neighbour] / other[row][matrix][neighbour] : 0.0f;
                }
                store_shared_word(pair_address<kMostColumns>(p_tile, 8 * row, first + 8 * matrix, lane),
                                  pack<T>(pair[0], pair[1]));
            }
        }
        barrier(1 + team, Shape::kTeamThreads);

        uint32_t p[kMostColumns / 16][4];
#pragma unroll
        for (int part = 0; part < kMostColumns / 16; ++part)
            if (16 * part < columns) load_matrices(p[part], down_then_right<kMostColumns>(p_tile, 0, 16 * part, lane));
        if (arguments.p) {
            char *target = arguments.p + clip * clip_rows * (columns * 2);
            for (int i = lane; i < columns; i += 32) {
                const int row = member * 8 + i / (columns / 8), chunk = i % (columns / 8);
                const int64_t whole_row = number * kTileRows + row;
                if (whole_row < clip_rows)
                    store(target + whole_row * (columns * 2) + chunk * 16,
                          load_shared(p_tile + chunk_offset<kMostColumns>(row, chunk)));
            }
        }
#pragma unroll 1
        for (int begin = member * (C / 2); begin < (member + 1) * (C / 2); begin += 64) {
            float sum[8][4] = {};
#pragma unroll
            for (int part = 0; part < kMostColumns / 16; ++part) {
                if (16 * part >= columns) continue;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    uint32_t b[4];
                    load_matrices_transposed(b, down_then_right<C>(v_tile, 16 * part, begin + 16 * i, lane));
                    multiply_add<T>(sum[2 * i], p[part], b[0], b[1]);
                    multiply_add<T>(sum[2 * i + 1], p[part], b[2], b[3]);
                }
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const int half = i % 2;
                const uint32_t place = pair_address<C>(tile, 8 * half, begin + i / 2 * 8, lane);
                float low, high;
                unpack<T>(load_shared_word(place), low, high);
                store_shared_word(place, pack<T>(low + sum[i / 2][2 * half], high + sum[i / 2][2 * half + 1]));
            }
        }
        barrier(1 + team, Shape::kTeamThreads);

#pragma unroll 2
        for (int i = 0; i < 8; ++i) {
            const int row = member * 8 + i;
            const int64_t whole_row = number * kTileRows + row;
            float y[8 * kLaneChunks], y_mean, y_rstd;
            Vector bits[kLaneChunks];
            load_row<T, C>(y, bits, tile, row, lane);
            row_statistics<C>(y, y_mean, y_rstd, arguments.eps, lane);
            // y is in registers, as its sums show: its place is free for the next tile's row.
            const int next = static_cast<int>(whole_row) + step * kTileRows;
            copy_row<C>(tile, row, source_row(z, s, next, arguments), arguments.s, lane);
            if (whole_row >= clip_rows) continue;
#pragma unroll
            for (int part = 0; part < kLaneChunks; ++part) {
                const int chunk = part * 32 + lane;
                if (chunk >= C / 8) continue;
                const int64_t place = (clip * clip_rows + whole_row) * (C * 2) + chunk * 16;
                Vector normed;
#pragma unroll
                for (int word = 0; word < 4; ++word) {
                    const int j = 8 * part + 2 * word;
                    normed.word[word] = pack<T>((y[j] - y_mean) * y_rstd * weight[j] + shift[j],
                                                (y[j + 1] - y_mean) * y_rstd * weight[j + 1] + shift[j + 1]);
                }
                store(arguments.y + place, bits[part]);
                store(arguments.n + place, normed);
            }
        }
        copy_async_commit();
    }
    // The last tiles' successors are zeros, on their way even so.
    copy_async_wait<0>();
}

}  // namespace maedfer
