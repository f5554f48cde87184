// What the kernels need of a GPU, behind plain functions: instructions where nvcc compiles, the emulator of tests/csrc
// where a host compiler does (MAEDFER_EMULATE), so that the very source which runs on a GPU is tested without one.
//
// Shared memory is addressed in bytes, from shared_memory() on.
#pragma once

#include <cstdint>

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
inline uint32_t block_index() { return simt::machine().block_index(); }
inline void block_barrier() { simt::machine().barrier(); }

inline uint32_t shared_memory() { return 0; }
inline uint32_t load_shared_word(uint32_t address) { return simt::machine().load_shared<uint32_t>(address); }
inline float load_shared_float(uint32_t address) { return simt::machine().load_shared<float>(address); }
inline void store_shared_word(uint32_t address, uint32_t value) { simt::machine().store_shared(address, value); }
inline void store_shared_float(uint32_t address, float value) { simt::machine().store_shared(address, value); }

inline float shuffle_xor(float value, int lanes) { return simt::machine().shuffle_xor(value, lanes); }

#else

struct alignas(16) Vector {
    uint32_t word[4];
};

__device__ __forceinline__ int thread_index() { return threadIdx.x; }
__device__ __forceinline__ uint32_t block_index() { return blockIdx.x; }
__device__ __forceinline__ void block_barrier() { __syncthreads(); }

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
__device__ __forceinline__ void store_shared_word(uint32_t address, uint32_t value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared_float(uint32_t address, float value) {
    store_shared_word(address, __float_as_uint(value));
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) {
    return __shfl_xor_sync(0xffffffffu, value, lanes);
}

#endif

}  // namespace maedfer
