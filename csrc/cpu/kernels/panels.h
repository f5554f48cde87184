// Products of matrices that change from call to call, such as the keys of a clip: packing, and a tile in registers.
//
// The right-hand matrix is packed into panels of `panel_width` columns, one row of a panel after the other. A number of
// a left-hand row is spread over a vector and multiplied with a row of a panel. Where products are of bfloat16, all of
// this holds for words of two numbers that follow each other in the contraction. Sums are float32.
#pragma once

#include "transpose.h"

namespace maedfer::MAEDFER_VARIANT::folded {

// As many sums as registers hold, with room for a row of the panel.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int panel_vectors = 4;
#else
constexpr int panel_vectors = 2;
#endif
constexpr int tile_rows = 6;
constexpr int64_t panel_width = panel_vectors * lanes;

// For what is compiled once for all types that call it.
#define MAEDFER_APART static __attribute__((noinline))

typedef float UnalignedFloat __attribute__((aligned(2), may_alias));

MAEDFER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
MAEDFER_INLINE int64_t rounded_up(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// Up to `lanes` numbers, zeros for those beyond `count`.
template <typename T>
MAEDFER_INLINE Vector load_some(const T *from, int64_t count) {
    if (count >= lanes) return load(from);
    return count > 0 ? load(from, count) : Vector{};
}

template <typename T>
MAEDFER_INLINE void store_some(T *to, Vector x, int64_t count) {
    if (count >= lanes) {
        store(to, x);
    } else if (count > 0) {
        store(to, x, count);
    }
}

// Products of float32 numbers, a word being one of them.
struct Singles {
    typedef float Number;
    static constexpr int64_t pair = 1;

    MAEDFER_INLINE Vector add_product(Vector sum, float word, Vector row) { return sum + word * row; }

    // Words of numbers that follow each other in memory; those beyond `count` are zero.
    template <typename T>
    MAEDFER_INLINE Vector words(const T *from, int64_t count) {
        return load_some(from, count);
    }

    // A word from each lane of the rows of a contraction.
    MAEDFER_INLINE Vector join(Vector low, Vector) { return low; }
};

#ifdef __AVX512BF16__
// Products of bfloat16 numbers, two at once.
struct Pairs {
    typedef BFloat16 Number;
    static constexpr int64_t pair = 2;

    MAEDFER_INLINE Vector add_product(Vector sum, float word, Vector row) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_ps(word), (__m512bh)row);
    }

    MAEDFER_INLINE Vector words(const float *from, int64_t count) {
        return (Vector)_mm512_cvtne2ps_pbh(load_some(from + lanes, count - lanes), load_some(from, count));
    }
    MAEDFER_INLINE Vector words(const BFloat16 *from, int64_t count) {
        if (count >= 2 * lanes) return (Vector)_mm512_loadu_si512(from);
        alignas(64) BFloat16 buffer[2 * lanes] = {};
        for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
        return (Vector)_mm512_loadu_si512(buffer);
    }

    MAEDFER_INLINE Vector join(Vector low, Vector high) {
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        return (Vector)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
};
#endif

// Calls function(Singles or Pairs) for products of this type; without instructions for bfloat16, they are of float32.
template <typename Function>
MAEDFER_INLINE void with_products(Element type, Function function) {
#ifdef __AVX512BF16__
    if (type == Element::bfloat16) return function(Pairs{});
#endif
    (void)type;
    function(Singles{});
}

template <typename A, typename B>
struct Same {
    static constexpr bool value = false;
};
template <typename A>
struct Same<A, A> {
    static constexpr bool value = true;
};

// Up to tile_rows rows of a left-hand matrix: where each begins, and the step from word to word, in words.
struct Left {
    const UnalignedFloat *rows[tile_rows];
    int64_t step;
};

// out [rows, vectors * lanes] = left * panel, or added to what is there.
template <typename Kind, int rows, int vectors>
MAEDFER_APART void tile(const Left &left, const float *panel, int64_t words, bool add, float *out, int64_t out_step) {
    const UnalignedFloat *at[rows];
    Vector sums[rows][vectors];
    for (int i = 0; i < rows; ++i) {
        at[i] = left.rows[i];
        for (int j = 0; j < vectors; ++j) sums[i][j] = add ? load(out + i * out_step + j * lanes) : Vector{};
    }
    const int64_t step = left.step;
    for (int64_t k = 0; k < words; ++k) {
        Vector row[vectors];
        for (int j = 0; j < vectors; ++j) {
            row[j] = load(panel + (k * vectors + j) * lanes);
            __builtin_prefetch(panel + ((k + 12) * vectors + j) * lanes);
        }
        for (int i = 0; i < rows; ++i) {
            const float word = at[i][k * step];
            for (int j = 0; j < vectors; ++j) sums[i][j] = Kind::add_product(sums[i][j], word, row[j]);
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < vectors; ++j) store(out + i * out_step + j * lanes, sums[i][j]);
}

template <typename Kind, int vectors>
MAEDFER_INLINE void tile_of(int64_t rows, const Left &left, const float *panel, int64_t words, bool add, float *out,
                            int64_t out_step) {
    switch (rows) {
        case 1: return tile<Kind, 1, vectors>(left, panel, words, add, out, out_step);
        case 2: return tile<Kind, 2, vectors>(left, panel, words, add, out, out_step);
        case 3: return tile<Kind, 3, vectors>(left, panel, words, add, out, out_step);
        case 4: return tile<Kind, 4, vectors>(left, panel, words, add, out, out_step);
        case 5: return tile<Kind, 5, vectors>(left, panel, words, add, out, out_step);
        default: return tile<Kind, 6, vectors>(left, panel, words, add, out, out_step);
    }
}

// The same for a panel of so many columns, which has as many vectors as they need.
template <typename Kind>
MAEDFER_INLINE void multiply(int64_t rows, const Left &left, const float *panel, int64_t columns, int64_t words,
                             bool add, float *out, int64_t out_step) {
    const int64_t vectors = (columns + lanes - 1) / lanes;
    if constexpr (panel_vectors == 4) {
        if (vectors == 3) return tile_of<Kind, 3>(rows, left, panel, words, add, out, out_step);
        if (vectors > 3) return tile_of<Kind, 4>(rows, left, panel, words, add, out, out_step);
    }
    if (vectors == 1) return tile_of<Kind, 1>(rows, left, panel, words, add, out, out_step);
    return tile_of<Kind, 2>(rows, left, panel, words, add, out, out_step);
}

// Packs a panel of `columns` numbers from the rows of a contraction: row(k) is where row k of `count` begins. `change`
// is called with each vector, its row and its first column.
template <typename Kind, typename Row, typename Change>
MAEDFER_INLINE void pack_rows(Row row, int64_t count, int64_t columns, Change change, float *panel) {
    const int64_t words = (count + Kind::pair - 1) / Kind::pair;
    for (int64_t k = 0; k < words; ++k) {
        for (int64_t j = 0; j < columns; j += lanes, panel += lanes) {
            const int64_t first = k * Kind::pair, second = first + 1, rest = columns - j;
            const Vector low = change(load_some(row(first) + j, rest), first, j);
            Vector high{};
            if (Kind::pair == 2 && second < count) high = change(load_some(row(second) + j, rest), second, j);
            store(panel, Kind::join(low, high));
        }
    }
}

MAEDFER_INLINE Vector unchanged(Vector x, int64_t, int64_t) { return x; }

// Packs a panel from its columns: row(j) is where column j of `columns` begins, `count` numbers of the contraction each.
template <typename Kind, typename Row>
MAEDFER_INLINE void pack_columns(Row row, int64_t columns, int64_t count, float *panel) {
    const int64_t words = (count + Kind::pair - 1) / Kind::pair, width = rounded_up(columns, lanes);
    for (int64_t j = 0; j < columns; j += lanes) {
        for (int64_t k = 0; k < words; k += lanes) {
            Vector block[lanes];
            for (int i = 0; i < lanes; ++i) {
                const bool there = j + i < columns;
                block[i] = there ? Kind::words(row(j + i) + k * Kind::pair, count - k * Kind::pair) : Vector{};
            }
            transpose(block);
            for (int i = 0; i < least(lanes, words - k); ++i) store(panel + (k + i) * width + j, block[i]);
        }
    }
}

}  // namespace maedfer::MAEDFER_VARIANT::folded
