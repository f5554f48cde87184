// Work spread over threads in equal ranges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

namespace maedfer {

// Calls task(context, number) for every number below `count`, on so many threads at most: those of the OpenMP pool that
// PyTorch has brought into the process, or some that are started and ended for it. No task may throw.
void run_tasks(int64_t count, int threads, void (*task)(void *, int64_t), void *context);

// Calls function(number) for every number below `count`; threads take the next one as they get there. What is thrown
// first by number is thrown on.
template <typename Function>
void parallel_tasks(int64_t count, int threads, Function function) {
    struct Context {
        Function &function;
        std::vector<std::exception_ptr> errors;
    } context{function, std::vector<std::exception_ptr>(count)};
    const auto task = [](void *pointer, int64_t number) {
        auto &found = *static_cast<Context *>(pointer);
        try {
            found.function(number);
        } catch (...) {
            found.errors[number] = std::current_exception();
        }
    };
    run_tasks(count, threads, task, &context);
    for (auto &error : context.errors)
        if (error) std::rethrow_exception(error);
}

// Calls function(begin, end) for ranges that make up [0, count), one a thread; none is shorter than `least` but the last.
template <typename Function>
void parallel(int64_t count, int64_t least, int threads, Function function) {
    const int64_t ranges = std::max<int64_t>(1, std::min<int64_t>(threads, count / std::max<int64_t>(1, least)));
    const int64_t each = (count + ranges - 1) / ranges;
    parallel_tasks(ranges, threads, [&](int64_t range) {
        const int64_t begin = std::min(count, range * each);
        function(begin, std::min(count, begin + each));
    });
}

// Loops below are compiled for several instruction sets, of which the processor's best runs.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define MAEDFER_SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MAEDFER_SIMD
#endif

}  // namespace maedfer
