// Products of matrices that fit the cache, for attention: out [rows, columns] = left [rows, depth] right [depth, columns].
//
// The left operand is read number by number at any two steps, so that a transposed one needs no copy. The right one is
// packed: its columns, in vectors, are divided into panels that registers can hold a row of, and each panel has its rows
// side by side. Sums are float32. There are two kinds of operands: float32 (`Exact`), and bfloat16 in pairs that follow
// each other along the contraction (`Pairs`), where the processor multiplies these. Either are words of four bytes.
#pragma once

#include "transpose.h"

#define MAEDFER_MEMBER inline __attribute__((always_inline))

namespace maedfer::MAEDFER_VARIANT::small {

// Registers hold the sums of so many rows times so many vectors, and a row of the right operand beside them.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_vectors = 4;
#else
constexpr int most_vectors = 2;
#endif
constexpr int most_rows = 6;
// Rows of a panel that are taken at once, so that they stay in the first cache while they are needed.
constexpr int64_t most_depth = 128;

MAEDFER_INLINE int64_t whole(int64_t count, int64_t part) { return (count + part - 1) / part; }
MAEDFER_INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of numbers of type T.
template <typename T>
struct Rows {
    T *first;
    int64_t step;

    MAEDFER_MEMBER T *row(int64_t number) const { return first + number * step; }
    MAEDFER_MEMBER Rows from(int64_t number) const { return {row(number), step}; }
};

// Vectors `first` to `first + width` of the columns, as equal parts as there are.
struct Panel {
    int64_t first, width;
};

MAEDFER_INLINE Panel panel(int64_t number, int64_t vectors) {
    const int64_t panels = whole(vectors, most_vectors), each = vectors / panels, wider = vectors % panels;
    return {number * each + lesser(number, wider), each + (number < wider)};
}

MAEDFER_INLINE Vector load_or_zero(const float *from, int64_t count) {
    return count >= lanes ? load(from) : count > 0 ? load(from, count) : Vector{};
}
MAEDFER_INLINE Vector load_or_zero(const BFloat16 *from, int64_t count) {
    return count >= lanes ? load(from) : count > 0 ? load(from, count) : Vector{};
}

template <typename T>
MAEDFER_INLINE void store_some(T *to, Vector x, int64_t count) {
    if (count >= lanes) {
        store(to, x);
    } else {
        store(to, x, count);
    }
}

struct Exact {
    using Number = float;
    // Numbers of a word.
    static constexpr int numbers = 1;

    MAEDFER_INLINE float left(const float *from) { return *from; }

    MAEDFER_INLINE Vector multiply_add(Vector sum, float left, Vector right) { return sum + left * right; }

    // Words that follow each other in a row, of which `count` numbers are left.
    template <typename T>
    MAEDFER_INLINE Vector along(const T *from, int64_t count) {
        return load_or_zero(from, count);
    }

    // A row of words from each row of numbers.
    template <typename T>
    MAEDFER_INLINE Vector across(const Rows<T> &x, int64_t word, int64_t, int64_t column, int64_t count) {
        return load_or_zero(x.row(word) + column, count);
    }
};

#ifdef __AVX512BF16__
struct Pairs {
    using Number = BFloat16;
    static constexpr int numbers = 2;

    MAEDFER_INLINE Words left(const float *from) {
        uint32_t pair;
        __builtin_memcpy(&pair, from, 4);
        return pair - Words{};
    }

    MAEDFER_INLINE Vector multiply_add(Vector sum, Words left, Vector right) {
        return reinterpret_cast<Vector>(_mm512_dpbf16_ps(
            reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(left), reinterpret_cast<__m512bh>(right)));
    }

    MAEDFER_INLINE Vector along(const BFloat16 *from, int64_t count) {
        Vector words;
        BFloat16 buffer[2 * lanes] = {};
        if (count < 2 * lanes) {
            for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
            from = buffer;
        }
        __builtin_memcpy(&words, from, sizeof words);
        return words;
    }

    MAEDFER_INLINE Vector across(const Rows<const BFloat16> &x, int64_t word, int64_t rows, int64_t column,
                                 int64_t count) {
        const Words low = bits(x.row(2 * word) + column, count);
        const Words high = 2 * word + 1 < rows ? bits(x.row(2 * word + 1) + column, count) : Words{};
        return reinterpret_cast<Vector>(low | high << 16);
    }

    MAEDFER_INLINE Words bits(const BFloat16 *from, int64_t count) {
        alignas(64) BFloat16 buffer[lanes] = {};
        if (count < lanes) {
            for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
            from = buffer;
        }
        return __builtin_convertvector(*reinterpret_cast<const UnalignedHalves *>(from), Words);
    }

    // Numbers of two vectors that follow each other, rounded.
    MAEDFER_INLINE Vector rounded_row(Vector first, Vector second) {
        return reinterpret_cast<Vector>(
            _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
    }

    // Words of the rounded numbers of two rows, one below the other.
    MAEDFER_INLINE Vector rounded_pairs(Vector upper, Vector lower) {
        const Words low = __builtin_convertvector(rounded(upper), Words);
        const Words high = __builtin_convertvector(rounded(lower), Words);
        return reinterpret_cast<Vector>(low | high << 16);
    }
};
#endif

// The left operand: its number (row, word) is at first + row * row_step + word * step, in words.
struct LeftOperand {
    const float *first;
    int64_t row_step, step;
};

// Packs the transposed of x [count, depth]: words [depth, count], zeros in what is left of the last vector.
template <typename Kind, typename T>
static void pack_transposed(const Rows<const T> &x, int64_t count, int64_t depth, float *to) {
    const int64_t words = whole(depth, Kind::numbers), vectors = whole(count, lanes);
    const int64_t panels = whole(vectors, most_vectors);
    for (int64_t p = 0; p < panels; ++p) {
        const Panel part = panel(p, vectors);
        for (int64_t v = 0; v < part.width; ++v) {
            const int64_t row = (part.first + v) * lanes, rows = lesser(lanes, count - row);
            for (int64_t word = 0; word < words; word += lanes) {
                Vector block[lanes];
                const int64_t column = word * Kind::numbers;
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    block[i] = i < rows ? Kind::along(x.row(row + i) + column, depth - column) : Vector{};
                transpose(block);
                float *const at = to + (part.first * words + word * part.width + v) * lanes;
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    if (word + i < words) store(at + i * part.width * lanes, block[i]);
            }
        }
    }
}

// Packs x [rows, columns]: words [rows, columns], zeros in what is left of the last vector.
template <typename Kind, typename T>
static void pack(const Rows<const T> &x, int64_t rows, int64_t columns, float *to) {
    const int64_t words = whole(rows, Kind::numbers), vectors = whole(columns, lanes);
    const int64_t panels = whole(vectors, most_vectors);
    for (int64_t p = 0; p < panels; ++p) {
        const Panel part = panel(p, vectors);
        for (int64_t word = 0; word < words; ++word) {
            for (int64_t v = 0; v < part.width; ++v, to += lanes) {
                const int64_t column = (part.first + v) * lanes;
                store(to, Kind::across(x, word, rows, column, columns - column));
            }
        }
    }
}

template <typename Kind, int Height, int Width>
MAEDFER_INLINE void tile(const LeftOperand &left, const float *right, int64_t depth, const Rows<float> &out, bool add) {
    Vector sums[Height][Width] = {};
    const float *from = left.first;
    for (int64_t word = 0; word < depth; ++word, right += Width * lanes, from += left.step) {
        Vector row[Width];
#pragma GCC unroll 8
        for (int j = 0; j < Width; ++j) row[j] = load(right + j * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < Height; ++i) {
            const auto number = Kind::left(from + i * left.row_step);
#pragma GCC unroll 8
            for (int j = 0; j < Width; ++j) sums[i][j] = Kind::multiply_add(sums[i][j], number, row[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Height; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < Width; ++j) {
            float *const to = out.row(i) + j * lanes;
            // Sums of parts of a long contraction are more exact than one sum.
            store(to, add ? sums[i][j] + load(to) : sums[i][j]);
        }
    }
}

template <typename Kind, int Width>
static void tiles(LeftOperand left, const float *right, int64_t depth, Rows<float> out, int64_t rows, bool add) {
    for (; rows >= most_rows; rows -= most_rows) {
        tile<Kind, most_rows, Width>(left, right, depth, out, add);
        left.first += most_rows * left.row_step, out.first += most_rows * out.step;
    }
    switch (rows) {
        case 5: return tile<Kind, 5, Width>(left, right, depth, out, add);
        case 4: return tile<Kind, 4, Width>(left, right, depth, out, add);
        case 3: return tile<Kind, 3, Width>(left, right, depth, out, add);
        case 2: return tile<Kind, 2, Width>(left, right, depth, out, add);
        case 1: return tile<Kind, 1, Width>(left, right, depth, out, add);
    }
}

// out [rows, vectors] = left [rows, depth in words] times a packed right operand, or adds it.
template <typename Kind>
static void multiply(const LeftOperand &left, const float *right, int64_t rows, int64_t vectors, int64_t depth,
                     const Rows<float> &out, bool add) {
    const int64_t panels = whole(vectors, most_vectors);
    for (int64_t begin = 0; begin < depth; begin += most_depth) {
        const int64_t words = lesser(most_depth, depth - begin);
        const LeftOperand from{left.first + begin * left.step, left.row_step, left.step};
        for (int64_t p = 0; p < panels; ++p) {
            const Panel part = panel(p, vectors);
            const float *with = right + (part.first * depth + begin * part.width) * lanes;
            const Rows<float> to{out.first + part.first * lanes, out.step};
            const bool more = add || begin > 0;
            switch (part.width) {
#if defined(__AVX512F__) || defined(__aarch64__)
                case 4: tiles<Kind, 4>(from, with, words, to, rows, more); break;
                case 3: tiles<Kind, 3>(from, with, words, to, rows, more); break;
#endif
                case 2: tiles<Kind, 2>(from, with, words, to, rows, more); break;
                case 1: tiles<Kind, 1>(from, with, words, to, rows, more); break;
            }
        }
    }
}

}  // namespace maedfer::MAEDFER_VARIANT::small
