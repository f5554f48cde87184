// A head's A and a, and a block of channels of all heads' V. Formulas and shapes are in ../fold.h.
#pragma once

#include "../fold.h"
#include "panels.h"

namespace maedfer::MAEDFER_VARIANT::folded {

MAEDFER_INLINE int64_t head_channels(const InteractionSizes &sizes) { return sizes.channels / sizes.heads; }

// Floats that a head's part of a row takes, as words.
MAEDFER_INLINE int64_t head_step(const InteractionSizes &sizes) { return rounded_up(head_channels(sizes), lanes); }

static int64_t fold_scratch(const InteractionSizes &sizes) {
    const int64_t rows = sizes.clips * sizes.regions, step = head_step(sizes);
    // Keys of a head or values of all, a panel, sums of a tile, products of a head's weights with the norm's bias.
    return rows * sizes.heads * step + step * panel_width + tile_rows * panel_width + head_channels(sizes) * lanes;
}

// Rows of all clips from channel `first` on, [R, head_step] of numbers for products.
template <typename Kind>
MAEDFER_APART void fold_left(const Fold &fold, int64_t first, const float *bias, float *words) {
    const InteractionSizes &sizes = fold.sizes;
    const int64_t count = head_channels(sizes), step = head_step(sizes);
    with_type(fold.kv, [&](auto *data) {
        for (int64_t row = 0; row < sizes.clips * sizes.regions; ++row, words += step) {
            const auto *from = data + row / sizes.regions * fold.kv.clip + row % sizes.regions * fold.kv.row + first;
            auto *to = reinterpret_cast<typename Kind::Number *>(words);
            for (int64_t i = 0; i < count; i += lanes) {
                const Vector x = load_some(from + i, count - i);
                store(to + i, bias ? x + load_some(bias + i, count - i) : x);
            }
        }
    });
}

// All rows times a panel, a tile at a time: done(first row, rows, sums of panel_width columns).
template <typename Kind, typename Done>
MAEDFER_INLINE void fold_products(const Fold &fold, const float *left_words, const float *panel, int64_t columns,
                                  float *buffer, Done done) {
    const int64_t all = fold.sizes.clips * fold.sizes.regions, step = head_step(fold.sizes);
    const int64_t words = rounded_up(head_channels(fold.sizes), Kind::pair) / Kind::pair;
    for (int64_t row = 0; row < all; row += tile_rows) {
        const int64_t rows = least(tile_rows, all - row);
        Left left{{}, 1};
        for (int64_t r = 0; r < rows; ++r) left.rows[r] = left_words + (row + r) * step;
        multiply<Kind>(rows, left, panel, columns, words, false, buffer, panel_width);
        done(row, rows);
    }
}

// Weights come from memory: what the next panel is made of is asked for while this one is multiplied.
template <typename T>
MAEDFER_INLINE void fetch(const T *from, int64_t step, int64_t rows, int64_t columns) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < columns; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + row * step + i);
}

static void fold_query(const Fold &fold, int64_t head, float *scratch) {
    const InteractionSizes &sizes = fold.sizes;
    const int64_t count = head_channels(sizes), channels = sizes.channels, all = sizes.clips * sizes.regions;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(count));
    float *left = scratch, *panel = left + all * sizes.heads * head_step(sizes);
    float *buffer = panel + head_step(sizes) * panel_width, *shifts = buffer + tile_rows * panel_width;
    for (int64_t d = 0; d < count; ++d) store(shifts + d * lanes, Vector{});
    with_products(fold.a.type, [&](auto kind) {
        using Kind = decltype(kind);
        fold_left<Kind>(fold, head * count, nullptr, left);
        for (int64_t first = 0; first < channels; first += panel_width) {
            const int64_t columns = least(panel_width, channels - first);
            with_type(fold.query, [&](auto *data) {
                const auto *weight = data + head * count * fold.query.row + first;
                fetch(weight + columns, fold.query.row, count, least(panel_width, channels - first - columns));
                const auto shifted = [&](Vector x, int64_t d, int64_t j) {
                    const Vector bias = load_some(fold.norm_bias + first + j, columns - j);
                    store(shifts + d * lanes, load(shifts + d * lanes) + x * bias);
                    return x;
                };
                pack_rows<Kind>([&](int64_t d) { return weight + d * fold.query.row; }, count, columns, shifted, panel);
            });
            fold_products<Kind>(fold, left, panel, columns, buffer, [&](int64_t row, int64_t rows) {
                with_type(fold.a, [&](auto *out) {
                    for (int64_t r = row; r < row + rows; ++r) {
                        auto *to = out + r / sizes.regions * fold.a.clip + head * fold.a.head +
                                   r % sizes.regions * fold.a.key + first;
                        for (int64_t c = 0; c < columns; c += lanes) {
                            const Vector g = load_some(fold.norm_weight + first + c, columns - c) * scale;
                            store_some(to + c, load(buffer + (r - row) * panel_width + c) * g, columns - c);
                        }
                    }
                });
            });
        }
    });
    // The last panel has served.
    float *shift = panel;
    for (int64_t d = 0; d < count; ++d) {
        const float bias = fold.query_bias ? fold.query_bias[head * count + d] : 0.0f;
        shift[d] = sum(load(shifts + d * lanes)) + bias;
    }
    // Of keys as they are: what is added to scores is exact.
    with_type(fold.kv, [&](auto *data) {
        for (int64_t row = 0; row < all; ++row) {
            const auto *k =
                data + row / sizes.regions * fold.kv.clip + row % sizes.regions * fold.kv.row + head * count;
            Vector total{};
            for (int64_t d = 0; d < count; d += lanes) {
                total += load_some(k + d, count - d) * load_some(shift + d, count - d);
            }
            fold.offset[head * all + row] = sum(total) * scale;
        }
    });
}

static void fold_output(const Fold &fold, int64_t block, float *scratch) {
    const InteractionSizes &sizes = fold.sizes;
    const int64_t count = head_channels(sizes), channels = sizes.channels, all = sizes.clips * sizes.regions;
    const int64_t step = head_step(sizes), end = least(channels, (block + 1) * interaction_block);
    const float share = 1.0f / static_cast<float>(sizes.heads);
    float *left = scratch, *panel = left + all * sizes.heads * step, *buffer = panel + step * panel_width;
    with_products(fold.v.type, [&](auto kind) {
        using Kind = decltype(kind);
        for (int64_t head = 0; head < sizes.heads; ++head) {
            const float *bias = fold.value_bias ? fold.value_bias + head * count : nullptr;
            fold_left<Kind>(fold, channels + head * count, bias, left + head * all * step);
        }
        for (int64_t first = block * interaction_block; first < end; first += panel_width) {
            const int64_t columns = least(panel_width, end - first);
            for (int64_t head = 0; head < sizes.heads; ++head) {
                with_type(fold.output, [&](auto *data) {
                    const auto *weight = data + first * fold.output.row + head * count;
                    if (head + 1 < sizes.heads) fetch(weight + count, fold.output.row, columns, count);
                    pack_columns<Kind>([&](int64_t j) { return weight + j * fold.output.row; }, columns, count, panel);
                });
                const auto done = [&](int64_t row, int64_t rows) {
                    with_type(fold.v, [&](auto *out) {
                        for (int64_t r = row; r < row + rows; ++r) {
                            const int64_t clip = r / sizes.regions;
                            const float keep = fold.keep ? fold.keep[clip] : 1.0f;
                            auto *to =
                                out + clip * fold.v.clip + head * fold.v.head + r % sizes.regions * fold.v.key + first;
                            for (int64_t c = 0; c < columns; c += lanes) {
                                Vector x = load(buffer + (r - row) * panel_width + c);
                                if (fold.out_bias) x += load_some(fold.out_bias + first + c, columns - c) * share;
                                store_some(to + c, x * keep, columns - c);
                            }
                        }
                    });
                };
                fold_products<Kind>(fold, left + head * all * step, panel, columns, buffer, done);
            }
        }
    });
}

constexpr Folds folds{fold_scratch, fold_query, fold_output};

}  // namespace maedfer::MAEDFER_VARIANT::folded
