// Floats as they lie in memory, one at a time: CUDA's types, or those of element.h under the emulator.
#pragma once

#include "../element.h"
#include "device.h"

namespace maedfer {

#ifdef MAEDFER_EMULATE

using StoredBfloat = BFloat16;
using StoredHalf = Float16;

template <typename T>
inline T rounded(float x) {
    T out;
    from_float(x, out);
    return out;
}
template <typename T>
inline float widened(T x) {
    return to_float(x);
}

inline uint32_t shuffle_xor_word(uint32_t word, int lanes) { return bits_of(shuffle_xor(float_of(word), lanes)); }

#else

using StoredBfloat = __nv_bfloat16;
using StoredHalf = __half;

template <typename T>
__device__ __forceinline__ T rounded(float x);
template <>
__device__ __forceinline__ float rounded<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half rounded<__half>(float x) {
    return __float2half_rn(x);
}

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widened(__half x) { return __half2float(x); }

__device__ __forceinline__ uint32_t shuffle_xor_word(uint32_t word, int lanes) {
    return __shfl_xor_sync(0xffffffffu, word, lanes);
}

#endif

}  // namespace maedfer
