// Vectors shuffled and transposed, in the words of GCC and of Clang.
#pragma once

#include "vector.h"

namespace maedfer::MAEDFER_VARIANT {

// 0, 1, .. lanes - 1, as arguments of a template.
template <int... I>
struct Numbers {};
template <int Count, int... I>
struct Counted : Counted<Count - 1, Count - 1, I...> {};
template <int... I>
struct Counted<0, I...> {
    using Found = Numbers<I...>;
};
using Lanes = Counted<lanes>::Found;

template <int... I>
MAEDFER_INLINE Integers counted(Numbers<I...>) {
    return Integers{I...};
}

// a[0], b[0], a[1], b[1], .. of the lower or the upper halves.
template <bool Upper, int... I>
MAEDFER_INLINE Vector interleaved(Vector a, Vector b, Numbers<I...>) {
    constexpr int from = Upper ? lanes / 2 : 0;
#ifdef __clang__
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * lanes + from)...);
#else
    return __builtin_shuffle(a, b, Integers{(I / 2 + I % 2 * lanes + from)...});
#endif
}

// Rows become columns: every round exchanges the first bit of a row's number with the first bit of a column's.
MAEDFER_INLINE void transpose(Vector (&rows)[lanes]) {
#pragma GCC unroll 4
    for (int round = 1; round < lanes; round *= 2) {
        Vector next[lanes];
#pragma GCC unroll 8
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = interleaved<false>(rows[i], rows[i + lanes / 2], Lanes{});
            next[2 * i + 1] = interleaved<true>(rows[i], rows[i + lanes / 2], Lanes{});
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) rows[i] = next[i];
    }
}

}  // namespace maedfer::MAEDFER_VARIANT
