// Products of rows with a packed matrix, finished while their sums are at hand; and gradients of weights.
#pragma once

#include "matrix.h"

namespace maedfer {

enum class Activation : int { none = 0, gelu = 1, slope = 2 };

// What becomes of the sums x [R, N] of a product: out = residual + keep * (x + bias), or
//   gelu   out = GELU(x + bias), and slope = the derivative of that, where it has data
//   slope  out = x * slope
// Matrices without data are left out. All is computed in float32.
struct Epilogue {
    Matrix bias;  // one row
    Activation activation;
    Matrix slope;  // float32, bfloat16, or a byte: 200 slope + 28 to the nearest
    Matrix residual;
    const float *keep;  // a factor for each rows_a_factor rows, or null
    int64_t rows_a_factor;
    Matrix out;
    float *sums;  // of `out`, as it is written, over rows: [N], or null
};

// The right operand: a matrix [columns, depth] that products are made with in `type`, float32 or bfloat16. It lies in
// panels of so many columns, as the instruction set in use multiplies them (kernels/products.h).
struct Packed {
    const void *data;
    Element type;
    int64_t columns, depth;
};

// The left operand: rows [R, depth], or the transpose of [depth, R]. `sums` are those of its rows, [R], or null.
struct Left {
    Matrix matrix;
    bool transposed;
    float *sums;
};

// A range of rows and of panels; `sums` has room for those of the range over its rows: [N], or null.
struct Range {
    int64_t row, row_end, panel, panel_end;
    float *sums;
};

// Kernels by instruction set.
struct Products {
    int panel;                                                             // columns of a panel
    int tile_rows;                                                         // rows that are multiplied at a time
    int64_t (*packed_size)(int64_t columns, int64_t depth, Element type);  // in bytes
    int64_t (*scratch_size)(int64_t rows, int64_t depth);                  // in bytes, for a part of so many rows
    // The matrix [columns, depth], or the transpose of [depth, columns], into panels [begin, end).
    void (*pack)(const Matrix &matrix, bool transposed, Element type, void *out, int64_t begin, int64_t end);
    void (*product)(const Left &left, const Packed &packed, const Epilogue &epilogue, const Range &range,
                    void *scratch);
    // The epilogue alone, on rows [begin, end) of sums that were made elsewhere.
    void (*finish)(const Matrix &product, const Epilogue &epilogue, const Range &range);
};

int64_t packed_size(int64_t columns, int64_t depth, Element type);
void pack(const Matrix &matrix, bool transposed, Element type, void *out, int threads);

// The same bits for any number of threads.
void product(const Left &left, const Packed &packed, const Epilogue &epilogue, int threads);
void finish(const Matrix &product, const Epilogue &epilogue, int threads);

}  // namespace maedfer
