// Tiles of 16-bit values in shared memory, and their way into operands of the matrix unit.
//
// A tile has rows of COLUMNS values, in chunks of 16 bytes. Chunks are permuted within 128 bytes so that the eight rows
// of an 8 x 8 matrix at the same chunk lie in different banks. Tiles begin at multiples of 128 bytes.
#pragma once

#include "device.h"

namespace maedfer {

// Where chunk `chunk` of row `row` begins.
template <int COLUMNS>
MAEDFER_DEVICE uint32_t chunk_offset(int row, int chunk) {
    static_assert(COLUMNS % 64 == 0, "rows of whole lines of 128 bytes");
    return static_cast<uint32_t>(row * (COLUMNS * 2) + (chunk ^ row % 8) * 16);
}

// From `address` in a row of a tile, with a chunk from 0 to 7 permuted as its row wants it, to `columns` columns
// further and `rows` rows down, multiples of 8 both. With constants this takes one instruction, and no register for
// long.
template <int COLUMNS>
MAEDFER_DEVICE uint32_t moved(uint32_t address, int rows, int columns) {
    return (address ^ static_cast<uint32_t>(columns / 8 % 8 * 16)) +
           static_cast<uint32_t>(rows * (COLUMNS * 2) + columns / 64 * 128);
}

// Where the pair of values lies that a lane has of an 8 x 8 part of a result, at row `row` and column `column`.
template <int COLUMNS>
MAEDFER_DEVICE uint32_t pair_address(uint32_t tile, int row, int column, int lane) {
    return moved<COLUMNS>(tile + chunk_offset<COLUMNS>(lane / 4, 0) + lane % 4 * 4, row, column);
}

// Begin to copy `rows` rows of COLUMNS values `row_stride` bytes apart into ROWS rows of a tile from `first` on, zeros
// into the rest of them.
template <int ROWS, int COLUMNS, int THREADS>
MAEDFER_DEVICE void copy_tile(uint32_t tile, int first, const char *source, int64_t row_stride, int rows, int thread) {
    constexpr int kChunks = COLUMNS / 8;
    static_assert(ROWS * kChunks % THREADS == 0, "the same number of chunks for each thread");
#pragma unroll
    for (int i = 0; i < ROWS * kChunks / THREADS; ++i) {
        const int row = (i * THREADS + thread) / kChunks, chunk = (i * THREADS + thread) % kChunks;
        const bool present = row < rows;
        const char *from = present ? source + row * row_stride + chunk * 16 : source;
        copy_async(tile + chunk_offset<COLUMNS>(first + row, chunk), from, present);
    }
}

// 16 x 16 values, from a row and column that are multiples of 16, as the four matrices upper left, lower left, upper
// right, lower right. As they lie, they are the left operand [row, column]; transposed, two right operands
// [row, column] of 8 columns each.
template <int COLUMNS>
MAEDFER_DEVICE uint32_t down_then_right(uint32_t tile, int row, int column, int lane) {
    return moved<COLUMNS>(tile + chunk_offset<COLUMNS>(lane % 16, lane / 16), row, column);
}

// The same as upper left, upper right, lower left, lower right. As they lie, they are two right operands
// [column, row] of 8 rows each; transposed, the left operand [column, row].
template <int COLUMNS>
MAEDFER_DEVICE uint32_t right_then_down(uint32_t tile, int row, int column, int lane) {
    return moved<COLUMNS>(tile + chunk_offset<COLUMNS>(lane / 16 * 8 + lane % 8, lane / 8 % 2), row, column);
}

// Two neighbouring results [16, 8] as the left operand [16, 16] of the next product.
template <class T>
MAEDFER_DEVICE void to_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack<T>(left[0], left[1]);
    a[1] = pack<T>(left[2], left[3]);
    a[2] = pack<T>(right[0], right[1]);
    a[3] = pack<T>(right[2], right[3]);
}

// Over the four lanes that hold a row of a result.
MAEDFER_DEVICE float quad_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

MAEDFER_DEVICE float quad_max(float x) {
    x = larger(x, shuffle_xor(x, 1));
    return larger(x, shuffle_xor(x, 2));
}

MAEDFER_DEVICE float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
    return x;
}

}  // namespace maedfer
