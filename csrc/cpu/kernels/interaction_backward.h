// Gradients of the folded interaction, given the whole gradient g of y:
//
//     dscore = p * (g V^T - sum over m of p * (g V^T));   dxhat = dscore A
//     dx = g + (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std
//     dA = dscore^T xhat;   dV = p^T g;   da = sum of dscore
//
// The first pass goes over chunks of tokens, the second over blocks of channels, for which it takes the tokens in order.
#pragma once

#include "interaction.h"

namespace maedfer::MAEDFER_VARIANT::folded {

// Gradients of a chunk's scores [keys, interaction_chunk], in place of those of the probabilities.
template <typename P>
MAEDFER_APART void softmax_gradient(float *gradients, const P *p, int64_t kept, const InteractionSizes &sizes) {
    for (int64_t h = 0; h < sizes.heads; ++h) {
        for (int64_t i = 0; i < kept; i += lanes) {
            float *at = gradients + h * sizes.regions * interaction_chunk + i;
            const P *probability = p + h * sizes.regions * kept + i;
            Vector inner{};
            for (int64_t m = 0; m < sizes.regions; ++m) {
                inner += load_some(probability + m * kept, kept - i) * load(at + m * interaction_chunk);
            }
            for (int64_t m = 0; m < sizes.regions; ++m) {
                const Vector d = load(at + m * interaction_chunk) - inner;
                store(at + m * interaction_chunk, load_some(probability + m * kept, kept - i) * d);
            }
        }
    }
}

// Left-hand rows of g as words: where they lie, if they are such, else copied.
template <typename Kind, typename G>
MAEDFER_INLINE const typename Kind::Number *gradient_row(const G *g, int64_t channels, typename Kind::Number *copy) {
    if constexpr (Same<typename Kind::Number, G>::value) {
        if (channels % Kind::pair == 0) return g;
    }
    for (int64_t c = 0; c < channels; c += lanes) store(copy + c, load_some(g + c, channels - c));
    return copy;
}

template <typename Kind, typename G, typename Z, typename P>
MAEDFER_INLINE void interaction_gradients(const InteractionBackward &task, int64_t clip, int64_t chunk,
                                          const PackedKeys &packed, float *scratch, const G *g, const Z *z, const P *p,
                                          Z *dz) {
    using Number = typename Kind::Number;
    const InteractionSizes &sizes = task.sizes;
    const int64_t channels = sizes.channels, keys = sizes.keys();
    const ChunkRows rows(sizes, chunk);
    const int64_t padded = rounded_up(keys, panel_width), wide = rounded_up(channels, panel_width);
    float *copies = scratch, *dxhat = copies + interaction_chunk * wide, *scores = dxhat + interaction_chunk * wide;
    float *dscore = scores + interaction_chunk * padded, *words = dscore + interaction_chunk * padded;
    g += clip * task.g.clip;
    z += clip * task.z.clip;
    dz += clip * task.dz.clip;
    const Number *left_rows[interaction_chunk];
    for (int64_t i = 0; i < rows.count; ++i) {
        Number *copy = reinterpret_cast<Number *>(copies) + i * wide;
        left_rows[i] = gradient_row<Kind>(g + rows.at(task.g, i), channels, copy);
    }
    scores_of<Kind>(left_rows, rows.count, channels, keys, packed.by_columns, scores, padded);
    by_keys(scores, padded, rows.count, keys, dscore);
    softmax_gradient(dscore, p + clip * task.p_clip + rows.first * keys, even(rows.count), sizes);
    Number *kept = reinterpret_cast<Number *>(task.dscore) + (clip * sizes.chunks() + chunk) * keys * interaction_chunk;
    float *totals = task.dscore_sums + (clip * sizes.chunks() + chunk) * keys;
    for (int64_t k = 0; k < keys; ++k) {
        Vector total{};
        for (int64_t i = 0; i < interaction_chunk; i += lanes) {
            const int64_t at = k * interaction_chunk + i;
            const Vector d = i < rows.count ? load(dscore + at) : Vector{};
            store(kept + at, d);
            total += d;
        }
        totals[k] = sum(total);
    }
    const float *left = key_words<Kind>(dscore, rows.count, keys, words);
    const auto place = [&](int64_t i, int64_t first) { return dxhat + i * wide + first; };
    const auto done = [](int64_t, int64_t, int64_t, int64_t) {};
    sums_over_keys<Kind>(left, rows.count, channels, keys, packed.by_rows, place, wide, done);
    for (int64_t i = 0; i < rows.count; ++i) {
        const Z *x = z + rows.at(task.z, i);
        const G *dy = g + rows.at(task.g, i);
        Z *to = dz + rows.at(task.dz, i);
        const float *d = dxhat + i * wide;
        const Moments found = moments_of(x, channels, task.eps);
        float *kept_moments = task.moments + 2 * (clip * sizes.tokens() + rows.first + i);
        kept_moments[0] = found.mean;
        kept_moments[1] = found.rstd;
        Vector total{}, projected{};
        for (int64_t c = 0; c < channels; c += lanes) {
            const int64_t rest = channels - c;
            const Vector one = load_some(d + c, rest);
            total += one;
            projected += one * (load_some(x + c, rest) - found.mean);
        }
        const float count = static_cast<float>(channels), mean = sum(total) / count;
        const float slope = sum(projected) * found.rstd * found.rstd / count;
        for (int64_t c = 0; c < channels; c += lanes) {
            const int64_t rest = channels - c;
            const Vector own = load(d + c) - mean - (load_some(x + c, rest) - found.mean) * slope;
            store_some(to + c, load_some(dy + c, rest) + own * found.rstd, rest);
        }
    }
}

static void interaction_backward(const InteractionBackward &task, int64_t clip, int64_t chunk, const PackedKeys &packed,
                                 float *scratch) {
    with_products(task.v.type, [&](auto kind) {
        using Kind = decltype(kind);
        with_type(task.g, [&](auto *g) {
            with_type(task.z, [&](auto *z) {
                with_probabilities<Kind>(task.v.type, task.p, [&](auto *p) {
                    auto *dz = static_cast<decltype(z)>(task.dz.data);
                    interaction_gradients<Kind>(task, clip, chunk, packed, scratch, g, z, p, dz);
                });
            });
        });
    });
}

// Gradients of representative tokens: those of y.
static void interaction_backward_representatives(const InteractionBackward &task, int64_t clip) {
    with_type(task.g, [&](auto *g) {
        with_type(task.dz, [&](auto *dz) {
            auto *ds = static_cast<decltype(dz)>(task.ds.data);
            for (int64_t m = 0; m < task.sizes.regions; ++m) {
                const auto *from = g + clip * task.g.clip + m * task.g.region;
                auto *zero = dz + clip * task.dz.clip + m * task.dz.region;
                auto *to = ds + clip * task.ds.clip + m * task.ds.region;
                for (int64_t c = 0; c < task.sizes.channels; c += lanes) {
                    const int64_t rest = task.sizes.channels - c;
                    store_some(zero + c, Vector{}, rest);
                    store_some(to + c, load_some(from + c, rest), rest);
                }
            }
        });
    });
}

// Adds left^T [keys, tokens of a chunk] times a panel to sums [keys, panel_width]. Keys are `step` numbers apart.
template <typename Kind, typename T>
MAEDFER_INLINE void add_keys(const T *left_rows, int64_t step, int64_t tokens, int64_t keys, const float *panel,
                             int64_t columns, float *sums) {
    using Number = typename Kind::Number;
    const int64_t words = rounded_up(tokens, Kind::pair) / Kind::pair;
    for (int64_t k = 0; k < keys; k += tile_rows) {
        const int64_t rows = least(tile_rows, keys - k);
        Left left{{}, 1};
        alignas(64) Number copies[tile_rows][interaction_chunk];
        for (int64_t r = 0; r < rows; ++r) {
            const T *from = left_rows + (k + r) * step;
            if constexpr (Same<Number, T>::value) {
                left.rows[r] = reinterpret_cast<const UnalignedFloat *>(from);
            } else {
                for (int64_t i = 0; i < tokens; i += lanes) store(copies[r] + i, load_some(from + i, tokens - i));
                left.rows[r] = reinterpret_cast<const UnalignedFloat *>(copies[r]);
            }
        }
        multiply<Kind>(rows, left, panel, columns, words, true, sums + k * panel_width, panel_width);
    }
}

template <typename Kind, typename T, typename L, typename Change>
MAEDFER_INLINE void sums_over_tokens(const InteractionBackward &task, const Stream &stream, const T *data,
                                     const L *left, bool whole_chunks, Change change, int64_t columns, float *sums,
                                     float *panel) {
    const InteractionSizes &sizes = task.sizes;
    const int64_t keys = sizes.keys();
    for (int64_t i = 0; i < keys * panel_width; i += lanes) store(sums + i, Vector{});
    for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) {
        const ChunkRows rows(sizes, chunk);
        const T *starts[interaction_chunk];
        for (int64_t i = 0; i < rows.count; ++i) starts[i] = data + rows.at(stream, i);
        const auto row = [&](int64_t i) { return starts[i]; };
        const auto changed = [&](Vector x, int64_t i, int64_t) { return change(x, rows.first + i); };
        pack_rows<Kind>(row, rows.count, columns, changed, panel);
        const int64_t step = whole_chunks ? interaction_chunk : even(rows.count);
        add_keys<Kind>(left, step, rows.count, keys, panel, columns, sums);
        left += keys * step;
    }
}

// A block of channels of dA, with da for the first of them, or of dV.
static void interaction_key_gradients(const InteractionBackward &task, int64_t clip, int64_t block, bool of_values,
                                      float *scratch) {
    const InteractionSizes &sizes = task.sizes;
    const int64_t keys = sizes.keys(), end = least(sizes.channels, (block + 1) * interaction_block);
    float *sums = scratch, *panel = sums + keys * panel_width;
    const Keys &out = of_values ? task.dv : task.da;
    with_products(task.v.type, [&](auto kind) {
        using Kind = decltype(kind);
        using Number = typename Kind::Number;
        const Number *dscore = reinterpret_cast<const Number *>(task.dscore);
        dscore += clip * sizes.chunks() * keys * interaction_chunk;
        for (int64_t first = block * interaction_block; first < end; first += panel_width) {
            const int64_t columns = least(panel_width, end - first);
            if (of_values) {
                with_type(task.g, [&](auto *g) {
                    with_probabilities<Kind>(task.v.type, task.p, [&](auto *p) {
                        const auto same = [](Vector x, int64_t) { return x; };
                        sums_over_tokens<Kind>(task, task.g, g + clip * task.g.clip + first, p + clip * task.p_clip,
                                               false, same, columns, sums, panel);
                    });
                });
            } else {
                const float *moments = task.moments + 2 * clip * sizes.tokens();
                const auto normed = [&](Vector x, int64_t i) { return (x - moments[2 * i]) * moments[2 * i + 1]; };
                with_type(task.z, [&](auto *z) {
                    sums_over_tokens<Kind>(task, task.z, z + clip * task.z.clip + first, dscore, true, normed, columns,
                                           sums, panel);
                });
            }
            with_type(out, [&](auto *data) {
                for (int64_t k = 0; k < keys; ++k) {
                    auto *to =
                        data + clip * out.clip + k / sizes.regions * out.head + k % sizes.regions * out.key + first;
                    for (int64_t c = 0; c < columns; c += lanes) {
                        store_some(to + c, load(sums + k * panel_width + c), columns - c);
                    }
                }
            });
        }
        if (of_values || block) return;
        const float *totals = task.dscore_sums + clip * sizes.chunks() * keys;
        for (int64_t k = 0; k < keys; ++k) {
            float total = 0;
            for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) total += totals[chunk * keys + k];
            task.doffset[clip * keys + k] = total;
        }
    });
}

constexpr Interactions interactions{
    interaction_pack,          interaction_scratch,
    interaction_forward,       interaction_representatives,
    interaction_backward,      interaction_backward_representatives,
    interaction_key_gradients,
};

}  // namespace maedfer::MAEDFER_VARIANT::folded
