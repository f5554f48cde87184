// The innermost part of a product: a few rows times a panel, with all sums in registers.
#pragma once

#include "vector.h"

namespace maedfer::MAEDFER_VARIANT {

// Registers hold 6 x `across` vectors of sums, a row of the panel, and a number of the left operand.
constexpr int tile_rows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int across = 4;
#else
constexpr int across = 2;
#endif
constexpr int panel = across * lanes;

// Depth of bfloat16 panels comes in multiples of this: that of a tile of AMX.
constexpr int64_t depth_step = 32;

// The panel is read from the second-level cache, so far ahead.
constexpr int64_t ahead = 12;

// So many numbers are added up one by one at most, and then to the sums of those before: errors grow with the number.
constexpr int64_t run_bytes = 1024;

// sums [Rows, panel] = (first ? 0 : sums) + rows [Rows, depth] panel [depth, panel].
template <int Rows>
MAEDFER_INLINE void multiply_rows(const float *rows, int64_t step, const float *data, int64_t depth, float *sums,
                                  bool first) {
    Vector found[Rows][across];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) found[i][j] = Vector{};
    for (int64_t k = 0; k < depth; ++k) {
        Vector right[across];
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) {
            right[j] = load(data + k * panel + j * lanes);
            __builtin_prefetch(data + (k + ahead) * panel + j * lanes);
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            const float left = rows[i * step + k];
#pragma GCC unroll 8
            for (int j = 0; j < across; ++j) found[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) {
            float *to = sums + i * panel + j * lanes;
            store(to, first ? found[i][j] : load(to) + found[i][j]);
        }
}

#ifdef __AVX512BF16__
constexpr bool has_bfloat16 = true;

// The same of pairs: [depth / 2, panel, 2].
template <int Rows>
MAEDFER_INLINE void multiply_rows(const BFloat16 *rows, int64_t step, const BFloat16 *data, int64_t depth, float *sums,
                                  bool first) {
    __m512 found[Rows][across];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) found[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += 2) {
        __m512bh right[across];
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) {
            right[j] = (__m512bh)_mm512_loadu_si512(data + k * panel + 2 * j * lanes);
            __builtin_prefetch(data + (k + 2 * ahead) * panel + 2 * j * lanes);
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            int pair;
            __builtin_memcpy(&pair, rows + i * step + k, 4);
            const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
            for (int j = 0; j < across; ++j) found[i][j] = _mm512_dpbf16_ps(found[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < across; ++j) {
            float *to = sums + i * panel + j * lanes;
            store(to, first ? Vector(found[i][j]) : load(to) + Vector(found[i][j]));
        }
}
#else
constexpr bool has_bfloat16 = false;
#endif

// `height` of 1 to tile_rows rows.
template <typename T>
static void multiply_tile(int64_t height, const T *rows, int64_t step, const T *data, int64_t depth, float *sums,
                          bool first) {
    constexpr int64_t run = run_bytes / int64_t(sizeof(T));
    for (int64_t k = 0; k == 0 || k < depth; k += run) {
        const T *left = rows + k, *right = data + k * panel;
        const int64_t count = depth - k < run ? depth - k : run;
        const bool begins = first && k == 0;
        switch (height) {
            case 1: multiply_rows<1>(left, step, right, count, sums, begins); break;
            case 2: multiply_rows<2>(left, step, right, count, sums, begins); break;
            case 3: multiply_rows<3>(left, step, right, count, sums, begins); break;
            case 4: multiply_rows<4>(left, step, right, count, sums, begins); break;
            case 5: multiply_rows<5>(left, step, right, count, sums, begins); break;
            default: multiply_rows<6>(left, step, right, count, sums, begins);
        }
    }
}

// What multiplies tiles of a thread, one after the other, with what it sets up and gives back.
template <typename T>
struct Multiplier {
    // Rows of a tile at most.
    static constexpr int most_rows = tile_rows;

    void run(int64_t height, const T *rows, int64_t step, const T *data, int64_t depth, float *sums, bool first) {
        multiply_tile(height, rows, step, data, depth, sums, first);
    }
};

}  // namespace maedfer::MAEDFER_VARIANT
