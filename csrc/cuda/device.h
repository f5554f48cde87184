// What the kernels need of a GPU, behind plain functions: instructions where nvcc compiles, the emulator of tests/csrc
// where a host compiler does (MAEDFER_EMULATE), so that the very source which runs on a GPU is tested without one.
//
// Values of 16 bits are handled in packed form only: two of them in a word, eight in a Vector. Shared memory is
// addressed in bytes, from shared_memory() on.
#pragma once

#include <cstdint>

namespace maedfer {

// Names of the two element types; they choose the instructions.
struct Half {};
struct Bfloat {};

}  // namespace maedfer

#ifdef MAEDFER_EMULATE
#include "simt.h"
#define MAEDFER_DEVICE inline
#define MAEDFER_KERNEL(threads, blocks) void
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MAEDFER_DEVICE __device__ __forceinline__
#define MAEDFER_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#endif

namespace maedfer {

#ifdef MAEDFER_EMULATE

using Vector = simt::Vector;

inline int thread_index() { return simt::machine().thread_index(); }
inline int block_size() { return simt::machine().block_size(); }
inline uint32_t block_index() { return simt::machine().block_index(); }
inline void block_barrier() { simt::machine().barrier(0, simt::machine().block_size()); }
inline void barrier(int name, int threads) { simt::machine().barrier(name, threads); }
inline void sync_warp() { simt::machine().sync_warp(); }

inline uint32_t shared_memory() { return 0; }
inline uint32_t load_shared_word(uint32_t address) { return simt::machine().load_shared<uint32_t>(address); }
inline float load_shared_float(uint32_t address) { return simt::machine().load_shared<float>(address); }
inline Vector load_shared(uint32_t address) { return simt::machine().load_shared<Vector>(address); }
inline void store_shared_word(uint32_t address, uint32_t value) { simt::machine().store_shared(address, value); }
inline void store_shared_float(uint32_t address, float value) { simt::machine().store_shared(address, value); }

inline float load_float(const void *source) { return simt::machine().load_global<float>(source); }
inline uint16_t load_element(const void *source) { return simt::machine().load_global<uint16_t>(source); }
inline void store(void *target, const Vector &value) { simt::machine().store_global(target, value); }

inline void copy_async(uint32_t address, const void *source, bool present) {
    simt::machine().copy_async(address, source, present);
}
inline void copy_async_commit() { simt::machine().copy_async_commit(); }
template <int PENDING>
inline void copy_async_wait() {
    simt::machine().copy_async_wait(PENDING);
}

inline float shuffle_xor(float value, int lanes) { return simt::machine().shuffle_xor(value, lanes); }
inline void load_matrices(uint32_t (&out)[4], uint32_t address) { simt::machine().load_matrices(out, address, false); }
inline void load_matrices_transposed(uint32_t (&out)[4], uint32_t address) {
    simt::machine().load_matrices(out, address, true);
}

template <class T>
inline uint32_t pack(float low, float high) {
    using simt::to_bits;
    return to_bits(low, T{}) | static_cast<uint32_t>(to_bits(high, T{})) << 16;
}
template <class T>
inline float to_float(uint16_t bits) {
    return simt::from_bits(bits, T{});
}
template <class T>
inline void unpack(uint32_t word, float &low, float &high) {
    low = to_float<T>(static_cast<uint16_t>(word));
    high = to_float<T>(static_cast<uint16_t>(word >> 16));
}
template <class T>
inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simt::machine().multiply_add<T>(sum, a, b0, b1);
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float inverse_sqrt(float x) { return 1.0f / std::sqrt(x); }
inline float infinity() { return std::numeric_limits<float>::infinity(); }
inline float larger(float x, float y) { return std::fmax(x, y); }

#else

struct alignas(16) Vector {
    uint32_t word[4];
};

__device__ __forceinline__ int thread_index() { return threadIdx.x; }
__device__ __forceinline__ int block_size() { return blockDim.x; }
__device__ __forceinline__ uint32_t block_index() { return blockIdx.x; }
__device__ __forceinline__ void block_barrier() { __syncthreads(); }
// Of the whole warps that name the same barrier, 1 to 15; __syncthreads is barrier 0.
__device__ __forceinline__ void barrier(int name, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

__device__ __forceinline__ uint32_t shared_memory() {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared));
}
__device__ __forceinline__ uint32_t load_shared_word(uint32_t address) {
    uint32_t value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
__device__ __forceinline__ float load_shared_float(uint32_t address) {
    return __uint_as_float(load_shared_word(address));
}
__device__ __forceinline__ Vector load_shared(uint32_t address) {
    Vector value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
                 : "r"(address)
                 : "memory");
    return value;
}
__device__ __forceinline__ void store_shared_word(uint32_t address, uint32_t value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared_float(uint32_t address, float value) {
    store_shared_word(address, __float_as_uint(value));
}

__device__ __forceinline__ float load_float(const void *source) { return __ldg(static_cast<const float *>(source)); }
__device__ __forceinline__ uint16_t load_element(const void *source) {
    return __ldg(static_cast<const unsigned short *>(source));
}
__device__ __forceinline__ void store(void *target, const Vector &value) {
    *static_cast<uint4 *>(target) = make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
}

// 16 bytes from global to shared memory, zeros (and no access to `source`) where they are not present.
__device__ __forceinline__ void copy_async(uint32_t address, const void *source, bool present) {
    const int bytes = present ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(__cvta_generic_to_global(source)),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) {
    return __shfl_xor_sync(0xffffffffu, value, lanes);
}
// Four 8 x 8 matrices, the rows of the i-th at the addresses of lanes 8 i to 8 i + 7.
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<Half>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
template <>
__device__ __forceinline__ uint32_t pack<Bfloat>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
template <class T>
__device__ __forceinline__ float to_float(uint16_t bits);
template <>
__device__ __forceinline__ float to_float<Half>(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}
template <>
__device__ __forceinline__ float to_float<Bfloat>(uint16_t bits) {
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
template <class T>
__device__ __forceinline__ void unpack(uint32_t word, float &low, float &high) {
    low = to_float<T>(static_cast<uint16_t>(word));
    high = to_float<T>(static_cast<uint16_t>(word >> 16));
}
template <>
__device__ __forceinline__ void unpack<Bfloat>(uint32_t word, float &low, float &high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}
// sum += a b for a warp's tiles a [16, 16] and b [16, 8].
template <class T>
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void multiply_add<Half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_add<Bfloat>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                                     uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float inverse_sqrt(float x) { return rsqrtf(x); }
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float larger(float x, float y) { return fmaxf(x, y); }

#endif

}  // namespace maedfer
