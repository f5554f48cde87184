#include "local_global_interaction.cuh"

#include <algorithm>

#include "launcher.h"

namespace maedfer {
namespace {

int64_t power_of_two(int64_t size) {
    int64_t power = 1;
    while (power < size) power *= 2;
    return power;
}

template <int C>
LocalGlobalInteractionPlan plan_teams(int64_t columns, int64_t shared_limit) {
    using Shape = LocalGlobalInteractionShape<C>;
    int teams = Shape::kMostTeams;
    while (teams > 0 && Shape::shared_bytes(columns, teams) > shared_limit) --teams;
    // A single team has nobody to hide its waiting.
    if (teams < 2) return {};
    return {true, columns, teams, Shape::shared_bytes(columns, teams)};
}

template <class T>
int launch_channels(int64_t channels, const LocalGlobalInteractionPlan &plan, int64_t blocks,
                    const LocalGlobalInteractionArguments &arguments, void *stream) {
    const int threads = plan.teams * 64;
    switch (channels) {
        case 256:
            return launch_kernel(local_global_interaction_forward_kernel<T, 256>, blocks, threads, plan.shared_bytes,
                                 arguments, stream);
        case 384:
            return launch_kernel(local_global_interaction_forward_kernel<T, 384>, blocks, threads, plan.shared_bytes,
                                 arguments, stream);
        case 512:
            return launch_kernel(local_global_interaction_forward_kernel<T, 512>, blocks, threads, plan.shared_bytes,
                                 arguments, stream);
        default: return kUnsupported;
    }
}

bool addressable(const LocalGlobalInteraction &in) {
    const int64_t strides = in.z_clip | in.z_region | in.z_row | in.s_clip | in.s_region | in.matrix_clip |
                            in.matrix_head | in.matrix_key | in.values_clip | in.values_head | in.values_key;
    return strides % 8 == 0 && aligned(in.z) && aligned(in.s) && aligned(in.matrix) && aligned(in.values) &&
           aligned(in.y) && aligned(in.n) && aligned(in.p);
}

}  // namespace

LocalGlobalInteractionPlan local_global_interaction_plan(int64_t regions, int64_t heads, int64_t channels,
                                                         int64_t shared_limit) {
    if (regions < 1 || regions > 16 || heads < 1 || heads > 64) return {};
    const int64_t columns = std::max<int64_t>(16, power_of_two(regions) * power_of_two(heads));
    if (columns > 64) return {};
    switch (channels) {
        case 256: return plan_teams<256>(columns, shared_limit);
        case 384: return plan_teams<384>(columns, shared_limit);
        case 512: return plan_teams<512>(columns, shared_limit);
        default: return {};
    }
}

int64_t local_global_interaction_walkers(int64_t clips, int64_t rows_of_clip, int teams, int processors) {
    const int64_t tiles = (rows_of_clip + 15) / 16;
    int64_t best = 1;
    double least = 0;
    for (int64_t walkers = 1; walkers <= std::max<int64_t>(1, (tiles + teams - 1) / teams); ++walkers) {
        const int64_t waves = (clips * walkers + processors - 1) / processors;
        const int64_t rounds = (tiles + walkers * teams - 1) / (walkers * teams);
        // A and V of 64 keys are 128 bytes times the channels, a tile's x, y and n 96: in rounds of all teams' tiles.
        const double time = static_cast<double>(waves) * (static_cast<double>(rounds) + 128.0 / (48 * teams));
        if (walkers == 1 || time < least) {
            best = walkers;
            least = time;
        }
    }
    return best;
}

int local_global_interaction_forward(const LocalGlobalInteraction &in, int64_t walkers, void *stream) {
    int64_t shared_limit = 0;
    int processors = 0;
    if (const int error = device_limits(shared_limit, processors)) return error;
    const auto plan = local_global_interaction_plan(in.regions, in.heads, in.channels, shared_limit);
    // Rows of a clip are counted in 32 bits, with those of the tiles after the last one.
    if (!plan.supported || in.rows < 1 || in.rows > INT32_MAX / 256 || in.clips < 0 || walkers < 0) return kUnsupported;
    if (!addressable(in)) return kMisaligned;
    const int64_t clip_rows = in.regions * in.rows;
    if (walkers == 0) walkers = local_global_interaction_walkers(in.clips, clip_rows, plan.teams, processors);
    walkers = std::min(walkers, (clip_rows + 15) / 16);
    const LocalGlobalInteractionArguments arguments{static_cast<const char *>(in.z),
                                                    static_cast<const char *>(in.s),
                                                    in.z_clip * 2,
                                                    in.z_region * 2,
                                                    in.z_row * 2,
                                                    in.s_clip * 2,
                                                    in.s_region * 2,
                                                    static_cast<const char *>(in.matrix),
                                                    static_cast<const char *>(in.offset),
                                                    static_cast<const char *>(in.values),
                                                    in.matrix_clip * 2,
                                                    in.matrix_head * 2,
                                                    in.matrix_key * 2,
                                                    in.offset_clip * 4,
                                                    in.offset_head * 4,
                                                    in.offset_key * 4,
                                                    in.values_clip * 2,
                                                    in.values_head * 2,
                                                    in.values_key * 2,
                                                    static_cast<const char *>(in.weight),
                                                    static_cast<const char *>(in.shift),
                                                    static_cast<char *>(in.y),
                                                    static_cast<char *>(in.n),
                                                    static_cast<char *>(in.p),
                                                    static_cast<int>(in.regions),
                                                    static_cast<int>(in.rows),
                                                    static_cast<int>(in.heads),
                                                    static_cast<int>(power_of_two(in.regions)),
                                                    static_cast<int>(plan.columns),
                                                    static_cast<int>(walkers),
                                                    in.weights_float32,
                                                    in.eps};
    const int64_t blocks = in.clips * walkers;
    return in.element == Element::float16 ? launch_channels<Half>(in.channels, plan, blocks, arguments, stream)
                                          : launch_channels<Bfloat>(in.channels, plan, blocks, arguments, stream);
}

}  // namespace maedfer
