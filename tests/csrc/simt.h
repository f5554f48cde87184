// One block of a GPU's threads on a CPU: enough of it to run the kernels of csrc/cuda and to catch what a GPU would not
// tell.
//
// Each thread of a block is a fiber. It runs until it needs others: all threads of a barrier, or the 32 lanes of a warp
// for a collective instruction, the last of which computes the result for all. Blocks run one after the other, their
// threads upwards in even blocks and downwards in odd ones.
//
// Checked on the way, the first fault ending the run: accesses to shared memory out of range or not aligned; races in
// shared memory, by vector clocks (each access must be ordered after the conflicting ones by barriers); accesses to
// global memory outside the ranges that the test allows; a byte of an output that is read, or written twice; barriers
// that not all threads reach. Shared memory starts as NaN, and what is copied asynchronously stays NaN until it is
// waited for. Bank conflicts of matrix loads are counted.
//
// Included by csrc/cuda/device.h, which defines the names of the element types.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace simt {

struct alignas(16) Vector {
    uint32_t word[4];
};

inline uint16_t to_bits(float value, maedfer::Half) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (size == 0.0f) return sign;
    if (std::isnan(value)) return 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);
    exponent = std::max(exponent, -13);
    // In units of the last place, to the nearest and of two to the even one; 2048 of them carry into the exponent.
    const int units = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));
    return static_cast<uint16_t>(sign + ((exponent + 13) << 10) + units);
}

inline uint16_t to_bits(float value, maedfer::Bfloat) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (std::isnan(value)) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_bits(uint16_t bits, maedfer::Half) {
    static const std::vector<float> values = [] {
        std::vector<float> all(1 << 16);
        for (int i = 0; i < 1 << 16; ++i) {
            const int exponent = i >> 10 & 31, units = i & 1023;
            float size = exponent == 0 ? std::ldexp(float(units), -24) : std::ldexp(float(1024 + units), exponent - 25);
            if (exponent == 31)
                size = units ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
            all[i] = i >> 15 ? -size : size;
        }
        return all;
    }();
    return values[bits];
}

inline float from_bits(uint16_t bits, maedfer::Bfloat) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

class Machine {
  public:
    static constexpr int kWarp = 32;

    // Global memory that kernels may read, or write once.
    void allow(const void *begin, size_t bytes, bool output) {
        const auto first = reinterpret_cast<uintptr_t>(begin);
        ranges_.push_back({first, first + bytes, output, std::vector<bool>(output ? bytes : 0)});
    }

    // For callers whose tensors are not known: reads and writes are not looked at.
    void allow_everything() { everything_ = true; }

    void reset() {
        ranges_.clear();
        everything_ = false;
        error_.clear();
        conflicts_ = 0;
    }

    const std::string &error() const { return error_; }
    int64_t conflicts() const { return conflicts_; }

    bool run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()> &kernel) {
        kernel_ = &kernel;
        threads_ = threads;
        if (threads % kWarp != 0 || threads <= 0 || threads > 1024) error_ = "threads of a block: not whole warps";
        for (block_ = 0; block_ < blocks && error_.empty(); ++block_) run_block(shared_bytes);
        return error_.empty();
    }

    int thread_index() const { return current_; }
    int block_size() const { return threads_; }
    uint32_t block_index() const { return static_cast<uint32_t>(block_); }

    void barrier(int name, int count) {
        if (name < 0 || name > 15 || count % kWarp != 0) fail("barrier: name or number of threads");
        meet(barriers_[name], count);
    }

    void sync_warp() { meet(warps_[current_ / kWarp].memory, kWarp); }

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

    template <class Value>
    Value load_global(const void *source) {
        global(source, sizeof(Value), false);
        Value value;
        std::memcpy(&value, source, sizeof(Value));
        return value;
    }

    template <class Value>
    void store_global(void *target, const Value &value) {
        global(target, sizeof(Value), true);
        std::memcpy(target, &value, sizeof(Value));
    }

    void copy_async(uint32_t address, const void *source, bool present) {
        touch(address, sizeof(Vector), true);
        std::memset(&shared_[address], 0xff, sizeof(Vector));
        Copy copy{address, {}};
        if (present) copy.value = load_global<Vector>(source);
        fibers_[current_].open.push_back(copy);
    }

    void copy_async_commit() {
        Fiber &fiber = fibers_[current_];
        fiber.groups.push_back(std::move(fiber.open));
        fiber.open.clear();
    }

    void copy_async_wait(size_t pending) {
        Fiber &fiber = fibers_[current_];
        for (; fiber.groups.size() > pending; fiber.groups.pop_front())
            for (const Copy &copy : fiber.groups.front()) store_shared(copy.address, copy.value);
    }

    float shuffle_xor(float value, int lanes) {
        Warp &warp = warps_[current_ / kWarp];
        const int lane = current_ % kWarp;
        std::memcpy(&warp.in[lane][0], &value, 4);
        warp.in[lane][1] = static_cast<uint32_t>(lanes);
        collective(warp, "shuffle", [&] {
            for (int i = 0; i < kWarp; ++i) warp.out[i][0] = warp.in[i ^ warp.in[i][1]][0];
        });
        std::memcpy(&value, &warp.out[lane][0], 4);
        return value;
    }

    // ldmatrix.x4 of the PTX ISA: lane l gets of matrix i the elements 2 (l % 4) and the next of row l / 4, or, with
    // .trans, of column l / 4.
    void load_matrices(uint32_t (&out)[4], uint32_t address, bool transposed) {
        Warp &warp = warps_[current_ / kWarp];
        const int lane = current_ % kWarp;
        touch(address, sizeof(Vector), false);
        warp.in[lane][0] = address;
        collective(warp, transposed ? "ldmatrix.trans" : "ldmatrix", [&] {
            for (int matrix = 0; matrix < 4; ++matrix) {
                uint16_t element[8][8];
                unsigned banks = 0;
                for (int row = 0; row < 8; ++row) {
                    const uint32_t from = warp.in[8 * matrix + row][0];
                    std::memcpy(element[row], &shared_[from], 16);
                    banks |= 1u << (from / 16 % 8);
                }
                conflicts_ += banks != 0xff;
                for (int i = 0; i < kWarp; ++i) {
                    const int row = i / 4, column = i % 4 * 2;
                    const uint32_t low = transposed ? element[column][row] : element[row][column];
                    const uint32_t high = transposed ? element[column + 1][row] : element[row][column + 1];
                    warp.out[i][matrix] = low | high << 16;
                }
            }
        });
        std::memcpy(out, warp.out[lane], sizeof(out));
    }

    // mma.m16n8k16 of the PTX ISA, with the distribution of its operands over the lanes.
    template <class T>
    void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        Warp &warp = warps_[current_ / kWarp];
        const int lane = current_ % kWarp;
        std::memcpy(&warp.in[lane][0], a, 16);
        warp.in[lane][4] = b0;
        warp.in[lane][5] = b1;
        std::memcpy(&warp.in[lane][6], sum, 16);
        collective(warp, "mma", [&] {
            float matrix_a[16][16], matrix_b[16][8];
            for (int i = 0; i < kWarp; ++i) {
                const int group = i / 4, within = i % 4;
                for (int n = 0; n < 8; ++n) {
                    const int row = n % 4 < 2 ? group : group + 8;
                    const int column = within * 2 + n % 2 + (n < 4 ? 0 : 8);
                    matrix_a[row][column] = from_bits(half_of(warp.in[i][n / 2], n % 2), T{});
                }
                for (int n = 0; n < 4; ++n) {
                    const int row = within * 2 + n % 2 + (n < 2 ? 0 : 8);
                    matrix_b[row][group] = from_bits(half_of(warp.in[i][4 + n / 2], n % 2), T{});
                }
            }
            for (int i = 0; i < kWarp; ++i)
                for (int n = 0; n < 4; ++n) {
                    const int row = n < 2 ? i / 4 : i / 4 + 8, column = i % 4 * 2 + n % 2;
                    float total;
                    std::memcpy(&total, &warp.in[i][6 + n], 4);
                    for (int k = 0; k < 16; ++k) total += matrix_a[row][k] * matrix_b[k][column];
                    std::memcpy(&warp.out[i][n], &total, 4);
                }
        });
        std::memcpy(sum, warp.out[lane], sizeof(sum));
    }

  private:
    static constexpr size_t kStack = 256 * 1024;

    struct Range {
        uintptr_t begin, end;
        bool output;
        std::vector<bool> written;
    };
    struct Copy {
        uint32_t address;
        Vector value;
    };
    struct Access {
        int thread;
        uint32_t time;
    };
    // The last write of four bytes of shared memory, and the reads since.
    struct History {
        Access write{-1, 0};
        std::vector<Access> reads;
    };
    struct Barrier {
        uint64_t generation = 0;
        int count = 0;
        std::vector<int> arrived;
    };
    struct Warp {
        uint64_t generation = 0;
        int arrived = 0;
        const char *instruction = "";
        uint32_t in[kWarp][10], out[kWarp][4];
        Barrier memory;
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
        std::vector<Copy> open;
        std::deque<std::vector<Copy>> groups;
    };

    static uint16_t half_of(uint32_t word, int upper) { return static_cast<uint16_t>(upper ? word >> 16 : word); }

    static void enter();

    void run_block(size_t shared_bytes) {
        // Not zeros: what a kernel reads without having written it must show.
        shared_.assign(shared_bytes, 0xff);
        history_.assign(shared_bytes / 4, History{});
        for (Barrier &barrier : barriers_) barrier = Barrier{};
        warps_.assign(threads_ / kWarp, Warp{});
        fibers_.resize(threads_);
        for (int thread = 0; thread < threads_; ++thread) {
            Fiber &fiber = fibers_[thread];
            if (!fiber.stack) fiber.stack.reset(new char[kStack]);
            fiber.done = false;
            fiber.waiting = nullptr;
            fiber.clock.assign(threads_, 0);
            fiber.clock[thread] = 1;
            fiber.open.clear();
            fiber.groups.clear();
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

    template <class Compute>
    void collective(Warp &warp, const char *instruction, Compute compute) {
        if (warp.arrived == 0) warp.instruction = instruction;
        if (std::strcmp(warp.instruction, instruction) != 0)
            fail(std::string("lanes apart: ") + instruction + " and " + warp.instruction);
        if (++warp.arrived == kWarp) {
            warp.arrived = 0;
            compute();
            ++warp.generation;
        } else {
            wait(warp.generation, instruction);
        }
    }

    void meet(Barrier &barrier, int count) {
        if (barrier.arrived.empty()) barrier.count = count;
        if (barrier.count != count) fail("barrier: threads name different numbers of them");
        barrier.arrived.push_back(current_);
        if (static_cast<int>(barrier.arrived.size()) < count) {
            wait(barrier.generation, "barrier");
            return;
        }
        std::vector<uint32_t> latest(threads_, 0);
        for (int thread : barrier.arrived)
            for (int i = 0; i < threads_; ++i) latest[i] = std::max(latest[i], fibers_[thread].clock[i]);
        for (int thread : barrier.arrived) {
            fibers_[thread].clock = latest;
            ++fibers_[thread].clock[thread];
        }
        barrier.arrived.clear();
        ++barrier.generation;
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

    void global(const void *pointer, size_t bytes, bool write) {
        const auto address = reinterpret_cast<uintptr_t>(pointer);
        if (address % bytes != 0) fail("global memory: address not aligned");
        if (everything_) return;
        for (Range &range : ranges_) {
            if (address < range.begin || address + bytes > range.end || range.output != write) continue;
            for (size_t i = address - range.begin; write && i < address - range.begin + bytes; ++i) {
                if (range.written[i]) fail("global memory: written twice");
                range.written[i] = true;
            }
            return;
        }
        fail(write ? "global memory: write out of range" : "global memory: read out of range");
    }

    std::vector<Range> ranges_;
    bool everything_ = false;
    std::string error_;
    int64_t conflicts_ = 0;
    const std::function<void()> *kernel_ = nullptr;
    int threads_ = 0;
    int64_t block_ = 0;
    int current_ = 0;
    std::vector<unsigned char> shared_;
    std::vector<History> history_;
    Barrier barriers_[16];
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
    if (!fiber.groups.empty() || !fiber.open.empty()) self.fail("copies that nothing waited for");
    fiber.done = true;
    swapcontext(&fiber.context, &self.scheduler_);
}

}  // namespace simt
