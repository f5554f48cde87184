#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "operations.h"
#include "parallel.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "eight bytes are transposed as one word");

// For parts of MAEDFER_SIMD functions, which then are compiled for the instruction sets of these.
#define MAEDFER_INLINE __attribute__((always_inline))

namespace maedfer {
namespace {

// Swaps the bits of `mask << shift` of one word with those of `mask` of another.
MAEDFER_INLINE inline void swap_bits(uint64_t &high, uint64_t &low, int shift, uint64_t mask) {
    const uint64_t both = ((high >> shift) ^ low) & mask;
    low ^= both;
    high ^= both << shift;
}

// out[column * out_row + row] = in[row * in_row + column], for 8 x 8 bytes.
MAEDFER_INLINE inline void transpose_8x8(const uint8_t *in, int64_t in_row, uint8_t *out, int64_t out_row) {
    uint64_t words[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&words[i], in + i * in_row, 8);
    for (int i : {0, 1, 2, 3}) swap_bits(words[i], words[i + 4], 32, 0x00000000ffffffffu);
    for (int i : {0, 1, 4, 5}) swap_bits(words[i], words[i + 2], 16, 0x0000ffff0000ffffu);
    for (int i : {0, 2, 4, 6}) swap_bits(words[i], words[i + 1], 8, 0x00ff00ff00ff00ffu);
    for (int i = 0; i < 8; ++i) std::memcpy(out + i * out_row, &words[i], 8);
}

void transpose(const uint8_t *in, int64_t in_row, int64_t rows, int64_t columns, uint8_t *out, int64_t out_row) {
    const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
    for (int64_t column = 0; column < whole_columns; column += 8)
        for (int64_t row = 0; row < whole_rows; row += 8)
            transpose_8x8(in + row * in_row + column, in_row, out + column * out_row + row, out_row);
    for (int64_t column = 0; column < columns; ++column)
        for (int64_t row = column < whole_columns ? whole_rows : 0; row < rows; ++row)
            out[column * out_row + row] = in[row * in_row + column];
}

// out[i] = sum over taps of weights[k] * in[k * tap + i], in units of 2^-precision, rounded. Their number is known when
// this is compiled, so that the loop over neighbouring bytes becomes one of vectors.
template <int taps>
MAEDFER_INLINE inline void weigh(const uint8_t *__restrict in, int64_t tap, const int32_t *weights, int precision,
                                 int64_t count, uint8_t *__restrict out) {
    const int32_t half = 1 << (precision - 1);
    for (int64_t i = 0; i < count; ++i) {
        int32_t sum = half;
        for (int k = 0; k < taps; ++k) sum += weights[k] * in[k * tap + i];
        out[i] = static_cast<uint8_t>(std::min(sum >> precision, 255));
    }
}

// The same for any number of taps.
MAEDFER_INLINE inline void weigh(const uint8_t *__restrict in, int64_t tap, const int32_t *weights, int taps,
                                 int precision, int64_t count, uint8_t *__restrict out) {
    switch (taps) {
        case 1: return weigh<1>(in, tap, weights, precision, count, out);
        case 2: return weigh<2>(in, tap, weights, precision, count, out);
        case 3: return weigh<3>(in, tap, weights, precision, count, out);
        case 4: return weigh<4>(in, tap, weights, precision, count, out);
        case 5: return weigh<5>(in, tap, weights, precision, count, out);
        case 6: return weigh<6>(in, tap, weights, precision, count, out);
    }
    constexpr int64_t most = 256;
    for (int64_t at = 0; at < count; at += most) {
        const int64_t length = std::min(most, count - at);
        int32_t sums[most];
        std::fill_n(sums, length, 1 << (precision - 1));
        for (int k = 0; k < taps; ++k)
            for (int64_t i = 0; i < length; ++i) sums[i] += weights[k] * in[k * tap + at + i];
        for (int64_t i = 0; i < length; ++i) out[at + i] = static_cast<uint8_t>(std::min(sums[i] >> precision, 255));
    }
}

// Which inputs every output of one axis is made of, and their weights as integers: a triangle as wide as an output, or
// as an input where there are fewer of these (as Pillow and PyTorch have it).
struct Axis {
    int precision = 0;
    int64_t most = 0;
    std::vector<int64_t> first;
    std::vector<int> taps;
    std::vector<int32_t> weights;

    Axis(int64_t in, int64_t out) : first(out), taps(out) {
        const double scale = static_cast<double>(in) / out, width = std::max(scale, 1.0);
        most = static_cast<int64_t>(std::ceil(width)) * 2 + 1;
        std::vector<double> exact(most * out);
        double largest = 0.0;
        for (int64_t i = 0; i < out; ++i) {
            const double center = scale * (i + 0.5);
            first[i] = std::max<int64_t>(static_cast<int64_t>(center - width + 0.5), 0);
            taps[i] = static_cast<int>(std::min<int64_t>(static_cast<int64_t>(center + width + 0.5), in) - first[i]);
            double *row = exact.data() + most * i, total = 0.0;
            for (int k = 0; k < taps[i]; ++k) {
                row[k] = std::max(0.0, 1.0 - std::abs((first[i] + k - center + 0.5) / width));
                total += row[k];
            }
            for (int k = 0; k < taps[i]; ++k) largest = std::max(largest, row[k] /= total);
        }
        // As exact as weights of 16 bits allow.
        while (precision < 22 && 0.5 + largest * (1 << (precision + 1)) < (1 << 15)) ++precision;
        weights.resize(exact.size());
        for (size_t i = 0; i < exact.size(); ++i) weights[i] = static_cast<int32_t>(0.5 + exact[i] * (1 << precision));
    }
    const int32_t *weights_of(int64_t i) const { return weights.data() + most * i; }
};

MAEDFER_SIMD void resize_row(const uint8_t *in, const Axis &axis, int64_t lanes, bool mirror, uint8_t *out) {
    const int64_t count = static_cast<int64_t>(axis.first.size());
    for (int64_t x = 0; x < count; ++x)
        weigh(in + axis.first[x] * lanes, lanes, axis.weights_of(x), axis.taps[x], axis.precision, lanes,
              out + (mirror ? count - 1 - x : x) * lanes);
}

MAEDFER_SIMD void resize_column(const uint8_t *in, const Axis &axis, int64_t y, int64_t row, uint8_t *out) {
    weigh(in, row, axis.weights_of(y), axis.taps[y], axis.precision, row, out);
}

MAEDFER_INLINE inline void mix_corners(const uint8_t *const (&corners)[4], const float (&weights)[4], float inside,
                                       const float *__restrict fill, int64_t lanes, uint8_t *__restrict out) {
    const uint8_t *__restrict a = corners[0], *__restrict b = corners[1], *__restrict c = corners[2],
                              *__restrict d = corners[3];
    for (int64_t i = 0; i < lanes; ++i) {
        const float value = weights[0] * a[i] + weights[1] * b[i] + weights[2] * c[i] + weights[3] * d[i];
        // As torchvision mixes the border: what is sampled there has the share of the outside as black in it.
        const float mixed = (value - fill[i]) * inside + fill[i];
        // To the nearest integer, ties to even: so large a sum has no bits for fractions.
        constexpr float large = 1.5f * (1 << 23);
        out[i] = static_cast<uint8_t>(static_cast<int32_t>((mixed + large) - large));
    }
}

// One row of an affine map. `x` and `y` are where its first pixel comes from, `dx` and `dy` a step along the row.
MAEDFER_SIMD void sample_row(const uint8_t *in, const Pictures &size, double x, double y, double dx, double dy,
                             const float *fill, const uint8_t *nothing, uint8_t *out) {
    const int64_t lanes = size.lanes;
    for (int64_t column = 0; column < size.columns; ++column, out += lanes) {
        const double from_x = x + column * dx, from_y = y + column * dy;
        const double left = std::floor(from_x), top = std::floor(from_y);
        const float right = static_cast<float>(from_x - left), below = static_cast<float>(from_y - top);
        const uint8_t *corners[4];
        float weights[4], inside = 0.0f;
        for (int i = 0; i < 4; ++i) {
            const double at_x = left + i % 2, at_y = top + i / 2;
            const bool there = at_x >= 0 && at_x < size.columns && at_y >= 0 && at_y < size.rows;
            corners[i] =
                there ? in + (static_cast<int64_t>(at_y) * size.columns + static_cast<int64_t>(at_x)) * lanes : nothing;
            weights[i] = (i % 2 ? right : 1.0f - right) * (i / 2 ? below : 1.0f - below);
            inside += there ? weights[i] : 0.0f;
        }
        mix_corners(corners, weights, inside, fill, lanes, out);
    }
}

// Where one axis of a bicubic sample comes from: four neighbours, and the weights of the first, third and fourth of them,
// those of Keys' convolution with a = -1; the second has the rest. Neighbours outside are those at the border.
struct Cubic {
    int64_t at[4];
    float weights[3];
    bool between;

    Cubic(double place, int64_t count) {
        const double first = std::floor(place), part = place - first;
        for (int i = 0; i < 4; ++i)
            at[i] = std::min(std::max<int64_t>(static_cast<int64_t>(first) + i - 1, 0), count - 1);
        weights[0] = static_cast<float>(part * (part * (2.0 - part) - 1.0));
        weights[1] = static_cast<float>(part * (1.0 + part * (1.0 - part)));
        weights[2] = static_cast<float>(part * part * (part - 1.0));
        between = part != 0.0;
    }
    // Equal neighbours stay exactly what they are.
    MAEDFER_INLINE float mix(float first, float second, float third, float fourth) const {
        return second +
               (((first - second) * weights[0] + (third - second) * weights[1]) + (fourth - second) * weights[2]);
    }
};

// A pixel that has its row, or its column, to itself is made of four neighbours or of one: the others weigh nothing.
template <bool across, bool down>
MAEDFER_INLINE inline void mix_cubic(const uint8_t *in, int64_t row, int64_t lanes, const Cubic &x, const Cubic &y,
                                     uint8_t *__restrict out) {
    const uint8_t *__restrict taps[4][4];
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 4; ++k) taps[i][k] = in + y.at[i] * row + x.at[k] * lanes;
    for (int64_t lane = 0; lane < lanes; ++lane) {
        float lines[4];
        for (int i = down ? 0 : 1; i < (down ? 4 : 2); ++i)
            lines[i] = across ? x.mix(taps[i][0][lane], taps[i][1][lane], taps[i][2][lane], taps[i][3][lane])
                              : taps[i][1][lane];
        const float value = down ? y.mix(lines[0], lines[1], lines[2], lines[3]) : lines[1];
        out[lane] = static_cast<uint8_t>(static_cast<int32_t>(std::min(std::max(value, 0.0f), 255.0f)));
    }
}

// One row of a bicubic affine map, as in sample_row.
MAEDFER_SIMD void sample_row_cubic(const uint8_t *in, const Pictures &size, double x, double y, double dx, double dy,
                                   uint8_t fill, uint8_t *out) {
    const int64_t lanes = size.lanes, row = size.columns * lanes;
    for (int64_t column = 0; column < size.columns; ++column, out += lanes) {
        const double from_x = x + column * dx, from_y = y + column * dy;
        if (!(from_x >= -0.5 && from_x < size.columns - 0.5 && from_y >= -0.5 && from_y < size.rows - 0.5)) {
            std::fill_n(out, lanes, fill);
            continue;
        }
        const Cubic across(from_x, size.columns), down(from_y, size.rows);
        if (across.between && down.between)
            mix_cubic<true, true>(in, row, lanes, across, down, out);
        else if (across.between)
            mix_cubic<true, false>(in, row, lanes, across, down, out);
        else if (down.between)
            mix_cubic<false, true>(in, row, lanes, across, down, out);
        else
            std::copy_n(in + down.at[1] * row + across.at[1] * lanes, lanes, out);
    }
}

// base + value * factor, rounded once as by PyTorch: in double the product and, for bytes, the sum are exact.
MAEDFER_INLINE inline float multiply_add(float base, float value, float factor) {
    return static_cast<float>(base + static_cast<double>(value) * factor);
}

MAEDFER_INLINE inline int32_t grey(uint8_t red, uint8_t green, uint8_t blue) {
    return static_cast<int32_t>(multiply_add(multiply_add(red * 0.2989f, green, 0.587f), blue, 0.114f));
}

MAEDFER_INLINE inline uint8_t clamped(float value) {
    const int32_t whole = static_cast<int32_t>(value);
    return static_cast<uint8_t>(std::min(std::max(whole, 0), 255));
}

MAEDFER_INLINE inline void saturate_pixel(const uint8_t *__restrict in, int64_t frames, int64_t count, float factor,
                                          float other, uint8_t *__restrict out) {
    for (int64_t t = 0; t < count; ++t) {
        const uint8_t red = in[t], green = in[frames + t], blue = in[2 * frames + t];
        const float mean = static_cast<float>(grey(red, green, blue));
        out[t] = clamped(multiply_add(red * factor, mean, other));
        out[frames + t] = clamped(multiply_add(green * factor, mean, other));
        out[2 * frames + t] = clamped(multiply_add(blue * factor, mean, other));
    }
}

MAEDFER_SIMD void saturate_all(const uint8_t *in, int64_t pixels, int64_t frames, float factor, float other,
                               uint8_t *out) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, in += 3 * frames, out += 3 * frames) {
        int64_t t = 0;
        // The usual length of a clip: where it is known, vectors are not longer than that.
        for (; t + 16 <= frames; t += 16) saturate_pixel(in + t, frames, 16, factor, other, out + t);
        saturate_pixel(in + t, frames, frames - t, factor, other, out + t);
    }
}

MAEDFER_SIMD void add_grey(const uint8_t *__restrict in, int64_t pixels, int64_t frames, int32_t *__restrict sums) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, in += 3 * frames)
        for (int64_t t = 0; t < frames; ++t) sums[t] += grey(in[t], in[frames + t], in[2 * frames + t]);
}

MAEDFER_SIMD void sharpen_row(const uint8_t *__restrict in, int64_t row, int64_t lanes, int64_t count, float other,
                              uint8_t *__restrict out) {
    const uint8_t *__restrict above = in - row, *__restrict below = in + row;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t sum = above[i - lanes] + above[i] + above[i + lanes] + in[i - lanes] + 5 * in[i] + in[i + lanes] +
                            below[i - lanes] + below[i] + below[i + lanes];
        // To the nearest: no multiple of 1/13 lies halfway between integers.
        const float blurred = static_cast<float>(static_cast<int32_t>(sum * (1.0f / 13) + 0.5f));
        out[i] = clamped(multiply_add(in[i], blurred - in[i], other));
    }
}

MAEDFER_SIMD void widen(const uint8_t *in, int64_t pixels, int64_t lanes, uint8_t *smallest, uint8_t *largest) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, in += lanes)
        for (int64_t i = 0; i < lanes; ++i) {
            smallest[i] = std::min(smallest[i], in[i]);
            largest[i] = std::max(largest[i], in[i]);
        }
}

}  // namespace

void interleave(const uint8_t *in, const std::array<int64_t, 4> &strides, const Pictures &size, int64_t channels,
                uint8_t *out) {
    const int64_t frames = size.lanes / channels;
    const auto [frame, channel, row, column] = strides;
    const bool packed = channel == 1 && column == channels;
    for (int64_t y = 0; y < size.rows; ++y, out += size.columns * size.lanes) {
        const uint8_t *from = in + y * row;
        if (packed) {
            transpose(from, frame, frames, size.columns * channels, out, frames);
        } else {
            for (int64_t c = 0; c < channels; ++c) {
                if (column == 1) {
                    transpose(from + c * channel, frame, frames, size.columns, out + c * frames, size.lanes);
                    continue;
                }
                for (int64_t x = 0; x < size.columns; ++x)
                    for (int64_t t = 0; t < frames; ++t)
                        out[x * size.lanes + c * frames + t] = from[t * frame + c * channel + x * column];
            }
        }
    }
}

void resize(const uint8_t *in, int64_t in_row, int64_t in_rows, int64_t in_columns, const Pictures &size, bool mirror,
            bool planar, uint8_t *out) {
    const Axis across(in_columns, size.columns), down(in_rows, size.rows);
    const int64_t row = size.columns * size.lanes;
    std::vector<uint8_t> narrowed(in_rows * row), line(planar ? row : 0);
    for (int64_t y = 0; y < in_rows; ++y)
        resize_row(in + y * in_row, across, size.lanes, mirror, narrowed.data() + y * row);
    for (int64_t y = 0; y < size.rows; ++y) {
        uint8_t *to = planar ? line.data() : out + y * row;
        resize_column(narrowed.data() + down.first[y] * row, down, y, row, to);
        if (planar)
            transpose(to, size.lanes, size.columns, size.lanes, out + y * size.columns, size.rows * size.columns);
    }
}

void affine(const uint8_t *in, const Pictures &size, const std::array<double, 6> &matrix, const float *fill,
            uint8_t *out) {
    const std::vector<uint8_t> nothing(size.lanes);
    for (int64_t y = 0; y < size.rows; ++y)
        sample_row(in, size, matrix[1] * y + matrix[2], matrix[4] * y + matrix[5], matrix[0], matrix[3], fill,
                   nothing.data(), out + y * size.columns * size.lanes);
}

void affine_bicubic(const uint8_t *in, const Pictures &size, const std::array<double, 6> &matrix, uint8_t fill,
                    uint8_t *out) {
    for (int64_t y = 0; y < size.rows; ++y)
        sample_row_cubic(in, size, matrix[1] * y + matrix[2], matrix[4] * y + matrix[5], matrix[0], matrix[3], fill,
                         out + y * size.columns * size.lanes);
}

void look_up(const uint8_t *in, const Pictures &size, const uint8_t *tables, uint8_t *out) {
    for (int64_t pixel = 0; pixel < size.rows * size.columns; ++pixel, in += size.lanes, out += size.lanes)
        for (int64_t i = 0; i < size.lanes; ++i) out[i] = tables[i * 256 + in[i]];
}

void histograms(const uint8_t *in, const Pictures &size, int32_t *counts) {
    for (int64_t pixel = 0; pixel < size.rows * size.columns; ++pixel, in += size.lanes)
        for (int64_t i = 0; i < size.lanes; ++i) ++counts[i * 256 + in[i]];
}

void extremes(const uint8_t *in, const Pictures &size, uint8_t *smallest, uint8_t *largest) {
    widen(in, size.rows * size.columns, size.lanes, smallest, largest);
}

void grey_sums(const uint8_t *in, const Pictures &size, int64_t *sums) {
    const int64_t frames = size.lanes / 3;
    for (int64_t y = 0; y < size.rows; ++y, in += size.columns * size.lanes) {
        std::vector<int32_t> row(frames);
        add_grey(in, size.columns, frames, row.data());
        for (int64_t t = 0; t < frames; ++t) sums[t] += row[t];
    }
}

void saturate(const uint8_t *in, const Pictures &size, double factor, uint8_t *out) {
    saturate_all(in, size.rows * size.columns, size.lanes / 3, static_cast<float>(factor),
                 static_cast<float>(1.0 - factor), out);
}

void sharpen(const uint8_t *in, const Pictures &size, double factor, uint8_t *out) {
    const int64_t row = size.columns * size.lanes;
    std::copy_n(in, size.rows * row, out);
    if (size.rows < 3 || size.columns < 3) return;
    for (int64_t y = 1; y + 1 < size.rows; ++y)
        sharpen_row(in + y * row + size.lanes, row, size.lanes, row - 2 * size.lanes, static_cast<float>(1.0 - factor),
                    out + y * row + size.lanes);
}

}  // namespace maedfer
