#include "variants.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>

namespace maedfer {

// Defined by the files of variants/.
extern const Variant *const variant_baseline;
#ifdef __x86_64__
extern const Variant *const variant_avx2, *const variant_avx512, *const variant_avx512_bf16, *const variant_amx;
#endif

namespace {

// setup.py leaves out (MAEDFER_WITHOUT_...) what the compiler does not know.
//
// What is asked here is asked by code for any processor, not by the code that it is asked for.
#ifdef __x86_64__
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Whether there are AMX's tiles and products of bfloat16, and the system lets this process use them: it has to be asked
// (arch_prctl, from Linux 5.16 on), as tiles make the state of every thread larger by 8 KB.
bool has_amx() {
#ifndef MAEDFER_EMULATE_AMX
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned products = 1u << 22, tiles = 1u << 24;
    constexpr long request = 0x1023, tile_data = 18;
    if (!(d & products) || !(d & tiles) || syscall(SYS_arch_prctl, request, tile_data) != 0) return false;
#endif
    return has_avx512_bf16();
}
#endif

std::vector<const Variant *> known() {
    std::vector<const Variant *> found;
#ifdef __x86_64__
#ifndef MAEDFER_WITHOUT_AMX
    if (has_amx()) found.push_back(variant_amx);
#endif
#ifndef MAEDFER_WITHOUT_AVX512_BF16
    if (has_avx512_bf16()) found.push_back(variant_avx512_bf16);
#endif
#ifndef MAEDFER_WITHOUT_AVX512
    if (has_avx512()) found.push_back(variant_avx512);
#endif
#ifndef MAEDFER_WITHOUT_AVX2
    if (has_avx2()) found.push_back(variant_avx2);
#endif
#endif
    found.push_back(variant_baseline);
    return found;
}

std::atomic<const Variant *> &current() {
    static std::atomic<const Variant *> chosen{known().front()};
    return chosen;
}

}  // namespace

const Variant &variant() { return *current(); }

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (auto one : known()) names.emplace_back(one->name);
    return names;
}

bool choose_variant(const std::string &name) {
    for (auto one : known()) {
        if (one->name == name) {
            current() = one;
            return true;
        }
    }
    return false;
}

}  // namespace maedfer
