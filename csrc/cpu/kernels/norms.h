// LayerNorm forward and backward, and GELU: a row is read from memory once and from the cache after that.
#pragma once

#include "../norms.h"
#include "gelu.h"
#include "rows.h"

namespace maedfer::MAEDFER_VARIANT {

// Mean and 1 / standard deviation.
struct Moments {
    float mean, rstd;
};

// In two passes: a sum of squares less the square of the sum loses what a large mean leaves.
MAEDFER_INLINE Moments moments(const float *row, int64_t columns, float eps) {
    Vector total[4] = {}, squares[4] = {};
    walk(columns, [&](auto part, int64_t i, int slot) { total[slot] += load(row + i, part); });
    const float mean = sum((total[0] + total[2]) + (total[1] + total[3])) / static_cast<float>(columns);
    walk(columns, [&](auto part, int64_t i, int slot) {
        const Vector d = only(load(row + i, part) - mean, part);
        squares[slot] += d * d;
    });
    const float variance = sum((squares[0] + squares[2]) + (squares[1] + squares[3])) / static_cast<float>(columns);
    return {mean, 1.0f / __builtin_sqrtf(variance + eps)};
}

MAEDFER_INLINE float factor(const float *keep, int64_t row, int64_t rows_a_factor) {
    return keep ? keep[row / rows_a_factor] : 1.0f;
}

// The stream of a row, as it is stored: that is what the backward pass has.
MAEDFER_INLINE const float *add_branch(const NormForward &given, int64_t row, float *two) {
    const int64_t columns = given.residual.columns;
    const float *x = read_row(given.residual, row, two), *branch = read_row(given.branch, row, two + columns);
    const float *bias = given.branch_bias, keep = factor(given.keep, row, given.rows_a_factor);
    float *z = place_row(given.z, row, two);
    if (bias) {
        walk(columns, [&](auto part, int64_t i, int) {
            store(z + i, load(x + i, part) + (load(branch + i, part) + load(bias + i, part)) * keep, part);
        });
    } else {
        walk(columns,
             [&](auto part, int64_t i, int) { store(z + i, load(x + i, part) + load(branch + i, part) * keep, part); });
    }
    write_row(given.z, row, z);
    return read_row(given.z, row, two);
}

static void forward(const NormForward &given, int64_t begin, int64_t end, float *two) {
    const int64_t columns = given.residual.columns;
    for (int64_t r = begin; r < end; ++r) {
        const float *z = given.branch.data ? add_branch(given, r, two) : read_row(given.residual, r, two);
        if (!given.n.data || r % given.every) continue;
        const int64_t row = r / given.every;
        if (given.s.data) {
            float *s = place_row(given.s, row, two + columns);
            walk(columns, [&](auto part, int64_t i, int) { store(s + i, load(z + i, part), part); });
            write_row(given.s, row, s);
        }
        const Moments found = moments(z, columns, given.eps);
        float *n = place_row(given.n, row, two + columns);
        walk(columns, [&](auto part, int64_t i, int) {
            const Vector normed = (load(z + i, part) - found.mean) * found.rstd;
            store(n + i, normed * load(given.weight + i, part) + load(given.bias + i, part), part);
        });
        write_row(given.n, row, n);
    }
}

// What a row of z gets through the norm: (dn * weight - mean - xhat * slope) * rstd, where xhat is the row normed.
struct Through {
    const float *dn, *z, *weight;
    Moments found;
    float mean, slope;
};

MAEDFER_INLINE Through through_norm(const NormBackward &given, int64_t row, float *two) {
    const int64_t columns = given.z.columns;
    const float *z = read_row(given.z, row, two), *dn = read_row(given.dn, row / given.every, two + columns);
    const float *weight = given.weight;
    const Moments found = moments(z, columns, given.eps);
    Vector means[4] = {}, slopes[4] = {};
    walk(columns, [&](auto part, int64_t i, int slot) {
        const Vector d = load(dn + i, part) * load(weight + i, part);
        means[slot] += d;
        slopes[slot] += d * ((load(z + i, part) - found.mean) * found.rstd);
    });
    const float each = 1.0f / static_cast<float>(columns);
    return {dn,
            z,
            weight,
            found,
            sum((means[0] + means[2]) + (means[1] + means[3])) * each,
            sum((slopes[0] + slopes[2]) + (slopes[1] + slopes[3])) * each};
}

// A row of gradients: of the stream into `to`, and times `keep` into `to_branch`, either of which may be null.
template <typename Part, typename Gradient>
MAEDFER_INLINE void give(Part part, int64_t i, Gradient g, float keep, float *to, float *to_branch, float *bias) {
    if (to) store(to + i, g, part);
    g *= keep;
    if (to_branch) store(to_branch + i, g, part);
    if (bias) store(bias + i, load(bias + i, part) + g, part);
}

static void backward(const NormBackward &given, const NormSums &sums, int64_t begin, int64_t end, float *five) {
    const int64_t columns = given.dz.columns;
    float *room = five, *room_dz = five + 2 * columns, *room_to = five + 3 * columns, *room_branch = five + 4 * columns;
    for (int64_t r = begin; r < end; ++r) {
        const bool normed = r % given.every == 0;
        const float *dz = given.dz.data ? read_row(given.dz, r, room_dz) : nullptr;
        if (normed && given.ds.data) {
            const float *ds = read_row(given.ds, r / given.every, room);
            walk(columns, [&](auto part, int64_t i, int) {
                const Vector before = dz ? load(dz + i, part) : Vector{};
                store(room_dz + i, before + load(ds + i, part), part);
            });
            dz = room_dz;
        }
        float *to = given.dresidual.data ? place_row(given.dresidual, r, room_to) : nullptr;
        float *branch = given.dbranch.data ? place_row(given.dbranch, r, room_branch) : nullptr;
        const float keep = factor(given.keep, r, given.rows_a_factor);
        float *sum_branch = sums.branch_bias;
        if (normed && given.dn.data) {
            const Through t = through_norm(given, r, room);
            float *sum_weight = sums.weight, *sum_bias = sums.bias;
            walk(columns, [&](auto part, int64_t i, int) {
                const Vector dn = load(t.dn + i, part);
                const Vector xhat = only((load(t.z + i, part) - t.found.mean) * t.found.rstd, part);
                Vector g = (dn * load(t.weight + i, part) - t.mean - xhat * t.slope) * t.found.rstd;
                if (dz) g += load(dz + i, part);
                if (sum_weight) {
                    store(sum_weight + i, load(sum_weight + i, part) + dn * xhat, part);
                    store(sum_bias + i, load(sum_bias + i, part) + dn, part);
                }
                give(part, i, g, keep, to, branch, sum_branch);
            });
        } else {
            walk(columns, [&](auto part, int64_t i, int) {
                give(part, i, dz ? load(dz + i, part) : Vector{}, keep, to, branch, sum_branch);
            });
        }
        if (to) write_row(given.dresidual, r, to);
        if (branch) write_row(given.dbranch, r, branch);
    }
}

static void gelu_forward(const GeluForward &given, int64_t begin, int64_t end) {
    const float *bias = given.bias;
    with_type(given.x, [&](auto *x) {
        auto *out = static_cast<decltype(x)>(given.out.data);
        for (int64_t r = begin; r < end; ++r) {
            auto *from = x + given.x.offset(r), *to = out + given.out.offset(r);
            walk(given.x.columns, [&](auto part, int64_t i, int) {
                Vector u = load(from + i, part);
                if (bias) u += load(bias + i, part);
                store(to + i, gelu(u), part);
            });
        }
    });
}

static void gelu_backward(const GeluBackward &given, float *sum, int64_t begin, int64_t end) {
    const float *bias = given.bias;
    with_type(given.x, [&](auto *x) {
        auto *dout = static_cast<decltype(x)>(given.dout.data), *dx = static_cast<decltype(x)>(given.dx.data);
        for (int64_t r = begin; r < end; ++r) {
            auto *from = x + given.x.offset(r), *gradient = dout + given.dout.offset(r);
            auto *to = dx ? dx + given.dx.offset(r) : nullptr;
            walk(given.x.columns, [&](auto part, int64_t i, int) {
                Vector u = load(from + i, part);
                if (bias) u += load(bias + i, part);
                const Vector d = load(gradient + i, part) * gelu_slope(u);
                if (to) store(to + i, d, part);
                if (sum) store(sum + i, load(sum + i, part) + d, part);
            });
        }
    });
}

constexpr Norms norms{forward, backward, gelu_forward, gelu_backward};

}  // namespace maedfer::MAEDFER_VARIANT
