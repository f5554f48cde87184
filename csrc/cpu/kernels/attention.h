// Attention inside groups of rows, forward and backward, one head of a group at a time.
//
//     out = softmax((q + q_bias) k^T / sqrt(D)) (v + v_bias)
//
// Either bias may be left out. Probabilities sum to one, so that v_bias is added to the result, and it cancels in the
// gradient of the scores. Queries go in blocks that fit the cache with their scores; keys and values of the head are
// packed once. The backward pass forms the probabilities again: nothing but the inputs is kept for it. Scores, softmax
// and all sums are float32; with pairs of bfloat16, operands of products are rounded to it.
#pragma once

#include "../attention.h"
#include "small_products.h"

namespace maedfer::MAEDFER_VARIANT {
namespace small {

// Takes pieces of a buffer; of one at address 0 it tells the bytes that are taken.
struct Buffer {
    uintptr_t next;

    MAEDFER_MEMBER float *take(int64_t words) {
        float *const found = reinterpret_cast<float *>(next);
        next += (words * 4 + 63) / 64 * 64;
        return found;
    }
};

constexpr int64_t most_block = 120;

// Rows of scores of a block of queries: a block fills part of the second cache, and is made of whole tiles.
MAEDFER_INLINE int64_t block_rows(int64_t queries, int64_t key_columns, int64_t most_numbers) {
    const int64_t most = lesser(most_block, whole(most_numbers, key_columns));
    return lesser(queries, whole(whole(queries, whole(queries, most)), most_rows) * most_rows);
}

// Sizes in numbers; those of whole vectors are called columns.
struct Sizes {
    int64_t queries, keys, dim, key_columns, dim_columns, key_vectors, dim_vectors;
    float scale;

    explicit MAEDFER_MEMBER Sizes(const Attention &x)
        : queries(x.queries),
          keys(x.keys),
          dim(x.head_dim()),
          key_columns(whole(keys, lanes) * lanes),
          dim_columns(whole(dim, lanes) * lanes),
          key_vectors(key_columns / lanes),
          dim_vectors(dim_columns / lanes),
          scale(1.0f / __builtin_sqrtf(static_cast<float>(dim))) {}
};

template <typename T>
MAEDFER_INLINE Rows<T> rows_of(const Matrix &x, int64_t row, int64_t column) {
    return {static_cast<T *>(x.data) + x.offset(row) + column, x.stride};
}

// x [rows, dim] plus a bias [dim] or nothing, as numbers of a left operand, rows `columns` of these apart.
template <typename Number, typename T>
MAEDFER_INLINE void copy(const Rows<const T> &x, int64_t rows, int64_t dim, const float *bias, const Rows<Number> &to) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t column = 0; column < dim; column += lanes) {
            Vector found = load_or_zero(x.row(i) + column, dim - column);
            if (bias) found += load_or_zero(bias + column, dim - column);
            store(to.row(i) + column, found);
        }
    }
}

// 2^x for x up to 127, to 2 units in the last place; 0 below -126. NaN stays one.
MAEDFER_INLINE Vector power_of_two(Vector x) {
    // x = n + r, where n is the nearest integer: adding 1.5 * 2^23 rounds. With 127 more, the last bits are 2^n's exponent.
    const Vector shifted = x + 12583039.0f;
    const Vector r = x - (shifted - 12583039.0f);
    // Fitted for the least relative error on |r| <= 1 / 2, which is 2e-9.
    Vector p = r * 1.53533620e-4f + 1.33988739e-3f;
    p = p * r + 9.61843692e-3f;
    p = p * r + 5.55033237e-2f;
    p = p * r + 2.40226477e-1f;
    p = p * r + 6.93147182e-1f;
    p = p * r + 1.0f;
    const Vector found = p * reinterpret_cast<Vector>(reinterpret_cast<Words>(shifted) << 23);
    return x < -126.0f ? Vector{} : found;
}

// Scores [rows of key_columns] become e^(score * scale), but for a factor; returns one over their sum.
MAEDFER_INLINE float soften(float *row, const Sizes &size) {
    float *const last = row + size.key_columns - lanes;
    const auto there = static_cast<int32_t>(size.keys - (size.key_columns - lanes));
    store(last, counted(Lanes{}) < there ? load(last) : all(-__builtin_inff()));
    Vector most = load(row);
    for (int64_t i = lanes; i < size.key_columns; i += lanes) most = larger(most, load(row + i));
    const float factor = size.scale * 1.44269504f, shift = largest(most) * factor;
    Vector total{};
    for (int64_t i = 0; i < size.key_columns; i += lanes) {
        const Vector p = power_of_two(load(row + i) * factor - shift);
        total += p;
        store(row + i, p);
    }
    return 1.0f / sum(total);
}

// Of scores and of the gradients of probabilities: probabilities and the gradients of scores, but for the scale.
MAEDFER_INLINE void slopes(float *row, float *gradient, const Sizes &size) {
    const float inverse = soften(row, size);
    Vector total{};
    for (int64_t i = 0; i < size.key_columns; i += lanes) total += load(row + i) * load(gradient + i);
    const float mean = sum(total) * inverse;
    for (int64_t i = 0; i < size.key_columns; i += lanes) {
        const Vector p = load(row + i) * inverse;
        store(row + i, p);
        store(gradient + i, p * (load(gradient + i) - mean));
    }
}

// x [rows, columns] as a left operand, rounded into `to` where the kind is another.
template <typename Kind>
MAEDFER_INLINE LeftOperand plain(const Rows<float> &x, int64_t rows, int64_t columns, float *to) {
    if constexpr (Kind::numbers == 1) {
        return {x.first, x.step, 1};
    } else {
        const int64_t step = whole(columns, 2 * lanes) * lanes;
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t column = 0; column < columns; column += 2 * lanes) {
                const float *const from = x.row(i) + column;
                const Vector second = column + lanes < columns ? load(from + lanes) : Vector{};
                store(to + i * step + column / 2, Kind::rounded_row(load(from), second));
            }
        }
        return {to, step, 1};
    }
}

// The same of the transposed of x.
template <typename Kind>
MAEDFER_INLINE LeftOperand transposed(const Rows<float> &x, int64_t rows, int64_t columns, float *to) {
    if constexpr (Kind::numbers == 1) {
        return {x.first, 1, x.step};
    } else {
        for (int64_t i = 0; i < rows; i += 2) {
            for (int64_t column = 0; column < columns; column += lanes) {
                const Vector lower = i + 1 < rows ? load(x.row(i + 1) + column) : Vector{};
                store(to + i / 2 * columns + column, Kind::rounded_pairs(load(x.row(i) + column), lower));
            }
        }
        return {to, 1, columns};
    }
}

// Where a head's forward pass works.
template <typename Kind>
struct ForwardSpace {
    int64_t rows;
    Buffer buffer;
    float *keys, *values, *left, *scores, *rounded, *out;

    MAEDFER_MEMBER ForwardSpace(const Sizes &size, void *scratch)
        : rows(block_rows(size.queries, size.key_columns, 8192)), buffer{reinterpret_cast<uintptr_t>(scratch)} {
        keys = buffer.take(whole(size.dim, Kind::numbers) * size.key_columns);
        values = buffer.take(whole(size.keys, Kind::numbers) * size.dim_columns);
        left = buffer.take(rows * size.dim_columns / Kind::numbers);
        scores = buffer.take(rows * size.key_columns);
        rounded = buffer.take(Kind::numbers == 1 ? 0 : rows * whole(size.key_columns, 2 * lanes) * lanes);
        out = buffer.take(rows * size.dim_columns);
    }
};

template <typename Kind, typename T>
static void forward_head(const Attention &x, const Sizes &size, const Matrix &to, int64_t group, int64_t head,
                         void *scratch) {
    using Number = typename Kind::Number;
    const ForwardSpace<Kind> space(size, scratch);
    const int64_t column = head * size.dim;
    const Rows<const T> keys = rows_of<const T>(x.k, group * size.keys, column);
    const Rows<const T> values = rows_of<const T>(x.v, group * size.keys, column);
    const Rows<const T> queries = rows_of<const T>(x.q, group * size.queries, column);
    const Rows<T> results = rows_of<T>(to, group * size.queries, column);
    const Rows<Number> left{reinterpret_cast<Number *>(space.left), size.dim_columns};
    const Rows<float> scores{space.scores, size.key_columns}, out{space.out, size.dim_columns};
    pack_transposed<Kind>(keys, size.keys, size.dim, space.keys);
    pack<Kind>(values, size.keys, size.dim, space.values);
    for (int64_t begin = 0; begin < size.queries; begin += space.rows) {
        const int64_t rows = lesser(space.rows, size.queries - begin);
        copy(queries.from(begin), rows, size.dim, x.q_bias ? x.q_bias + column : nullptr, left);
        multiply<Kind>({space.left, size.dim_columns / Kind::numbers, 1}, space.keys, rows, size.key_vectors,
                       whole(size.dim, Kind::numbers), scores, false);
        float inverse[most_block];
        for (int64_t i = 0; i < rows; ++i) inverse[i] = soften(scores.row(i), size);
        multiply<Kind>(plain<Kind>(scores, rows, size.key_columns, space.rounded), space.values, rows, size.dim_vectors,
                       whole(size.keys, Kind::numbers), out, false);
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t d = 0; d < size.dim; d += lanes) {
                Vector found = load(out.row(i) + d) * inverse[i];
                if (x.v_bias) found += load_or_zero(x.v_bias + column + d, size.dim - d);
                store_some(results.row(begin + i) + d, found, size.dim - d);
            }
        }
    }
}

// Where a head's backward pass works.
template <typename Kind>
struct BackwardSpace {
    int64_t rows;
    Buffer buffer;
    float *keys_transposed, *values_transposed, *keys;
    // Of a block of queries.
    float *q, *dout, *q_packed, *dout_packed, *scores, *gradients, *rounded, *dq;
    // Sums [keys, dim_columns] and [2, dim_columns].
    float *dk, *dv, *bias;

    MAEDFER_MEMBER BackwardSpace(const Sizes &size, void *scratch)
        : rows(block_rows(size.queries, size.key_columns, 32768)), buffer{reinterpret_cast<uintptr_t>(scratch)} {
        keys_transposed = buffer.take(whole(size.dim, Kind::numbers) * size.key_columns);
        values_transposed = buffer.take(whole(size.dim, Kind::numbers) * size.key_columns);
        keys = buffer.take(whole(size.keys, Kind::numbers) * size.dim_columns);
        q = buffer.take(rows * size.dim_columns / Kind::numbers);
        dout = buffer.take(rows * size.dim_columns / Kind::numbers);
        q_packed = buffer.take(whole(rows, Kind::numbers) * size.dim_columns);
        dout_packed = buffer.take(whole(rows, Kind::numbers) * size.dim_columns);
        scores = buffer.take(rows * size.key_columns);
        gradients = buffer.take(rows * size.key_columns);
        // By rows, or by pairs of them.
        rounded = buffer.take(Kind::numbers == 1 ? 0 : whole(rows, 2) * 2 * whole(size.key_columns, 2 * lanes) * lanes);
        dq = buffer.take(rows * size.dim_columns);
        dk = buffer.take(size.keys * size.dim_columns);
        dv = buffer.take(size.keys * size.dim_columns);
        bias = buffer.take(2 * size.dim_columns);
    }
};

template <typename T>
MAEDFER_INLINE void store_rows(const Rows<float> &x, int64_t rows, int64_t dim, float factor, const Rows<T> &to) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t d = 0; d < dim; d += lanes) store_some(to.row(i) + d, load(x.row(i) + d) * factor, dim - d);
}

template <typename T>
MAEDFER_INLINE void add_rows(const Rows<T> &x, int64_t rows, int64_t columns, float factor, float *sums) {
    for (int64_t d = 0; d < columns; d += lanes) {
        Vector total{};
        for (int64_t i = 0; i < rows; ++i) total += load(x.row(i) + d);
        store(sums + d, load(sums + d) + total * factor);
    }
}

template <typename Kind, typename T>
static void backward_head(const Attention &x, const Sizes &size, const AttentionGradients &to, int64_t group,
                          int64_t head, void *scratch) {
    using Number = typename Kind::Number;
    const BackwardSpace<Kind> space(size, scratch);
    const int64_t column = head * size.dim, dim_words = whole(size.dim, Kind::numbers);
    const Rows<const T> keys = rows_of<const T>(x.k, group * size.keys, column);
    const Rows<const T> values = rows_of<const T>(x.v, group * size.keys, column);
    const Rows<const T> queries = rows_of<const T>(x.q, group * size.queries, column);
    const Rows<const T> douts = rows_of<const T>(to.dout, group * size.queries, column);
    const Rows<Number> q{reinterpret_cast<Number *>(space.q), size.dim_columns};
    const Rows<Number> dout{reinterpret_cast<Number *>(space.dout), size.dim_columns};
    const Rows<float> scores{space.scores, size.key_columns}, gradients{space.gradients, size.key_columns};
    const Rows<float> dq{space.dq, size.dim_columns}, dk{space.dk, size.dim_columns}, dv{space.dv, size.dim_columns};
    const int64_t left_step = size.dim_columns / Kind::numbers;
    pack_transposed<Kind>(keys, size.keys, size.dim, space.keys_transposed);
    pack_transposed<Kind>(values, size.keys, size.dim, space.values_transposed);
    pack<Kind>(keys, size.keys, size.dim, space.keys);
    for (int64_t d = 0; d < 2 * size.dim_columns; d += lanes) store(space.bias + d, Vector{});
    for (int64_t begin = 0; begin < size.queries; begin += space.rows) {
        const int64_t rows = lesser(space.rows, size.queries - begin), words = whole(rows, Kind::numbers);
        copy(queries.from(begin), rows, size.dim, x.q_bias ? x.q_bias + column : nullptr, q);
        copy(douts.from(begin), rows, size.dim, nullptr, dout);
        pack<Kind>(Rows<const Number>{q.first, q.step}, rows, size.dim, space.q_packed);
        pack<Kind>(Rows<const Number>{dout.first, dout.step}, rows, size.dim, space.dout_packed);
        multiply<Kind>({space.q, left_step, 1}, space.keys_transposed, rows, size.key_vectors, dim_words, scores,
                       false);
        multiply<Kind>({space.dout, left_step, 1}, space.values_transposed, rows, size.key_vectors, dim_words,
                       gradients, false);
        for (int64_t i = 0; i < rows; ++i) slopes(scores.row(i), gradients.row(i), size);
        multiply<Kind>(plain<Kind>(gradients, rows, size.key_columns, space.rounded), space.keys, rows,
                       size.dim_vectors, whole(size.keys, Kind::numbers), dq, false);
        store_rows(dq, rows, size.dim, size.scale, rows_of<T>(to.dq, group * size.queries, column).from(begin));
        multiply<Kind>(transposed<Kind>(gradients, rows, size.key_columns, space.rounded), space.q_packed, size.keys,
                       size.dim_vectors, words, dk, begin > 0);
        multiply<Kind>(transposed<Kind>(scores, rows, size.key_columns, space.rounded), space.dout_packed, size.keys,
                       size.dim_vectors, words, dv, begin > 0);
        if (to.bias) {
            add_rows(dq, rows, size.dim_columns, size.scale, space.bias);
            add_rows(dout, rows, size.dim_columns, 1.0f, space.bias + size.dim_columns);
        }
    }
    store_rows(dk, size.keys, size.dim, size.scale, rows_of<T>(to.dk, group * size.keys, column));
    store_rows(dv, size.keys, size.dim, 1.0f, rows_of<T>(to.dv, group * size.keys, column));
    if (to.bias) {
        const int64_t width = x.q.columns;
        store_rows({space.bias, size.dim_columns}, 2, size.dim, 1.0f,
                   Rows<float>{to.bias + 2 * group * width + column, width});
    }
}

#ifdef __AVX512BF16__
using Low = Pairs;
#else
using Low = Exact;
#endif

static int64_t forward_scratch(const Attention &x) {
    const Sizes size(x);
    return x.q.type == Element::float32 ? ForwardSpace<Exact>(size, nullptr).buffer.next
                                        : ForwardSpace<Low>(size, nullptr).buffer.next;
}

static int64_t backward_scratch(const Attention &x) {
    const Sizes size(x);
    return x.q.type == Element::float32 ? BackwardSpace<Exact>(size, nullptr).buffer.next
                                        : BackwardSpace<Low>(size, nullptr).buffer.next;
}

static void forward(const Attention &x, const Matrix &out, int64_t begin, int64_t end, void *scratch) {
    const Sizes size(x);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / x.heads, head = task % x.heads;
        if (x.q.type == Element::float32) {
            forward_head<Exact, float>(x, size, out, group, head, scratch);
        } else {
            forward_head<Low, BFloat16>(x, size, out, group, head, scratch);
        }
    }
}

static void backward(const Attention &x, const AttentionGradients &to, int64_t begin, int64_t end, void *scratch) {
    const Sizes size(x);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / x.heads, head = task % x.heads;
        if (x.q.type == Element::float32) {
            backward_head<Exact, float>(x, size, to, group, head, scratch);
        } else {
            backward_head<Low, BFloat16>(x, size, to, group, head, scratch);
        }
    }
}

}  // namespace small

constexpr Attentions attentions{small::forward_scratch, small::forward, small::backward_scratch, small::backward};

}  // namespace maedfer::MAEDFER_VARIANT
