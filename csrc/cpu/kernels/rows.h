// Rows of a matrix as floats, whatever it holds.
#pragma once

#include "vector.h"

namespace maedfer::MAEDFER_VARIANT {

// A row to be read: where it lies, or converted in `room`, which has place for it.
MAEDFER_INLINE const float *read_row(const Matrix &matrix, int64_t row, float *room) {
    if (matrix.type == Element::float32) return static_cast<const float *>(matrix.data) + matrix.offset(row);
    const BFloat16 *from = static_cast<const BFloat16 *>(matrix.data) + matrix.offset(row);
    walk(matrix.columns, [&](auto part, int64_t i, int) { store(room + i, load(from + i, part), part); });
    return room;
}

// Where to write a row: where it belongs, or `room`, from where `write_row` takes it.
MAEDFER_INLINE float *place_row(const Matrix &matrix, int64_t row, float *room) {
    return matrix.type == Element::float32 ? static_cast<float *>(matrix.data) + matrix.offset(row) : room;
}

// Rounds what was written to `room`.
MAEDFER_INLINE void write_row(const Matrix &matrix, int64_t row, const float *room) {
    if (matrix.type == Element::float32) return;
    BFloat16 *to = static_cast<BFloat16 *>(matrix.data) + matrix.offset(row);
    walk(matrix.columns, [&](auto part, int64_t i, int) { store(to + i, load(room + i, part), part); });
}

}  // namespace maedfer::MAEDFER_VARIANT
