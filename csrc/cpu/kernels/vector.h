// Vectors of floats of the width of an instruction set: MAEDFER_LANES of them in namespace MAEDFER_VARIANT.
//
// Written with the vectors of GCC and Clang, so that the same text serves every processor; intrinsics stand where they
// are needed only. No name of the standard library may be used here (see variants.h).
#pragma once

#include <stdint.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "../matrix.h"

#define MAEDFER_INLINE static inline __attribute__((always_inline))

namespace maedfer::MAEDFER_VARIANT {

constexpr int lanes = MAEDFER_LANES;

typedef float Vector __attribute__((vector_size(4 * lanes)));
typedef int32_t Integers __attribute__((vector_size(4 * lanes)));
typedef uint32_t Words __attribute__((vector_size(4 * lanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * lanes)));
// The same in memory, at any address.
typedef float UnalignedVector __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
typedef uint16_t UnalignedHalves __attribute__((vector_size(2 * lanes), aligned(2), may_alias));

MAEDFER_INLINE Vector all(float x) { return x - Vector{}; }

MAEDFER_INLINE Vector load(const float *from) { return *reinterpret_cast<const UnalignedVector *>(from); }

MAEDFER_INLINE void store(float *to, Vector x) { *reinterpret_cast<UnalignedVector *>(to) = x; }

MAEDFER_INLINE Vector widened(Halves halves) {
#ifdef __AVX512F__
    // GCC makes four instructions of the conversion.
    return reinterpret_cast<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(halves)), 16));
#else
    return reinterpret_cast<Vector>(__builtin_convertvector(halves, Words) << 16);
#endif
}

MAEDFER_INLINE Vector load(const BFloat16 *from) { return widened(*reinterpret_cast<const UnalignedHalves *>(from)); }

// To the nearest, halves to even; a NaN stays one. The instruction takes numbers below 1.2e-38 for zeros.
MAEDFER_INLINE Halves rounded(Vector x) {
#ifdef __AVX512BF16__
    return reinterpret_cast<Halves>(_mm512_cvtneps_pbh(x));
#else
    const Words bits = reinterpret_cast<Words>(x);
    const Words nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words found = reinterpret_cast<Words>(x == x) & nearest;
    const Words nan = ~reinterpret_cast<Words>(x == x) & ((bits >> 16) | 0x40u);
    return __builtin_convertvector(found | nan, Halves);
#endif
}

MAEDFER_INLINE void store(BFloat16 *to, Vector x) { *reinterpret_cast<UnalignedHalves *>(to) = rounded(x); }

// The first `count` < lanes of them, zeros for the others; nothing beyond is touched. Sanitizers do not see masks.
#if defined(__AVX512BW__) && !defined(__SANITIZE_ADDRESS__)
MAEDFER_INLINE __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

MAEDFER_INLINE Vector load(const float *from, int64_t count) { return _mm512_maskz_loadu_ps(first(count), from); }

MAEDFER_INLINE void store(float *to, Vector x, int64_t count) { _mm512_mask_storeu_ps(to, first(count), x); }

MAEDFER_INLINE Vector load(const BFloat16 *from, int64_t count) {
    return widened(reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(first(count), from)));
}

MAEDFER_INLINE void store(BFloat16 *to, Vector x, int64_t count) {
    _mm256_mask_storeu_epi16(to, first(count), reinterpret_cast<__m256i>(rounded(x)));
}
#else
template <typename T>
MAEDFER_INLINE Vector load(const T *from, int64_t count) {
    alignas(64) T buffer[lanes] = {};
    for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
    return load(buffer);
}

template <typename T>
MAEDFER_INLINE void store(T *to, Vector x, int64_t count) {
    alignas(64) T buffer[lanes];
    store(buffer, x);
    for (int64_t i = 0; i < count; ++i) to[i] = buffer[i];
}
#endif

// What a row is walked by: whole vectors, and what is left at its end.
struct Whole {};
struct Part {
    int64_t count;
};

template <typename T>
MAEDFER_INLINE Vector load(const T *from, Whole) {
    return load(from);
}
template <typename T>
MAEDFER_INLINE Vector load(const T *from, Part part) {
    return load(from, part.count);
}
template <typename T>
MAEDFER_INLINE void store(T *to, Vector x, Whole) {
    store(to, x);
}
template <typename T>
MAEDFER_INLINE void store(T *to, Vector x, Part part) {
    store(to, x, part.count);
}

// Zeros in place of numbers that are not part of it.
MAEDFER_INLINE Vector only(Vector x, Whole) { return x; }
MAEDFER_INLINE Vector only(Vector x, Part part) {
    alignas(64) constexpr int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return *reinterpret_cast<const Integers *>(numbers) < static_cast<int32_t>(part.count) ? x : Vector{};
}

// Calls function(part, place, slot) along a row of `columns` numbers. Slots are 0 to 3 in turn, so that a sum can be kept
// in four vectors that do not wait for each other.
template <typename Function>
MAEDFER_INLINE void walk(int64_t columns, Function function) {
    int64_t i = 0;
    for (; i + 4 * lanes <= columns; i += 4 * lanes) {
        function(Whole{}, i, 0);
        function(Whole{}, i + lanes, 1);
        function(Whole{}, i + 2 * lanes, 2);
        function(Whole{}, i + 3 * lanes, 3);
    }
    for (; i + lanes <= columns; i += lanes) function(Whole{}, i, 0);
    if (i < columns) function(Part{columns - i}, i, 1);
}

typedef float Four __attribute__((vector_size(16)));

// Join the halves of a vector until four numbers are left.
template <typename Any, typename Join>
MAEDFER_INLINE Four halved(Any x, Join join) {
    if constexpr (sizeof(Any) == sizeof(Four)) {
        return x;
    } else {
        typedef float Half __attribute__((vector_size(sizeof(Any) / 2)));
        Half half[2];
        __builtin_memcpy(half, &x, sizeof(Any));
        return halved(join(half[0], half[1]), join);
    }
}

MAEDFER_INLINE float sum(Vector x) {
    const Four left = halved(x, [](auto a, auto b) { return a + b; });
    return (left[0] + left[2]) + (left[1] + left[3]);
}

MAEDFER_INLINE float largest(Vector x) {
    const Four left = halved(x, [](auto a, auto b) { return a > b ? a : b; });
    const float even = left[0] > left[2] ? left[0] : left[2], odd = left[1] > left[3] ? left[1] : left[3];
    return even > odd ? even : odd;
}

MAEDFER_INLINE Vector smaller(Vector a, Vector b) { return a < b ? a : b; }
MAEDFER_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// e^x to 2 units in the last place; 0 below -87.3, the largest e^88.7 above. NaN is not kept.
MAEDFER_INLINE Vector exponential(Vector x) {
    const Vector within = larger(smaller(x, all(88.72283f)), all(-87.3f));
    // x = n ln 2 + r, where n is the nearest integer: adding 1.5 * 2^23 rounds.
    const Vector shifted = within * 1.44269504f + 12582912.0f;
    const Vector n = shifted - 12582912.0f;
    const Vector r = (within - n * 0.693359375f) + n * 2.12194440e-4f;
    // Fitted to 3e-9 for |r| <= 0.35.
    Vector p = r * 0.0013814517f + 0.008368756f;
    p = p * r + 0.041668393f;
    p = p * r + 0.1666652f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    // The lowest bits of the sum are n, which goes into the exponent; where n is 128, p < 1.
    const Words scaled = reinterpret_cast<Words>(p) + (reinterpret_cast<Words>(shifted) << 23);
    return x < -87.3f ? Vector{} : reinterpret_cast<Vector>(scaled);
}

// Calls function(pointer of its type) for the data of a matrix, or of anything with data and a type, float32 or bfloat16.
template <typename Data, typename Function>
MAEDFER_INLINE void with_type(const Data &matrix, Function function) {
    if (matrix.type == Element::float32) {
        function(static_cast<float *>(matrix.data));
    } else {
        function(static_cast<BFloat16 *>(matrix.data));
    }
}

}  // namespace maedfer::MAEDFER_VARIANT
