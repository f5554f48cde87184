// Work spread over threads in equal ranges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace maedfer {

// Calls function(begin, end) for ranges that make up [0, count); none is shorter than `least` but the last.
template <typename Function>
void parallel(int64_t count, int64_t least, int threads, Function function) {
    const int64_t ranges = std::max<int64_t>(1, std::min<int64_t>(threads, count / std::max<int64_t>(1, least)));
    const int64_t each = (count + ranges - 1) / ranges;
    std::vector<std::thread> others;
    std::vector<std::exception_ptr> errors(ranges);
    auto work = [&](int64_t range) {
        try {
            function(range * each, std::min(count, (range + 1) * each));
        } catch (...) {
            errors[range] = std::current_exception();
        }
    };
    for (int64_t range = 1; range < ranges; ++range) others.emplace_back(work, range);
    work(0);
    for (auto &other : others) other.join();
    for (auto &error : errors)
        if (error) std::rethrow_exception(error);
}

// Loops below are compiled for several instruction sets, of which the processor's best runs.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define MAEDFER_SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MAEDFER_SIMD
#endif

}  // namespace maedfer
