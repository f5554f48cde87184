// Element types by number, as Python passes them, and 16-bit floats on a CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace maedfer {

enum class Element : int { float32 = 0, bfloat16 = 1, float16 = 2, uint8 = 3 };

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float to_float(float x) { return x; }
inline float to_float(uint8_t x) { return static_cast<float>(x); }
inline float to_float(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

inline float to_float(Float16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
    // Exponents are moved by a product, which also makes subnormal numbers right.
    const float scaled = float_of(magnitude << 13) * float_of((254u - 15u) << 23);
    const uint32_t bits = magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : bits_of(scaled);
    return float_of(bits | sign);
}

inline void from_float(float x, float &out) { out = x; }

// To the nearest, ties to even; NaN stays NaN.
inline void from_float(float x, BFloat16 &out) {
    const uint32_t bits = bits_of(x), rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    out.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded >> 16);
}

inline void from_float(float x, Float16 &out) {
    const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude >= 0x7f800000u) {
        half = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    } else if (magnitude >= 0x477ff000u) {
        half = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
        half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {
        // Adding a half lets the float unit round to the grid of subnormal numbers.
        half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    }
    out.bits = static_cast<uint16_t>(half | sign);
}

// Call `function` with a value of the element's type.
template <typename Function>
void with_float_type(Element element, Function function) {
    switch (element) {
        case Element::float32: return function(float{});
        case Element::bfloat16: return function(BFloat16{});
        case Element::float16: return function(Float16{});
        default: throw std::invalid_argument("not a floating-point element type");
    }
}

}  // namespace maedfer
