// Rows of numbers as Python passes them.
#pragma once

#include <cstdint>

#include "../element.h"

// In front of what kernels call of a shared structure: always inlined, it is no function that the linker could take from
// another instruction set (see variants.h).
#define MAEDFER_INLINED __attribute__((always_inline))

namespace maedfer {

// Rows of `columns` numbers that lie side by side: row r is at data + (r / group) * group_stride + (r % group) * stride,
// counted in elements. Rows without a gap are one group.
struct Matrix {
    void *data;
    Element type;
    int64_t rows, columns;
    int64_t stride;
    int64_t group, group_stride;

    // Without the division in most cases, which takes as long as a tenth of a row of 512 numbers.
    MAEDFER_INLINED int64_t offset(int64_t row) const {
        return row < group ? row * stride : row / group * group_stride + row % group * stride;
    }
};

}  // namespace maedfer
