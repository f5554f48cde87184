// Where the values of a token's cube lie in a clip. Shared by CPU and CUDA code, so that tests on a CPU cover both.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MAEDFER_HOST_DEVICE __host__ __device__
#else
#define MAEDFER_HOST_DEVICE
#endif

namespace maedfer {

// The size of one token's cube in frames and pixels.
struct Cube {
    int frames, height, width;

    MAEDFER_HOST_DEVICE int pixels() const { return height * width; }
    MAEDFER_HOST_DEVICE int values() const { return frames * height * width; }
};

// Clips [B, I, T, H, W] by their strides in values, any layout; the grid is counted in tokens.
struct Clips {
    int channels;
    int64_t grid_t, grid_h, grid_w;
    int64_t clip, channel, frame, row, column;

    MAEDFER_HOST_DEVICE int64_t tokens() const { return grid_t * grid_h * grid_w; }

    // Offset of the first value (channel 0) of a token, whose number is row-major over the grid. Numbers outside of it
    // wrap around, as indices of tensors do: nothing outside of the clip is ever read.
    MAEDFER_HOST_DEVICE int64_t corner(const Cube &cube, int64_t number, int64_t token) const {
        token %= tokens();
        token = token < 0 ? token + tokens() : token;
        const int64_t t = token / (grid_h * grid_w) * cube.frames;
        const int64_t y = token / grid_w % grid_h * cube.height;
        const int64_t x = token % grid_w * cube.width;
        return number * clip + t * frame + y * row + x * column;
    }
};

}  // namespace maedfer
