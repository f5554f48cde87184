#include "attention.h"

#include <memory>

#include "parallel.h"
#include "variants.h"

namespace maedfer {
namespace {

// Calls function(begin, end, scratch) for ranges of the heads of all groups, several a thread, as some may be slower.
template <typename Function>
void over_heads(const Attention &x, int64_t scratch, int threads, Function function) {
    const int64_t tasks = x.groups() * x.heads, ranges = std::min<int64_t>(tasks, threads > 1 ? 4 * threads : 1);
    parallel_tasks(ranges, threads, [&](int64_t range) {
        constexpr int64_t alignment = 64;
        const std::unique_ptr<char[]> memory(new char[scratch + alignment]);
        const auto address = reinterpret_cast<uintptr_t>(memory.get());
        void *const aligned = memory.get() + (alignment - address % alignment);
        function(tasks * range / ranges, tasks * (range + 1) / ranges, aligned);
    });
}

}  // namespace

void attention(const Attention &x, const Matrix &out, int threads) {
    const Attentions &kernels = variant().attentions;
    over_heads(x, kernels.forward_scratch(x), threads,
               [&](int64_t begin, int64_t end, void *scratch) { kernels.forward(x, out, begin, end, scratch); });
}

void attention_gradients(const Attention &x, const AttentionGradients &to, float *bias, int threads) {
    const Attentions &kernels = variant().attentions;
    over_heads(x, kernels.backward_scratch(x), threads,
               [&](int64_t begin, int64_t end, void *scratch) { kernels.backward(x, to, begin, end, scratch); });
    if (!bias) return;
    parallel(2 * x.q.columns, 256, threads, [&](int64_t begin, int64_t end) {
        for (int64_t column = begin; column < end; ++column) {
            double total = 0.0;
            for (int64_t group = 0; group < x.groups(); ++group) total += to.bias[group * 2 * x.q.columns + column];
            bias[column] = static_cast<float>(total);
        }
    });
}

}  // namespace maedfer
