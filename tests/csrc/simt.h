// One block of a GPU's threads on a CPU: enough of it to run the kernels of csrc/cuda and to catch what a GPU would not
// tell.
//
// Each thread of a block is a fiber. It runs until it needs others: all threads of a barrier, or the 32 lanes of a warp
// for a shuffle, the last of which computes the result for all. Blocks run one after the other, their
// threads upwards in even blocks and downwards in odd ones.
//
// Checked on the way, the first fault ending the run: accesses to shared memory out of range or not aligned; races in
// shared memory, by vector clocks (each access must be ordered after the conflicting ones by barriers); barriers and
// shuffles that not all threads reach. Shared memory starts as NaN.
//
// Included by csrc/cuda/device.h.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace simt {

struct alignas(16) Vector {
    uint32_t word[4];
};

class Machine {
  public:
    static constexpr int kWarp = 32;

    void reset() { error_.clear(); }

    const std::string &error() const { return error_; }

    bool run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()> &kernel) {
        kernel_ = &kernel;
        threads_ = threads;
        if (threads % kWarp != 0 || threads <= 0 || threads > 1024) error_ = "threads of a block: not whole warps";
        for (block_ = 0; block_ < blocks && error_.empty(); ++block_) run_block(shared_bytes);
        return error_.empty();
    }

    int thread_index() const { return current_; }
    uint32_t block_index() const { return static_cast<uint32_t>(block_); }

    // Of all threads of the block.
    void barrier() {
        arrived_.push_back(current_);
        if (static_cast<int>(arrived_.size()) < threads_) {
            wait(generation_, "barrier");
            return;
        }
        std::vector<uint32_t> latest(threads_, 0);
        for (const Fiber &fiber : fibers_)
            for (int i = 0; i < threads_; ++i) latest[i] = std::max(latest[i], fiber.clock[i]);
        for (int thread = 0; thread < threads_; ++thread) {
            fibers_[thread].clock = latest;
            ++fibers_[thread].clock[thread];
        }
        arrived_.clear();
        ++generation_;
    }

    template <class Value>
    Value load_shared(uint32_t address) {
        touch(address, sizeof(Value), false);
        Value value;
        std::memcpy(&value, &shared_[address], sizeof(Value));
        return value;
    }

    template <class Value>
    void store_shared(uint32_t address, const Value &value) {
        touch(address, sizeof(Value), true);
        std::memcpy(&shared_[address], &value, sizeof(Value));
    }

    float shuffle_xor(float value, int lanes) {
        Warp &warp = warps_[current_ / kWarp];
        const int lane = current_ % kWarp;
        std::memcpy(&warp.in[lane][0], &value, 4);
        warp.in[lane][1] = static_cast<uint32_t>(lanes);
        if (++warp.arrived == kWarp) {
            warp.arrived = 0;
            for (int i = 0; i < kWarp; ++i) warp.out[i] = warp.in[i ^ warp.in[i][1]][0];
            ++warp.generation;
        } else {
            wait(warp.generation, "shuffle");
        }
        std::memcpy(&value, &warp.out[lane], 4);
        return value;
    }

  private:
    static constexpr size_t kStack = 256 * 1024;

    struct Access {
        int thread;
        uint32_t time;
    };
    // The last write of four bytes of shared memory, and the reads since.
    struct History {
        Access write{-1, 0};
        std::vector<Access> reads;
    };
    struct Warp {
        uint64_t generation = 0;
        int arrived = 0;
        uint32_t in[kWarp][2], out[kWarp];
    };
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        bool done;
        const uint64_t *waiting;
        uint64_t generation;
        const char *what;
        // Per thread, the time up to which its accesses come before this thread's next one.
        std::vector<uint32_t> clock;
    };

    static void enter();

    void run_block(size_t shared_bytes) {
        // Not zeros: what a kernel reads without having written it must show.
        shared_.assign(shared_bytes, 0xff);
        history_.assign(shared_bytes / 4, History{});
        arrived_.clear();
        warps_.assign(threads_ / kWarp, Warp{});
        fibers_.resize(threads_);
        for (int thread = 0; thread < threads_; ++thread) {
            Fiber &fiber = fibers_[thread];
            if (!fiber.stack) fiber.stack.reset(new char[kStack]);
            fiber.done = false;
            fiber.waiting = nullptr;
            fiber.clock.assign(threads_, 0);
            fiber.clock[thread] = 1;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = kStack;
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, &Machine::enter, 0);
        }
        for (int live = threads_; live > 0 && error_.empty();) {
            bool progress = false;
            for (int i = 0; i < threads_ && error_.empty(); ++i) {
                current_ = block_ % 2 == 0 ? i : threads_ - 1 - i;
                Fiber &fiber = fibers_[current_];
                if (fiber.done || (fiber.waiting && *fiber.waiting == fiber.generation)) continue;
                fiber.waiting = nullptr;
                progress = true;
                swapcontext(&scheduler_, &fiber.context);
                live -= fiber.done;
            }
            if (!progress) report_deadlock();
        }
    }

    void report_deadlock() {
        for (int thread = 0; thread < threads_ && error_.empty(); ++thread)
            if (!fibers_[thread].done)
                error_ = describe(std::string("waits for ever: ") + fibers_[thread].what, thread);
    }

    std::string describe(const std::string &what, int thread) const {
        return what + " (block " + std::to_string(block_) + ", thread " + std::to_string(thread) + ")";
    }

    void fail(const std::string &what) {
        error_ = describe(what, current_);
        swapcontext(&fibers_[current_].context, &scheduler_);
    }

    void wait(const uint64_t &generation, const char *what) {
        Fiber &fiber = fibers_[current_];
        fiber.waiting = &generation;
        fiber.generation = generation;
        fiber.what = what;
        swapcontext(&fiber.context, &scheduler_);
    }

    bool before(const Access &access) const {
        return access.thread < 0 || access.thread == current_ || fibers_[current_].clock[access.thread] >= access.time;
    }

    void touch(uint32_t address, size_t bytes, bool write) {
        if (address % bytes != 0) fail("shared memory: address " + std::to_string(address) + " not aligned");
        if (address + bytes > shared_.size())
            fail("shared memory: address " + std::to_string(address) + " out of range");
        const Access access{current_, fibers_[current_].clock[current_]};
        for (size_t word = address / 4; word < (address + bytes) / 4; ++word) {
            History &history = history_[word];
            bool ordered = before(history.write);
            if (write) {
                for (const Access &read : history.reads) ordered = ordered && before(read);
                history.reads.clear();
                history.write = access;
            } else {
                bool known = false;
                for (Access &read : history.reads)
                    if (read.thread == current_) {
                        read.time = access.time;
                        known = true;
                    }
                if (!known) history.reads.push_back(access);
            }
            if (!ordered) fail("shared memory: race at address " + std::to_string(word * 4));
        }
    }

    std::string error_;
    const std::function<void()> *kernel_ = nullptr;
    int threads_ = 0;
    int64_t block_ = 0;
    int current_ = 0;
    std::vector<unsigned char> shared_;
    std::vector<History> history_;
    std::vector<int> arrived_;
    uint64_t generation_ = 0;
    std::vector<Warp> warps_;
    std::vector<Fiber> fibers_;
    ucontext_t scheduler_;
};

inline Machine &machine() {
    static Machine instance;
    return instance;
}

inline void Machine::enter() {
    Machine &self = machine();
    (*self.kernel_)();
    Fiber &fiber = self.fibers_[self.current_];
    fiber.done = true;
    swapcontext(&fiber.context, &self.scheduler_);
}

}  // namespace simt
