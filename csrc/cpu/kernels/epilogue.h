// What becomes of the sums of a product while they are in the first-level cache.
#pragma once

#include "../products.h"
#include "gelu.h"
#include "vector.h"

namespace maedfer::MAEDFER_VARIANT {

typedef uint8_t Bytes __attribute__((vector_size(lanes)));
typedef uint8_t UnalignedBytes __attribute__((vector_size(lanes), aligned(1), may_alias));

// Where a row begins. Rows without a gap are one group, which spares them a division.
MAEDFER_INLINE int64_t offset(const Matrix &matrix, int64_t row) {
    if (row < matrix.group) return row * matrix.stride;
    return row / matrix.group * matrix.group_stride + row % matrix.group * matrix.stride;
}

// A slope in a byte, as kernels of feed_forward keep it: it lies between -0.129 and 1.129.
constexpr float slope_steps = 200.0f;
// 2^23 + 28: a float this large has its last bit at 1, so that adding it rounds, and its low byte is the code.
constexpr float slope_shift = 8388636.0f;

MAEDFER_INLINE Vector load_slope(const uint8_t *from, int64_t count) {
    uint8_t codes[lanes] = {};
    __builtin_memcpy(codes, from, static_cast<size_t>(count < lanes ? count : lanes));
    const Bytes found = *reinterpret_cast<const UnalignedBytes *>(codes);
    const Words bits = __builtin_convertvector(found, Words) | 0x4B000000u;
    return (reinterpret_cast<Vector>(bits) - slope_shift) * (1.0f / slope_steps);
}

MAEDFER_INLINE void store_slope(uint8_t *to, Vector x, int64_t count) {
    const Words bits = reinterpret_cast<Words>(x * slope_steps + slope_shift) & 0xffu;
    uint8_t codes[lanes];
    *reinterpret_cast<UnalignedBytes *>(codes) = __builtin_convertvector(bits, Bytes);
    __builtin_memcpy(to, codes, static_cast<size_t>(count < lanes ? count : lanes));
}

template <typename T>
MAEDFER_INLINE Vector load_some(const T *from, int64_t count) {
    return count >= lanes ? load(from) : load(from, count);
}

template <typename T>
MAEDFER_INLINE void store_some(T *to, Vector x, int64_t count) {
    if (count >= lanes) {
        store(to, x);
    } else {
        store(to, x, count);
    }
}

MAEDFER_INLINE Vector load_slope(const Matrix &slope, int64_t at, int64_t count) {
    if (slope.type == Element::float32) return load_some(static_cast<const float *>(slope.data) + at, count);
    if (slope.type == Element::bfloat16) return load_some(static_cast<const BFloat16 *>(slope.data) + at, count);
    return load_slope(static_cast<const uint8_t *>(slope.data) + at, count);
}

MAEDFER_INLINE void store_slope(const Matrix &slope, int64_t at, Vector x, int64_t count) {
    if (slope.type == Element::float32) return store_some(static_cast<float *>(slope.data) + at, x, count);
    if (slope.type == Element::bfloat16) return store_some(static_cast<BFloat16 *>(slope.data) + at, x, count);
    store_slope(static_cast<uint8_t *>(slope.data) + at, x, count);
}

// Rows [row, row + rows) and columns [column, column + columns) of the result; `sums` are `step` apart.
template <Activation Kind, typename Residual, typename Out>
static void finish_rows(const float *sums, int64_t step, int64_t row, int64_t rows, int64_t column, int64_t columns,
                        const Epilogue &epilogue, float *column_sums) {
    const auto *residual = static_cast<const Residual *>(epilogue.residual.data);
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t number = row + i;
        Out *out = static_cast<Out *>(epilogue.out.data) + offset(epilogue.out, number) + column;
        const int64_t slope = Kind == Activation::none ? 0 : offset(epilogue.slope, number) + column;
        const int64_t before = residual ? offset(epilogue.residual, number) + column : 0;
        const float factor = epilogue.keep ? epilogue.keep[number / epilogue.rows_a_factor] : 1.0f;
        for (int64_t c = 0; c < columns; c += lanes) {
            const int64_t count = columns - c;
            Vector x = load(sums + i * step + c);
            if (Kind != Activation::slope && epilogue.bias.data) {
                x += epilogue.bias.type == Element::float32
                         ? load_some(static_cast<const float *>(epilogue.bias.data) + column + c, count)
                         : load_some(static_cast<const BFloat16 *>(epilogue.bias.data) + column + c, count);
            }
            if (Kind == Activation::gelu) {
                if (epilogue.slope.data) {
                    const Normal found = normal(x);
                    store_slope(epilogue.slope, slope + c, gelu_slope(x, found), count);
                    x *= found.below;
                } else {
                    x = gelu(x);
                }
            }
            if (Kind == Activation::slope) x *= load_slope(epilogue.slope, slope + c, count);
            if (epilogue.keep) x *= factor;
            if (residual) x += load_some(residual + before + c, count);
            store_some(out + c, x, count);
            if (column_sums) {
                // Of what was written.
                const Vector written = load_some(out + c, count);
                store_some(column_sums + column + c, load_some(column_sums + column + c, count) + written, count);
            }
        }
    }
}

template <Activation Kind, typename Residual>
MAEDFER_INLINE void finish_into(const float *sums, int64_t step, int64_t row, int64_t rows, int64_t column,
                                int64_t columns, const Epilogue &epilogue, float *column_sums) {
    const auto run = epilogue.out.type == Element::float32 ? finish_rows<Kind, Residual, float>
                                                           : finish_rows<Kind, Residual, BFloat16>;
    run(sums, step, row, rows, column, columns, epilogue, column_sums);
}

MAEDFER_INLINE void finish_tile(const float *sums, int64_t step, int64_t row, int64_t rows, int64_t column,
                                int64_t columns, const Epilogue &epilogue, float *column_sums) {
    const bool low = epilogue.residual.type == Element::bfloat16;
    const auto run = epilogue.activation == Activation::gelu    ? finish_into<Activation::gelu, float>
                     : epilogue.activation == Activation::slope ? finish_into<Activation::slope, float>
                     : low                                      ? finish_into<Activation::none, BFloat16>
                                                                : finish_into<Activation::none, float>;
    run(sums, step, row, rows, column, columns, epilogue, column_sums);
}

// Brings what `finish_tile` reads and writes near while its sums are made.
MAEDFER_INLINE void expect_tile(int64_t row, int64_t rows, int64_t column, int64_t columns, const Epilogue &epilogue) {
    constexpr int64_t line = 64;
    const auto each = [&](const Matrix &matrix, int64_t size, auto prefetch) {
        for (int64_t i = 0; i < rows; ++i) {
            const char *from = static_cast<const char *>(matrix.data) + (offset(matrix, row + i) + column) * size;
            for (int64_t at = 0; at < columns * size; at += line) prefetch(from + at);
        }
    };
    const auto size = [](const Matrix &matrix) { return matrix.type == Element::float32 ? 4 : 2; };
    each(epilogue.out, size(epilogue.out), [](const char *place) { __builtin_prefetch(place, 1); });
    if (epilogue.residual.data) {
        each(epilogue.residual, size(epilogue.residual), [](const char *place) { __builtin_prefetch(place); });
    }
}

}  // namespace maedfer::MAEDFER_VARIANT
