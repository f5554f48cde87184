#include "parallel.h"

#include <dlfcn.h>

#include <atomic>
#include <thread>

namespace maedfer {
namespace {

struct Tasks {
    int64_t count;
    void (*task)(void *, int64_t);
    void *context;
    std::atomic<int64_t> next{0};
};

void work(void *pointer) {
    auto &tasks = *static_cast<Tasks *>(pointer);
    for (int64_t number = tasks.next++; number < tasks.count; number = tasks.next++) tasks.task(tasks.context, number);
}

// How GCC starts a parallel region. A pool of our own beside PyTorch's would take the processor from it.
using Region = void (*)(void (*)(void *), void *, unsigned, unsigned);

Region region() {
    static const auto found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

}  // namespace

void run_tasks(int64_t count, int threads, void (*task)(void *, int64_t), void *context) {
    Tasks tasks{count, task, context};
    const int64_t team = std::min<int64_t>(threads, count);
    if (team <= 1) return work(&tasks);
    if (region()) return region()(work, &tasks, static_cast<unsigned>(team), 0);
    std::vector<std::thread> others;
    for (int64_t number = 1; number < team; ++number) others.emplace_back(work, &tasks);
    work(&tasks);
    for (auto &other : others) other.join();
}

}  // namespace maedfer
