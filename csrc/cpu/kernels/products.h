// Products with packed matrices, on a part of rows and panels.
//
// A panel holds `panel` columns of the right operand, zeros beyond the last one: [depth, panel] of float32, or pairs of
// bfloat16 that follow each other in depth, [depth / 2, panel, 2] (what AVX512-BF16 and AMX multiply), with zeros up to
// a multiple of `depth_step`. Instruction sets without bfloat16 products take those of float32, of rounded numbers.
// Rows of the left operand are read where they are if they can be; others are copied block by block of the depth.
#pragma once

#include "../products.h"
#include "epilogue.h"
#include "tile.h"
#include "transpose.h"
#ifdef __AMX_BF16__
#include "amx.h"
#endif

namespace maedfer::MAEDFER_VARIANT {

// Bytes of a row that are multiplied before the next row's.
constexpr int64_t block_bytes = 2048;
// Columns whose sums are kept where the depth has several blocks.
constexpr int64_t group_panels = panel <= 512 ? 512 / panel : 1;

MAEDFER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
MAEDFER_INLINE int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

// Numbers of depth between two panels.
template <typename T>
MAEDFER_INLINE int64_t packed_depth(int64_t depth) {
    return sizeof(T) == 2 ? round_up(depth, depth_step) : depth;
}

static int64_t packed_size(int64_t columns, int64_t depth, Element type) {
    const int64_t wide = round_up(columns, panel);
    return type == Element::bfloat16 && has_bfloat16 ? wide * packed_depth<BFloat16>(depth) * 2 : wide * depth * 4;
}

static int64_t scratch_size(int64_t rows, int64_t depth) {
    // Rows of the left operand, and sums.
    const bool split = depth > block_bytes / 4;
    return rows * block_bytes + (split ? rows * group_panels * panel * 4 : 0);
}

// A number as a product in bfloat16 takes it, in float32.
template <bool Rounded>
MAEDFER_INLINE Vector taken(Vector x) {
    if (!Rounded) return x;
    const Halves low = rounded(x);
    return load(reinterpret_cast<const BFloat16 *>(&low));
}

// `count` numbers that lie side by side, to others.
template <bool Rounded, typename In, typename Out>
MAEDFER_INLINE void convert(const In *from, int64_t count, Out *to) {
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) store(to + i, taken<Rounded>(load(from + i)));
    if (i < count) store(to + i, taken<Rounded>(load(from + i, count - i)), count - i);
}

// Numbers as they are transposed: one in each lane, or in bfloat16 a pair that is multiplied together, the first one in
// the lower half. Here pairs are from two rows, or of a number and zero.
template <bool Rounded, typename In>
MAEDFER_INLINE void take_rows(const In *from, const In *, int64_t count, Vector &found, float) {
    found = from ? taken<Rounded>(load_some(from, count)) : Vector{};
}
template <bool Rounded, typename In>
MAEDFER_INLINE void take_rows(const In *from, const In *next, int64_t count, Vector &found, BFloat16) {
    constexpr bool round = sizeof(In) > 2;
    const Vector one = from ? taken<round>(load_some(from, count)) : Vector{};
    const Vector other = next ? taken<round>(load_some(next, count)) : Vector{};
    found = reinterpret_cast<Vector>(reinterpret_cast<Words>(one) >> 16 | reinterpret_cast<Words>(other));
}

// Here they are neighbours in a row.
template <bool Rounded, typename In>
MAEDFER_INLINE Vector take_neighbours(const In *from, int64_t count, float) {
    return taken<Rounded>(load_some(from, count));
}
template <bool Rounded, typename In>
MAEDFER_INLINE Vector take_neighbours(const In *from, int64_t count, BFloat16) {
    BFloat16 pairs[2 * lanes] = {};
    if (sizeof(In) == 2 && count >= 2 * lanes) {
        __builtin_memcpy(pairs, from, sizeof pairs);
    } else {
        convert<false>(from, least(count, 2 * lanes), pairs);
    }
    Vector found;
    __builtin_memcpy(&found, pairs, sizeof found);
    return found;
}

// Rows [columns, depth] of `to` from columns of rows: to[c, r] = data[r, c].
template <bool Rounded, typename In, typename Out>
MAEDFER_INLINE void copy_columns(const In *data, const Matrix &matrix, int64_t row, int64_t rows, int64_t column,
                                 int64_t columns, Out *to, int64_t step) {
    constexpr int64_t each = int64_t(4 / sizeof(Out)), deep = each * lanes;
    for (int64_t r = 0; r < rows; r += deep) {
        for (int64_t c = 0; c < columns; c += lanes) {
            Vector block[lanes];
            for (int64_t i = 0; i < lanes; ++i) {
                const int64_t one = r + each * i, other = one + 1;
                const In *from = one < rows ? data + offset(matrix, row + one) + column + c : nullptr;
                const In *next = each > 1 && other < rows ? data + offset(matrix, row + other) + column + c : nullptr;
                take_rows<Rounded>(from, next, columns - c, block[i], Out{});
            }
            transpose(block);
            const int64_t there = least(lanes, columns - c);
            for (int64_t i = 0; i < there; ++i) __builtin_memcpy(to + (c + i) * step + r, &block[i], sizeof block[i]);
        }
    }
}

// Rows [rows, depth] of `to` from the rows of a matrix, or from its columns; zeros up to a whole packed depth.
template <bool Rounded, typename In, typename Out>
MAEDFER_INLINE void copy_rows(const In *data, const Left &left, int64_t row, int64_t rows, int64_t depth, int64_t count,
                              Out *to, int64_t step) {
    const int64_t padded = packed_depth<Out>(count);
    if (left.transposed) {
        copy_columns<Rounded>(data, left.matrix, depth, count, row, rows, to, step);
    } else {
        for (int64_t i = 0; i < rows; ++i)
            convert<Rounded>(data + offset(left.matrix, row + i) + depth, count, to + i * step);
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = count; k < padded; ++k) to[i * step + k] = Out{};
}

// A block of the left operand's rows.
template <typename T>
struct Block {
    const T *rows;
    int64_t step;
};

template <bool Rounded, typename T>
MAEDFER_INLINE Block<T> block_of(const Left &left, const Range &range, int64_t depth, int64_t count, T *scratch) {
    const Matrix &matrix = left.matrix;
    const int64_t rows = range.row_end - range.row;
    const bool of_type = matrix.type == (sizeof(T) == 2 ? Element::bfloat16 : Element::float32);
    if (of_type && !Rounded && !left.transposed && packed_depth<T>(count) == count) {
        const int64_t first = offset(matrix, range.row);
        if (offset(matrix, range.row_end - 1) - first == (rows - 1) * matrix.stride)
            return {static_cast<const T *>(matrix.data) + first + depth, matrix.stride};
    }
    constexpr int64_t step = block_bytes / int64_t(sizeof(T));
    with_type(matrix,
              [&](auto *data) { copy_rows<Rounded>(data, left, range.row, rows, depth, count, scratch, step); });
    return {scratch, step};
}

// Adds up the rows of a block, in one order whatever the instruction set's neighbours do.
template <typename T>
MAEDFER_INLINE void add_rows(const Block<T> &block, int64_t rows, int64_t count, bool first, float *sums) {
    for (int64_t i = 0; i < rows; ++i) {
        Vector total{};
        int64_t k = 0;
        for (; k + lanes <= count; k += lanes) total += load(block.rows + i * block.step + k);
        if (k < count) total += load(block.rows + i * block.step + k, count - k);
        sums[i] = (first ? 0.0f : sums[i]) + sum(total);
    }
}

template <bool Rounded, typename T>
static void multiply(const Left &left, const Packed &packed, const Epilogue &epilogue, const Range &range,
                     void *memory) {
    constexpr int64_t deep = block_bytes / int64_t(sizeof(T));
    const int64_t rows = range.row_end - range.row, depth = packed.depth, between = packed_depth<T>(depth) * panel;
    const bool split = depth > deep;
    T *scratch = static_cast<T *>(memory);
    float *kept = reinterpret_cast<float *>(static_cast<char *>(memory) + rows * block_bytes);
    Multiplier<T> multiplier;
    constexpr int most = Multiplier<T>::most_rows;
    alignas(64) float tile_sums[most * panel];
    // All but the last one of the same height.
    const int64_t tiles = (rows + most - 1) / most, high = tiles ? (rows + tiles - 1) / tiles : 0;
    const int64_t wide = split ? group_panels : range.panel_end - range.panel;
    for (int64_t group = range.panel; group < range.panel_end; group += wide) {
        const int64_t group_end = least(range.panel_end, group + wide);
        // A depth of nothing is finished too.
        for (int64_t k = 0; k == 0 || k < depth; k += deep) {
            const int64_t count = least(deep, depth - k);
            const bool first = k == 0, last = k + deep >= depth;
            const Block<T> block = block_of<Rounded>(left, range, k, count, scratch);
            if (left.sums && group == 0) add_rows(block, rows, count, first, left.sums + range.row);
            for (int64_t number = group; number < group_end; ++number) {
                const T *data = static_cast<const T *>(packed.data) + number * between + k * panel;
                for (int64_t row = 0; row < rows; row += high) {
                    const int64_t height = least(high, rows - row);
                    float *sums = split ? kept + ((number - group) * rows + row) * panel : tile_sums;
                    const int64_t column = number * panel, columns = least(panel, packed.columns - column);
                    if (last) expect_tile(range.row + row, height, column, columns, epilogue);
                    multiplier.run(height, block.rows + row * block.step, block.step, data, packed_depth<T>(count),
                                   sums, first);
                    if (last) {
                        finish_tile(sums, panel, range.row + row, height, column, columns, epilogue, range.sums);
                    }
                }
            }
        }
    }
}

static void product(const Left &left, const Packed &packed, const Epilogue &epilogue, const Range &range,
                    void *memory) {
    if (packed.type == Element::float32) return multiply<false, float>(left, packed, epilogue, range, memory);
    if constexpr (has_bfloat16) {
        multiply<false, BFloat16>(left, packed, epilogue, range, memory);
    } else {
        multiply<true, float>(left, packed, epilogue, range, memory);
    }
}

static void finish(const Matrix &product, const Epilogue &epilogue, const Range &range) {
    alignas(64) float sums[panel];
    with_type(product, [&](auto *data) {
        for (int64_t number = range.panel; number < range.panel_end; ++number) {
            const int64_t column = number * panel, columns = least(panel, product.columns - column);
            for (int64_t row = range.row; row < range.row_end; ++row) {
                convert<false>(data + offset(product, row) + column, columns, sums);
                finish_tile(sums, panel, row, 1, column, columns, epilogue, range.sums);
            }
        }
    });
}

// Writes a panel, [depth, panel] or in pairs [depth / 2, panel, 2], from rows that are columns of the panel.
template <bool Rounded, typename In, typename Out>
MAEDFER_INLINE void pack_rows(const In *data, const Matrix &matrix, int64_t column, int64_t columns, Out *out) {
    constexpr int64_t each = int64_t(4 / sizeof(Out)), deep = each * lanes;
    const int64_t depth = matrix.columns, padded = packed_depth<Out>(depth);
    for (int64_t c = 0; c < panel; c += lanes) {
        for (int64_t k = 0; k < padded; k += deep) {
            Vector block[lanes];
            for (int64_t i = 0; i < lanes; ++i) {
                block[i] = c + i < columns && k < depth
                               ? take_neighbours<Rounded>(data + offset(matrix, column + c + i) + k, depth - k, Out{})
                               : Vector{};
            }
            transpose(block);
            const int64_t there = least(lanes, (padded - k) / each);
            Out *to = out + k * panel + each * c;
            for (int64_t i = 0; i < there; ++i) __builtin_memcpy(to + each * i * panel, &block[i], sizeof block[i]);
        }
    }
}

// The same from columns.
template <bool Rounded, typename In, typename Out>
MAEDFER_INLINE void pack_columns(const In *data, const Matrix &matrix, int64_t column, int64_t columns, Out *out) {
    constexpr int64_t each = int64_t(4 / sizeof(Out));
    const int64_t depth = matrix.rows, padded = packed_depth<Out>(depth);
    for (int64_t k = 0; k < padded; k += each) {
        const In *one = k < depth ? data + offset(matrix, k) + column : nullptr;
        const In *other = each > 1 && k + 1 < depth ? data + offset(matrix, k + 1) + column : nullptr;
        for (int64_t c = 0; c < panel; c += lanes) {
            Vector found{};
            if (c < columns)
                take_rows<Rounded>(one ? one + c : one, other ? other + c : other, columns - c, found, Out{});
            __builtin_memcpy(out + k * panel + each * c, &found, sizeof found);
        }
    }
}

template <bool Rounded, typename T>
static void pack_panels(const Matrix &matrix, bool transposed, T *out, int64_t begin, int64_t end) {
    const int64_t all = transposed ? matrix.columns : matrix.rows;
    const int64_t between = packed_depth<T>(transposed ? matrix.rows : matrix.columns) * panel;
    with_type(matrix, [&](auto *data) {
        for (int64_t number = begin; number < end; ++number) {
            const int64_t column = number * panel;
            const int64_t columns = least(panel, all - column);
            if (transposed) {
                pack_columns<Rounded>(data, matrix, column, columns, out + number * between);
            } else {
                pack_rows<Rounded>(data, matrix, column, columns, out + number * between);
            }
        }
    });
}

static void pack(const Matrix &matrix, bool transposed, Element type, void *out, int64_t begin, int64_t end) {
    if (type == Element::float32) {
        pack_panels<false>(matrix, transposed, static_cast<float *>(out), begin, end);
    } else if constexpr (has_bfloat16) {
        pack_panels<false>(matrix, transposed, static_cast<BFloat16 *>(out), begin, end);
    } else {
        pack_panels<true>(matrix, transposed, static_cast<float *>(out), begin, end);
    }
}

constexpr Products products{panel, tile_rows, packed_size, scratch_size, pack, product, finish};

}  // namespace maedfer::MAEDFER_VARIANT
