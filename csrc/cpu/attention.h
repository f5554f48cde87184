// Attention inside groups of rows, on a CPU: formula and shapes are in kernels/attention.h.
#pragma once

#include "matrix.h"

namespace maedfer {

struct Attention {
    // [G * queries, H * D] and twice [G * keys, H * D], all of one type; the rows of a group lie at one step.
    Matrix q, k, v;
    // [H * D], what is added to queries and to values, or null.
    const float *q_bias, *v_bias;
    int64_t queries, keys, heads;

    MAEDFER_INLINED int64_t groups() const { return q.rows / queries; }
    MAEDFER_INLINED int64_t head_dim() const { return q.columns / heads; }
};

// Like q; like q; like k; like v.
struct AttentionGradients {
    Matrix dout, dq, dk, dv;
    // [G, 2, H * D]: sums over the rows of each group of dq and of dout, or null.
    float *bias;
};

// Kernels on tasks [begin, end), of which each is a head of a group: task = group * H + head.
struct Attentions {
    // Bytes that either kernel works in.
    int64_t (*forward_scratch)(const Attention &x);
    void (*forward)(const Attention &x, const Matrix &out, int64_t begin, int64_t end, void *scratch);
    int64_t (*backward_scratch)(const Attention &x);
    void (*backward)(const Attention &x, const AttentionGradients &to, int64_t begin, int64_t end, void *scratch);
};

void attention(const Attention &x, const Matrix &out, int threads);

// With gradients of the biases added up over the groups in order, [2, H * D], or null.
void attention_gradients(const Attention &x, const AttentionGradients &to, float *bias, int threads);

}  // namespace maedfer
