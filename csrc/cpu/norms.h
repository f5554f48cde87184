// LayerNorm, the sum before it, and GELU, on a CPU: each reads and writes its rows once.
#pragma once

#include "matrix.h"

namespace maedfer {

// z = residual + keep * (branch + branch_bias); n = (z - mean) / sqrt(variance + eps) * weight + bias of every `every`-th
// row, and s those rows as they are. What has no data is not there: without a branch z is the residual.
struct NormForward {
    Matrix residual, branch;
    const float *branch_bias, *keep;
    int64_t rows_a_factor;
    const float *weight, *bias;
    float eps;
    int64_t every;
    Matrix z, s, n;
};

// Gradients of the same, given those of z, s and n. What is not given or not wanted has no data.
struct NormBackward {
    Matrix dz, ds, dn, z;
    const float *weight, *keep;
    int64_t rows_a_factor;
    float eps;
    int64_t every;
    Matrix dresidual, dbranch;
};

// Sums over rows, [columns] each, to which is added; null where they are not wanted.
struct NormSums {
    float *branch_bias, *weight, *bias;
};

// out = GELU(x + bias), of one type.
struct GeluForward {
    Matrix x;
    const float *bias;
    Matrix out;
};

// Its gradient for x, where it has data; one type.
struct GeluBackward {
    Matrix dout, x;
    const float *bias;
    Matrix dx;
};

// Kernels on rows [begin, end), by instruction set. `scratch` is room for as many rows of floats as its name says.
struct Norms {
    void (*forward)(const NormForward &given, int64_t begin, int64_t end, float *two);
    void (*backward)(const NormBackward &given, const NormSums &sums, int64_t begin, int64_t end, float *five);
    void (*gelu_forward)(const GeluForward &given, int64_t begin, int64_t end);
    // The gradient of the bias is added to `sum`, or null.
    void (*gelu_backward)(const GeluBackward &given, float *sum, int64_t begin, int64_t end);
};

void norm_forward(const NormForward &given, int threads);

// The sums, [wanted, columns], in the order of NormSums: those of ranges of rows, then of ranges, whatever the threads.
void norm_backward(const NormBackward &given, bool branch_bias, bool affine, float *sums, int threads);

void gelu_forward(const GeluForward &given, int threads);

// sum: [columns], or null.
void gelu_backward(const GeluBackward &given, float *sum, int threads);

}  // namespace maedfer
