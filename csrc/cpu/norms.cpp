#include "norms.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "variants.h"

namespace maedfer {
namespace {

// Fewer are not worth a thread.
constexpr int64_t least_rows = 16;

// Calls function(begin, end, sums) for ranges of rows, then adds up what it left in sums, [count, columns], range by
// range. The ranges depend on the number of rows alone, and so does the result.
template <typename Function>
void with_sums(int64_t rows, int64_t count, int64_t columns, float *out, int threads, Function function) {
    constexpr int64_t most_ranges = 64, rows_a_range = 32;
    const int64_t each = std::max(rows_a_range, (rows + most_ranges - 1) / most_ranges);
    const int64_t ranges = (rows + each - 1) / each, size = count * columns;
    std::vector<float> sums(ranges * size);
    parallel_tasks(ranges, threads, [&](int64_t range) {
        function(range * each, std::min(rows, (range + 1) * each), sums.data() + range * size);
    });
    std::fill_n(out, size, 0.0f);
    for (int64_t range = 0; range < ranges; ++range)
        for (int64_t i = 0; i < size; ++i) out[i] += sums[range * size + i];
}

}  // namespace

void norm_forward(const NormForward &given, int threads) {
    const auto run = variant().norms.forward;
    parallel(given.residual.rows, least_rows, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> two(2 * given.residual.columns);
        run(given, begin, end, two.data());
    });
}

void norm_backward(const NormBackward &given, bool branch_bias, bool affine, float *sums, int threads) {
    const auto run = variant().norms.backward;
    const int64_t columns = given.dz.columns;
    with_sums(
        given.dz.rows, branch_bias + 2 * affine, columns, sums, threads, [&](int64_t begin, int64_t end, float *own) {
            std::vector<float> five(5 * columns);
            float *weight = own + branch_bias * columns;
            run(given, {branch_bias ? own : nullptr, affine ? weight : nullptr, affine ? weight + columns : nullptr},
                begin, end, five.data());
        });
}

void gelu_forward(const GeluForward &given, int threads) {
    const auto run = variant().norms.gelu_forward;
    parallel(given.x.rows, least_rows, threads, [&](int64_t begin, int64_t end) { run(given, begin, end); });
}

void gelu_backward(const GeluBackward &given, float *sum, int threads) {
    const auto run = variant().norms.gelu_backward;
    with_sums(given.x.rows, sum != nullptr, given.x.columns, sum, threads,
              [&](int64_t begin, int64_t end, float *own) { run(given, sum ? own : nullptr, begin, end); });
}

}  // namespace maedfer
