#include <cmath>

#include "operations.h"
#include "parallel.h"

namespace maedfer {
namespace {

struct Statistics {
    float shift, mean, scale;
};

// Mean and unbiased deviation of one channel of a cube, relative to its first value: a flat cube is exactly zero.
template <typename In>
Statistics statistics(const In *corner, const Clips &clips, const Cube &cube, float maximum) {
    const float shift = to_float(*corner);
    // Sums of bytes are exact in double; those of floats are taken in two passes for the same reason.
    double sum = 0.0, squares = 0.0;
    for (int t = 0; t < cube.frames; ++t)
        for (int y = 0; y < cube.height; ++y) {
            const In *in = corner + t * clips.frame + y * clips.row;
            for (int x = 0; x < cube.width; ++x) sum += to_float(in[x * clips.column]) - shift;
        }
    const double mean = sum / cube.values();
    for (int t = 0; t < cube.frames; ++t)
        for (int y = 0; y < cube.height; ++y) {
            const In *in = corner + t * clips.frame + y * clips.row;
            for (int x = 0; x < cube.width; ++x) {
                const double centred = to_float(in[x * clips.column]) - shift - mean;
                squares += centred * centred;
            }
        }
    const double deviation = std::sqrt(squares / (cube.values() - 1)) + 1e-6 * maximum;
    return {shift, static_cast<float>(mean), static_cast<float>(1.0 / deviation)};
}

Statistics statistics(const uint8_t *corner, const Clips &clips, const Cube &cube, float maximum) {
    int64_t sum = 0, squares = 0;
    for (int t = 0; t < cube.frames; ++t)
        for (int y = 0; y < cube.height; ++y) {
            const uint8_t *in = corner + t * clips.frame + y * clips.row;
            int32_t row_sum = 0, row_squares = 0;
            if (clips.column == 1) {
                for (int x = 0; x < cube.width; ++x) row_sum += in[x], row_squares += int32_t(in[x]) * in[x];
            } else {
                for (int x = 0; x < cube.width; ++x) {
                    const int32_t value = in[x * clips.column];
                    row_sum += value, row_squares += value * value;
                }
            }
            sum += row_sum, squares += row_squares;
        }
    const double count = cube.values();
    // count^2 times the variance, an exact integer.
    const double spread = static_cast<double>(cube.values() * squares - sum * sum);
    const double deviation = std::sqrt(spread / (count * (count - 1))) + 1e-6 * maximum;
    const float shift = *corner;
    return {shift, static_cast<float>(sum / count - shift), static_cast<float>(1.0 / deviation)};
}

// The target of one cube in the order (frame, row, column, channel).
template <typename In>
void make_target(const In *corner, const Clips &clips, const Cube &cube, bool motion, bool normalize, float maximum,
                 float *target) {
    for (int channel = 0; channel < clips.channels; ++channel) {
        const In *plane = corner + channel * clips.channel;
        Statistics found{0.0f, 0.0f, 1.0f / maximum};
        if (normalize) found = statistics(plane, clips, cube, maximum);
        float *to = target + channel;
        for (int t = 0; t < cube.frames; ++t) {
            const bool differs = motion && t > 0;
            for (int y = 0; y < cube.height; ++y) {
                const In *in = plane + t * clips.frame + y * clips.row, *first = plane + y * clips.row;
                for (int x = 0; x < cube.width; ++x, to += clips.channels) {
                    const int64_t at = x * clips.column;
                    const float base = differs ? to_float(first[at]) : found.shift;
                    *to = (to_float(in[at]) - base - (differs ? 0.0f : found.mean)) * found.scale;
                }
            }
        }
    }
}

// The sum of (prediction - target)^2; keeps the differences where they are wanted.
template <typename T>
inline double subtract(const T *prediction, const float *target, int count, T *difference) {
    // Sixteen sums, so that they can be kept side by side in a register.
    float sums[16] = {};
    double total = 0.0;
    int at = 0;
    for (; at + 16 <= count; at += 16) {
        for (int lane = 0; lane < 16; ++lane) {
            const float error = to_float(prediction[at + lane]) - target[at + lane];
            if (difference) from_float(error, difference[at + lane]);
            sums[lane] += error * error;
        }
    }
    for (; at < count; ++at) {
        const float error = to_float(prediction[at]) - target[at];
        if (difference) from_float(error, difference[at]);
        total += static_cast<double>(error) * error;
    }
    for (float sum : sums) total += sum;
    return total;
}

MAEDFER_SIMD double subtract_row(const float *prediction, const float *target, int count, float *difference) {
    return subtract(prediction, target, count, difference);
}
MAEDFER_SIMD double subtract_row(const BFloat16 *prediction, const float *target, int count, BFloat16 *difference) {
    return subtract(prediction, target, count, difference);
}
MAEDFER_SIMD double subtract_row(const Float16 *prediction, const float *target, int count, Float16 *difference) {
    return subtract(prediction, target, count, difference);
}

}  // namespace

Losses reconstruction_loss(const void *prediction, Element type, int64_t prediction_clip, int64_t prediction_token,
                           const void *frames, Element frames_type, const Clips &clips, const Cube &cube,
                           const int64_t *index, int64_t index_clip, int64_t index_token, int64_t batch, int64_t count,
                           bool motion, bool normalize, float maximum, void *difference, int threads) {
    const int64_t tokens = batch * count;
    const int first = cube.pixels() * clips.channels, all = cube.values() * clips.channels;
    // Kept by token and added up in order: the result does not depend on the number of threads.
    std::vector<Losses> sums(tokens);
    parallel(tokens, 16, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> target(all);
        with_float_type(type, [&](auto example) {
            using T = decltype(example);
            for (int64_t number = begin; number < end; ++number) {
                const int64_t clip = number / count, place = number % count;
                const int64_t corner = clips.corner(cube, clip, index[clip * index_clip + place * index_token]);
                if (frames_type == Element::uint8) {
                    make_target(static_cast<const uint8_t *>(frames) + corner, clips, cube, motion, normalize, maximum,
                                target.data());
                } else {
                    make_target(static_cast<const float *>(frames) + corner, clips, cube, motion, normalize, maximum,
                                target.data());
                }
                const T *predicted =
                    static_cast<const T *>(prediction) + clip * prediction_clip + place * prediction_token;
                T *kept = difference ? static_cast<T *>(difference) + number * all : nullptr;
                sums[number].appearance = subtract_row(predicted, target.data(), first, kept);
                sums[number].motion =
                    subtract_row(predicted + first, target.data() + first, all - first, kept ? kept + first : nullptr);
            }
        });
    });
    Losses total{0.0, 0.0};
    for (const Losses &sum : sums) total.appearance += sum.appearance, total.motion += sum.motion;
    // Of no token, or of no frame, they are undefined like the mean of an empty tensor.
    return {total.appearance / (static_cast<double>(tokens) * first),
            total.motion / (static_cast<double>(tokens) * (all - first))};
}

}  // namespace maedfer
