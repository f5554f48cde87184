// The folded interaction for a chunk of local tokens: scores, softmax, values, residual and norm while its rows are in
// the cache. Formulas and shapes are in ../interaction.h.
#pragma once

#include "../interaction.h"
#include "norms.h"
#include "panels.h"

namespace maedfer::MAEDFER_VARIANT::folded {

// Rows of the stream that a chunk's tokens are.
struct ChunkRows {
    int64_t first, count, locals;

    ChunkRows(const InteractionSizes &sizes, int64_t chunk)
        : first(chunk * interaction_chunk),
          count(least(interaction_chunk, sizes.tokens() - first)),
          locals(sizes.rows - 1) {}

    // Where in a clip token `i` of the chunk lies.
    int64_t at(const Stream &stream, int64_t i) const {
        const int64_t token = first + i;
        return token / locals * stream.region + (1 + token % locals) * stream.row;
    }
};

MAEDFER_INLINE int64_t even(int64_t count) { return rounded_up(count, 2); }

// Mean and 1 / deviation of a row. In the second pass the mean's own rounding is taken off, so that rows far from zero
// lose nothing.
template <typename T>
MAEDFER_INLINE Moments moments_of(const T *row, int64_t columns, float eps) {
    Vector total[4] = {}, differences{}, squares[4] = {};
    const int64_t whole = columns / (4 * lanes) * (4 * lanes);
    const float count = static_cast<float>(columns);
    for (int64_t i = 0; i < whole; i += 4 * lanes)
        for (int j = 0; j < 4; ++j) total[j] += load(row + i + j * lanes);
    for (int64_t i = whole; i < columns; i += lanes) total[0] += load_some(row + i, columns - i);
    const float mean = sum((total[0] + total[1]) + (total[2] + total[3])) / count;
    for (int64_t i = 0; i < whole; i += 4 * lanes) {
        Vector d[4];
        for (int j = 0; j < 4; ++j) d[j] = load(row + i + j * lanes) - mean;
        for (int j = 0; j < 4; ++j) squares[j] += d[j] * d[j];
        differences += (d[0] + d[1]) + (d[2] + d[3]);
    }
    float square = sum((squares[0] + squares[1]) + (squares[2] + squares[3])), difference = sum(differences);
    for (int64_t i = whole; i < columns; ++i) {
        const float d = load(row + i, 1)[0] - mean;
        square += d * d;
        difference += d;
    }
    const float off = difference / count;
    return {mean + off, 1.0f / __builtin_sqrtf(square / count - off * off + eps)};
}

template <typename In, typename Out>
MAEDFER_INLINE void norm_row(const In *row, int64_t columns, const NextNorm &norm, Out *out) {
    const Moments found = moments_of(row, columns, norm.eps);
    for (int64_t i = 0; i < columns; i += lanes) {
        const int64_t rest = columns - i;
        const Vector n = (load_some(row + i, rest) - found.mean) * found.rstd;
        store_some(out + i, n * load_some(norm.weight + i, rest) + load_some(norm.bias + i, rest), rest);
    }
}

template <typename T>
MAEDFER_INLINE const T *key_row(const Keys &keys, const T *data, int64_t clip, int64_t regions, int64_t key) {
    return data + clip * keys.clip + key / regions * keys.head + key % regions * keys.key;
}

// Columns are packed in panels of panel_width keys, each of all words of the contraction.
static void interaction_pack(const InteractionSizes &sizes, const Keys &by_columns, const Keys &by_rows, int64_t clip,
                             int64_t block, const PackedKeys &packed) {
    const int64_t keys = sizes.keys(), begin = block * interaction_block;
    const int64_t end = least(sizes.channels, begin + interaction_block);
    with_products(by_columns.type, [&](auto kind) {
        using Kind = decltype(kind);
        const int64_t words = rounded_up(sizes.channels, Kind::pair) / Kind::pair;
        with_type(by_columns, [&](auto *data) {
            for (int64_t first = 0; first < keys; first += panel_width) {
                const int64_t columns = least(panel_width, keys - first), width = rounded_up(columns, lanes);
                const auto row = [&](int64_t j) {
                    return key_row(by_columns, data, clip, sizes.regions, first + j) + begin;
                };
                float *panel = packed.by_columns + first * words + begin / Kind::pair * width;
                pack_columns<Kind>(row, columns, end - begin, panel);
            }
        });
        const int64_t key_words = rounded_up(keys, Kind::pair) / Kind::pair;
        with_type(by_rows, [&](auto *data) {
            for (int64_t first = begin; first < end; first += panel_width) {
                const auto row = [&](int64_t k) { return key_row(by_rows, data, clip, sizes.regions, k) + first; };
                pack_rows<Kind>(row, keys, least(panel_width, end - first), unchanged,
                                packed.by_rows + first * key_words);
            }
        });
    });
}

static int64_t interaction_scratch(const InteractionSizes &sizes) {
    const int64_t keys = rounded_up(sizes.keys(), interaction_block);
    const int64_t channels = rounded_up(sizes.channels, interaction_block);
    // Rows for products, scores, scores by keys twice, words of them, rows of results.
    return interaction_chunk * (2 * channels + 4 * keys) + tile_rows * interaction_block;
}

// Scores [tokens, keys] with `step` between rows, as [keys, interaction_chunk].
MAEDFER_APART void by_keys(const float *scores, int64_t step, int64_t tokens, int64_t keys, float *out) {
    for (int64_t i = 0; i < tokens; i += lanes) {
        for (int64_t k = 0; k < keys; k += lanes) {
            Vector block[lanes];
            for (int64_t r = 0; r < lanes; ++r) {
                block[r] = i + r < tokens ? load(scores + (i + r) * step + k) : Vector{};
            }
            transpose(block);
            for (int64_t n = 0; n < least(lanes, keys - k); ++n) {
                store(out + (k + n) * interaction_chunk + i, block[n]);
            }
        }
    }
}

// Left-hand rows for a contraction over keys from values [keys, interaction_chunk]: a word of key after key.
template <typename Kind>
MAEDFER_APART const float *key_words(const float *values, int64_t tokens, int64_t keys, float *words) {
    if (Kind::pair == 1) return values;
    for (int64_t k = 0; k < keys; k += 2) {
        for (int64_t i = 0; i < tokens; i += lanes) {
            const float *at = values + k * interaction_chunk + i;
            const Vector high = k + 1 < keys ? load(at + interaction_chunk) : Vector{};
            store(words + k / 2 * interaction_chunk + i, Kind::join(load(at), high));
        }
    }
    return words;
}

// Products of a chunk's rows, which are adjacent words, with keys packed by columns: [tokens, keys].
template <typename Kind>
MAEDFER_APART void scores_of(const typename Kind::Number *const *row, int64_t tokens, int64_t channels, int64_t keys,
                             const float *packed, float *out, int64_t out_step) {
    const int64_t words = rounded_up(channels, Kind::pair) / Kind::pair;
    for (int64_t first = 0; first < keys; first += panel_width) {
        for (int64_t i = 0; i < tokens; i += tile_rows) {
            const int64_t rows = least(tile_rows, tokens - i);
            Left left{{}, 1};
            for (int64_t r = 0; r < rows; ++r) left.rows[r] = reinterpret_cast<const UnalignedFloat *>(row[i + r]);
            multiply<Kind>(rows, left, packed + first * words, least(panel_width, keys - first), words, false,
                           out + i * out_step + first, out_step);
        }
    }
}

// Products of left-hand words [words of keys, interaction_chunk] with keys packed by rows, a tile at a time: place(token,
// channel) says where one goes, with `step` between rows, and done(token, tokens, channel, channels) what is done then.
template <typename Kind, typename Place, typename Done>
MAEDFER_INLINE void sums_over_keys(const float *left_words, int64_t tokens, int64_t channels, int64_t keys,
                                   const float *packed, Place place, int64_t step, Done done) {
    const int64_t words = rounded_up(keys, Kind::pair) / Kind::pair;
    for (int64_t first = 0; first < channels; first += panel_width) {
        const int64_t columns = least(panel_width, channels - first);
        for (int64_t i = 0; i < tokens; i += tile_rows) {
            const int64_t rows = least(tile_rows, tokens - i);
            Left left{{}, interaction_chunk};
            for (int64_t r = 0; r < rows; ++r) left.rows[r] = left_words + i + r;
            multiply<Kind>(rows, left, packed + first * words, columns, words, false, place(i, first), step);
            done(i, rows, first, columns);
        }
    }
}

// Calls function(pointer of its type) for probabilities, which have the type of the products.
template <typename Kind, typename Function>
MAEDFER_INLINE void with_probabilities(Element type, const void *p, Function function) {
    void *data = const_cast<void *>(p);
    if constexpr (Kind::pair == 1) {
        if (type == Element::float32) return function(static_cast<float *>(data));
    }
    (void)type;
    function(static_cast<BFloat16 *>(data));
}

// Softmax over the M values of each head, tokens side by side.
MAEDFER_APART void softmax_of_heads(float *scores, const float *offset, int64_t tokens, int64_t heads,
                                    int64_t regions) {
    for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < tokens; i += lanes) {
            float *at = scores + h * regions * interaction_chunk + i;
            const float *bias = offset + h * regions;
            Vector most = load(at) + bias[0];
            for (int64_t m = 1; m < regions; ++m) most = larger(most, load(at + m * interaction_chunk) + bias[m]);
            Vector total{};
            for (int64_t m = 0; m < regions; ++m) {
                const Vector p = exponential(load(at + m * interaction_chunk) + bias[m] - most);
                store(at + m * interaction_chunk, p);
                total += p;
            }
            const Vector share = 1.0f / total;
            for (int64_t m = 0; m < regions; ++m) {
                store(at + m * interaction_chunk, load(at + m * interaction_chunk) * share);
            }
        }
    }
}

template <typename Kind, typename Z, typename P, typename N>
MAEDFER_INLINE void interaction_rows(const InteractionForward &task, int64_t clip, int64_t chunk,
                                     const PackedKeys &packed, float *scratch, const Z *z, Z *y, P *p, N *n) {
    const InteractionSizes &sizes = task.sizes;
    const int64_t channels = sizes.channels, keys = sizes.keys();
    const ChunkRows rows(sizes, chunk);
    const int64_t padded = rounded_up(keys, panel_width), step = rounded_up(channels, lanes);
    float *xhat_words = scratch, *scores = xhat_words + interaction_chunk * step;
    float *probabilities = scores + interaction_chunk * padded;
    float *words = probabilities + interaction_chunk * padded, *buffer = words + interaction_chunk * padded;
    typename Kind::Number *xhat = reinterpret_cast<typename Kind::Number *>(xhat_words);
    const typename Kind::Number *left_rows[interaction_chunk];
    const Z *x_rows[interaction_chunk];
    Z *y_rows[interaction_chunk];
    for (int64_t i = 0; i < rows.count; ++i) {
        left_rows[i] = xhat + i * step;
        x_rows[i] = z + clip * task.z.clip + rows.at(task.z, i);
        y_rows[i] = y + clip * task.y.clip + rows.at(task.y, i);
    }
    for (int64_t i = 0; i < rows.count; ++i) {
        const Z *x = x_rows[i], *next = x_rows[least(i + 2, rows.count - 1)];
        for (int64_t c = 0; c < channels; c += 64 / static_cast<int64_t>(sizeof(Z))) __builtin_prefetch(next + c);
        const Moments found = moments_of(x, channels, task.norm.eps);
        // What is beyond the last channel meets zeros in the keys.
        for (int64_t c = 0; c < channels; c += lanes) {
            const Vector centred = (load_some(x + c, channels - c) - found.mean) * found.rstd;
            store(xhat + i * step + c, centred);
        }
    }
    scores_of<Kind>(left_rows, rows.count, channels, keys, packed.by_columns, scores, padded);
    by_keys(scores, padded, rows.count, keys, probabilities);
    softmax_of_heads(probabilities, task.offset + clip * keys, rows.count, sizes.heads, sizes.regions);
    if (p) {
        const int64_t kept = even(rows.count);
        p += clip * task.p_clip + rows.first * keys;
        for (int64_t k = 0; k < keys; ++k) {
            for (int64_t i = 0; i < kept; i += lanes) {
                store_some(p + k * kept + i, load(probabilities + k * interaction_chunk + i), kept - i);
            }
        }
    }
    const float *left = key_words<Kind>(probabilities, rows.count, keys, words);
    const auto add_residual = [&](int64_t i, int64_t count, int64_t first, int64_t columns) {
        for (int64_t r = 0; r < count; ++r) {
            const Z *x = x_rows[i + r] + first;
            Z *to = y_rows[i + r] + first;
            const float *branch = buffer + r * panel_width;
            for (int64_t c = 0; c < columns; c += lanes) {
                store_some(to + c, load_some(x + c, columns - c) + load(branch + c), columns - c);
            }
        }
    };
    const auto place = [&](int64_t, int64_t) { return buffer; };
    sums_over_keys<Kind>(left, rows.count, channels, keys, packed.by_rows, place, panel_width, add_residual);
    // What is normed is y as it is stored.
    n += clip * task.n.clip;
    for (int64_t i = 0; i < rows.count; ++i) {
        norm_row(y_rows[i], channels, task.norm, n + rows.at(task.n, i));
    }
}

static void interaction_forward(const InteractionForward &task, int64_t clip, int64_t chunk, const PackedKeys &packed,
                                float *scratch) {
    with_products(task.v.type, [&](auto kind) {
        using Kind = decltype(kind);
        with_type(task.z, [&](auto *z) {
            with_probabilities<Kind>(task.v.type, task.p, [&](auto *p) {
                with_type(task.n, [&](auto *n) {
                    auto *y = static_cast<decltype(z)>(task.y.data);
                    interaction_rows<Kind>(task, clip, chunk, packed, scratch, z, y, p, n);
                });
            });
        });
    });
}

// Representative tokens take no part, but are normed like all rows.
static void interaction_representatives(const InteractionForward &task, int64_t clip) {
    const int64_t channels = task.sizes.channels;
    with_type(task.s, [&](auto *s) {
        with_type(task.n, [&](auto *n) {
            auto *y = static_cast<decltype(s)>(task.y.data);
            for (int64_t m = 0; m < task.sizes.regions; ++m) {
                const auto *from = s + clip * task.s.clip + m * task.s.region;
                auto *to = y + clip * task.y.clip + m * task.y.region;
                for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
                norm_row(to, channels, task.norm, n + clip * task.n.clip + m * task.n.region);
            }
        });
    });
}

}  // namespace maedfer::MAEDFER_VARIANT::folded
