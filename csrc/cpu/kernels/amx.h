// Products of bfloat16 tiles by AMX: up to 32 rows of A times a panel of 64 columns, summed in float32.
//
// A panel holds pairs of numbers that follow each other in k, of its 64 columns side by side, as VDPBF16PS takes them:
// 16 pairs of 16 columns are a tile as it lies. With MAEDFER_EMULATE_AMX the instructions are done in plain C++, as Intel's
// manual (volume 2, TDPBF16PS) has them, so that tests can run what surrounds them on any processor.
#pragma once

#include "tile.h"

#ifdef MAEDFER_EMULATE_AMX

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps

namespace maedfer::MAEDFER_VARIANT {

struct EmulatedTile {
    int rows, bytes;
    unsigned char data[16][64];
};
static thread_local EmulatedTile emulated_tiles[8];

static void _tile_loadconfig(const void *from) {
    const auto *config = static_cast<const unsigned char *>(from);
    for (int t = 0; t < 8; ++t) {
        emulated_tiles[t] = {};
        emulated_tiles[t].bytes = config[16 + 2 * t];
        emulated_tiles[t].rows = config[48 + t];
    }
}

static void _tile_release() {
    for (auto &tile : emulated_tiles) tile = {};
}

static void _tile_zero(int t) { __builtin_memset(emulated_tiles[t].data, 0, sizeof emulated_tiles[t].data); }

static void _tile_loadd(int t, const void *from, int64_t stride) {
    auto &tile = emulated_tiles[t];
    _tile_zero(t);
    for (int r = 0; r < tile.rows; ++r) {
        __builtin_memcpy(tile.data[r], static_cast<const char *>(from) + r * stride, static_cast<size_t>(tile.bytes));
    }
}

static void _tile_stored(int t, void *to, int64_t stride) {
    const auto &tile = emulated_tiles[t];
    for (int r = 0; r < tile.rows; ++r) {
        __builtin_memcpy(static_cast<char *>(to) + r * stride, tile.data[r], static_cast<size_t>(tile.bytes));
    }
}

MAEDFER_INLINE float emulated_bfloat16(const unsigned char *row, int place) {
    uint16_t half;
    __builtin_memcpy(&half, row + 2 * place, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

static void _tile_dpbf16ps(int sums, int a, int b) {
    auto &c = emulated_tiles[sums];
    for (int m = 0; m < c.rows; ++m) {
        for (int k = 0; k < emulated_tiles[a].bytes / 4; ++k) {
            for (int n = 0; n < c.bytes / 4; ++n) {
                float x;
                __builtin_memcpy(&x, c.data[m] + 4 * n, 4);
                for (int i = 0; i < 2; ++i) {
                    x += emulated_bfloat16(emulated_tiles[a].data[m], 2 * k + i) *
                         emulated_bfloat16(emulated_tiles[b].data[k], 2 * n + i);
                }
                __builtin_memcpy(c.data[m] + 4 * n, &x, 4);
            }
        }
    }
}

}  // namespace maedfer::MAEDFER_VARIANT

#endif

namespace maedfer::MAEDFER_VARIANT {

static_assert(panel == 64 && depth_step == 32, "panels are cut into tiles of 16 columns and 32 numbers of depth");

// Depth that is summed in one chain; chains are added up, which keeps the error of long sums down.
constexpr int64_t amx_run = 512;

// sums[rows, 32] = A[rows, depth] times half of a panel; Both says whether there are more than 16 rows.
//
// Tiles 0 and 1 hold sums of the first 16 rows, 2 and 3 those of the others; 4 and 5 rows of A, 6 and 7 parts of the
// panel. Two and two, every tile that is loaded is used twice, and of the panel, which comes from the second-level cache,
// half as much is loaded as with one tile of rows.
template <bool Both>
MAEDFER_INLINE void amx_half(const BFloat16 *rows, int64_t step, const BFloat16 *half, int64_t depth, float *sums) {
    constexpr int64_t bytes = 4 * panel;
    float *const others = sums + 16 * panel;
    _tile_zero(0);
    _tile_zero(1);
    if (Both) _tile_zero(2);
    if (Both) _tile_zero(3);
    for (int64_t k = 0; k < depth; k += depth_step) {
        const BFloat16 *pairs = half + k * panel;
        _tile_loadd(4, rows + k, 2 * step);
        _tile_loadd(6, pairs, bytes);
        _tile_loadd(7, pairs + 32, bytes);
        if (Both) _tile_loadd(5, rows + 16 * step + k, 2 * step);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (Both) _tile_dpbf16ps(2, 5, 6);
        if (Both) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, bytes);
    _tile_stored(1, sums + 16, bytes);
    if (Both) _tile_stored(2, others, bytes);
    if (Both) _tile_stored(3, others + 16, bytes);
}

// Tiles are set up before a thread's first product, anew where the number of rows changes, and given back at the end.
template <>
struct Multiplier<BFloat16> {
    static constexpr int most_rows = 32;

    ~Multiplier() {
        if (ready) _tile_release();
    }

    void run(int64_t height, const BFloat16 *rows, int64_t step, const BFloat16 *data, int64_t depth, float *sums,
             bool first) {
        if (height != ready) set_up(height);
        for (int64_t k = 0; k == 0 || k < depth; k += amx_run) {
            const int64_t count = depth - k < amx_run ? depth - k : amx_run;
            if (first && k == 0) {
                panels(height, rows, step, data, count, sums);
            } else {
                panels(height, rows + k, step, data + k * panel, count, parts);
                for (int64_t i = 0; i < height * panel; i += lanes) store(sums + i, load(sums + i) + load(parts + i));
            }
        }
    }

  private:
    // Both halves of a panel.
    static void panels(int64_t height, const BFloat16 *rows, int64_t step, const BFloat16 *data, int64_t depth,
                       float *sums) {
        for (int half = 0; half < 2; ++half) {
            if (height > 16) {
                amx_half<true>(rows, step, data + 64 * half, depth, sums + 32 * half);
            } else {
                amx_half<false>(rows, step, data + 64 * half, depth, sums + 32 * half);
            }
        }
    }

    void set_up(int64_t height) {
        alignas(64) unsigned char config[64] = {};
        const int64_t above = height < 16 ? height : 16, below = height - above;
        const int64_t tiles[8] = {above, above, below, below, above, below, depth_step / 2, depth_step / 2};
        config[0] = 1;
        for (int t = 0; t < 8; ++t) {
            config[16 + 2 * t] = tiles[t] ? 64 : 0;
            config[48 + t] = static_cast<unsigned char>(tiles[t]);
        }
        _tile_loadconfig(config);
        ready = height;
    }

    int64_t ready = 0;
    alignas(64) float parts[most_rows * panel];
};

}  // namespace maedfer::MAEDFER_VARIANT
