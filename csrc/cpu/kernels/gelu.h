// The exact GELU, u * Phi(u), and its slope, Phi(u) + u * density(u), where Phi(u) = (1 + erf(u / sqrt(2))) / 2.
//
// With a = |u|, Phi(-a) = exp(-a^2 / 2) * R(a). R is smooth and falls slowly, so that a quotient of polynomials of degree
// 3 and 4 meets it, and what is small is never a difference of what is large: the lower tail keeps its digits. Both
// approximations were fitted by least squares with Lawson's weights, R to a relative error of 6e-8 (1 + a^2 / 2) for
// a <= 13, which is what rounding a^2 costs the exponential anyway. Below -13 Phi is 0 (it is 6e-39 there).
#pragma once

#include "vector.h"

namespace maedfer::MAEDFER_VARIANT {

// Phi(u) and exp(-u^2 / 2).
struct Normal {
    Vector below, bell;
};

MAEDFER_INLINE Normal normal(Vector u) {
    const Vector a = smaller(reinterpret_cast<Vector>(reinterpret_cast<Words>(u) & 0x7fffffffu), all(13.0f));
    const Vector square = a * a;
    // exp(-a^2 / 2) = 2^n * 2^f, where n is the nearest integer (adding 1.5 * 2^23 rounds) and |f| <= 1/2.
    const Vector shifted = square * -0.72134752f + 12582912.0f;
    const Vector f = square * -0.72134752f - (shifted - 12582912.0f);
    Vector power = f * 0.0013264727f + 0.009671513f;
    power = power * f + 0.055507336f;
    power = power * f + 0.24022242f;
    power = power * f + 0.693147f;
    power = power * f + 1.0f;
    // The lowest bits of the sum are n, which goes into the exponent.
    const Words scaled = reinterpret_cast<Words>(power) + (reinterpret_cast<Words>(shifted) << 23);
    const Vector bell = a < 13.0f ? reinterpret_cast<Vector>(scaled) : Vector{};
    Vector over = a * 0.01419794f + 0.1073216f;
    over = over * a + 0.34044238f;
    over = over * a + 0.5f;
    Vector under = a * 0.03560164f + 0.26860326f;
    under = under * a + 0.89455779f;
    under = under * a + 1.47876695f;
    under = under * a + 1.0f;
    const Vector tail = bell * (over / under);
    return {u < 0.0f ? tail : 1.0f - tail, bell};
}

MAEDFER_INLINE Vector gelu(Vector u) { return u * normal(u).below; }

// What a change of u changes the GELU by.
MAEDFER_INLINE Vector gelu_slope(Vector u, const Normal &at) { return at.below + u * at.bell * 0.39894228f; }

MAEDFER_INLINE Vector gelu_slope(Vector u) { return gelu_slope(u, normal(u)); }

}  // namespace maedfer::MAEDFER_VARIANT
