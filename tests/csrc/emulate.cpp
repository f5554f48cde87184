// The launchers and kernels of csrc/cuda compiled for the emulator, as functions that Python's ctypes can call, and the
// emulator's own collective instructions. Each function returns what the launcher does; emulator_error tells of faults.

// The kernels' way to the emulator.
#define MAEDFER_EMULATE
#include "local_global_interaction.cu"
#include "reconstruction_loss.cu"
#include "region_attention.cu"
#include "tubelets.cu"

using namespace maedfer;

namespace {

// One warp's product of a [16, 16] and b [16, 8], both read as matrices from shared memory: as they lie, or stored
// transposed and turned over on the way.
template <class T>
void product(const char *a, const char *b, float *out, bool transposed) {
    const int lane = thread_index();
    for (int i = lane; i < 32; i += 32) copy_async(i * 16, a + i * 16, true);
    for (int i = lane; i < 16; i += 32) copy_async(512 + i * 16, b + i * 16, true);
    copy_async_commit();
    copy_async_wait<0>();
    block_barrier();
    uint32_t left[4], right[4];
    const int row = lane % 8, matrix = lane / 8;
    if (transposed) {
        // a is stored as [k, m] with rows of 32 bytes, b as [k, n] with rows of 16 bytes.
        load_matrices_transposed(left, (matrix / 2 * 8 + row) * 32 + matrix % 2 * 16);
        load_matrices_transposed(right, 512 + (matrix % 2 * 8 + row) * 16);
    } else {
        // a is stored as [m, k], b as [n, k], rows of 32 bytes.
        load_matrices(left, (matrix % 2 * 8 + row) * 32 + matrix / 2 * 16);
        load_matrices(right, 512 + row * 32 + matrix % 2 * 16);
    }
    float sum[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    multiply_add<T>(sum, left, right[0], right[1]);
    for (int i = 0; i < 4; ++i)
        simt::machine().store_global(out + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2, sum[i]);
}

Clips clips_of(const int64_t *sizes) {
    return {static_cast<int>(sizes[0]), sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8]};
}

Cube cube_of(const int64_t *sizes) {
    return {static_cast<int>(sizes[9]), static_cast<int>(sizes[10]), static_cast<int>(sizes[11])};
}

}  // namespace

extern "C" {

void emulator_reset() { simt::machine().reset(); }
void emulator_allow(const void *begin, size_t bytes, bool output) { simt::machine().allow(begin, bytes, output); }
void emulator_allow_everything() { simt::machine().allow_everything(); }
const char *emulator_error() { return simt::machine().error().c_str(); }
int64_t emulator_conflicts() { return simt::machine().conflicts(); }

int64_t emulate_product(int64_t element, const char *a, const char *b, float *out, bool transposed) {
    return !simt::machine().run(1, 32, 768, [&] {
        Element(element) == Element::float16 ? product<Half>(a, b, out, transposed)
                                             : product<Bfloat>(a, b, out, transposed);
    });
}

// Numbers to 16 bits, and back into `values`.
int64_t emulate_rounding(int64_t element, int64_t count, float *values, uint16_t *bits) {
    for (int64_t i = 0; i < count; ++i) {
        bits[i] = static_cast<uint16_t>(Element(element) == Element::float16 ? pack<Half>(values[i], 0.0f)
                                                                             : pack<Bfloat>(values[i], 0.0f));
        values[i] = Element(element) == Element::float16 ? to_float<Half>(bits[i]) : to_float<Bfloat>(bits[i]);
    }
    return 0;
}

// Kernels with faults that the emulator is to find.
int64_t emulate_fault(int64_t fault) {
    return !simt::machine().run(1, 64, 1024, [&] {
        const int thread = thread_index();
        if (fault == 0) store_shared_word(thread / 2 * 4, thread);
        if (fault == 1) {
            store_shared_word(thread * 4, thread);
            sync_warp();
            load_shared_word((63 - thread) * 4);
        }
        if (fault == 2) load_shared(1020 / 4 * 4);
        if (fault == 3) load_shared(1024);
        if (fault == 4 && thread < 32) block_barrier();
        if (fault == 5) load_float(&fault);
        if (fault == 6 && thread % 2 == 0) shuffle_xor(1.0f, 1);
        if (fault == 7) {
            load_shared_word((thread + 1) % 64 * 4);
            store_shared_word(thread * 4, thread);
        }
        if (fault == 8) {
            store_shared_word(thread * 4, thread);
            block_barrier();
            load_shared_word((63 - thread) * 4);
            block_barrier();
            store_shared_word(thread * 4, thread);
            sync_warp();
            load_shared_word((thread ^ 1) * 4);
        }
    });
}

// geometry: channels, the grid (3) and the strides (5) of clips, then the cube (3). places: strides of the index (2),
// clips, and tokens of each.
int64_t emulate_tubelets(const void *frames, const int64_t *geometry, const int64_t *index, const int64_t *places,
                         const float *scale, const float *shift, void *out, int64_t element) {
    return tubelets_cuda(frames, clips_of(geometry), cube_of(geometry), index, places[0], places[1], places[2],
                         places[3], scale, shift, out, Element(element), nullptr);
}

int64_t emulate_reconstruction_loss(const void *prediction, int64_t element, int64_t prediction_clip,
                                    int64_t prediction_token, const void *frames, const int64_t *geometry,
                                    const int64_t *index, const int64_t *places, bool motion, bool normalize,
                                    float *sums, void *difference) {
    return reconstruction_loss_cuda(prediction, Element(element), prediction_clip, prediction_token, frames,
                                    clips_of(geometry), cube_of(geometry), index, places[0], places[1], places[2],
                                    places[3], motion, normalize, sums, difference, nullptr);
}

int64_t emulate_region_attention_supported(int64_t rows, int64_t head_dim) {
    return region_attention_supported(rows, head_dim);
}

int64_t emulate_region_attention_forward(int64_t element, int64_t groups, int64_t rows, int64_t heads, int64_t head_dim,
                                         const void *q, const void *k, const void *v, int64_t group_stride,
                                         int64_t row_stride, void *out) {
    const RegionAttention inputs{
        static_cast<Element>(element), groups, rows, heads, head_dim, q, k, v, group_stride, row_stride};
    return region_attention_forward(inputs, out, nullptr);
}

int64_t emulate_region_attention_backward(int64_t element, int64_t groups, int64_t rows, int64_t heads,
                                          int64_t head_dim, const void *q, const void *k, const void *v,
                                          int64_t group_stride, int64_t row_stride, const void *dout,
                                          int64_t dout_group, int64_t dout_row, void *dq, void *dk, void *dv,
                                          int64_t gradient_group, int64_t gradient_row) {
    const RegionAttention inputs{
        static_cast<Element>(element), groups, rows, heads, head_dim, q, k, v, group_stride, row_stride};
    return region_attention_backward(inputs, dout, dout_group, dout_row, dq, dk, dv, gradient_group, gradient_row,
                                     nullptr);
}

// sizes: clips, regions, rows, heads, channels. pointers: z, s, A, a, V, weight, shift, y, n, p. strides: of z (3), s
// (2), A, a and V (3 each).
int64_t emulate_interaction(int64_t element, const int64_t *sizes, void *const *pointers, const int64_t *strides,
                            bool weights_float32, float eps, int64_t walkers) {
    const LocalGlobalInteraction arguments{static_cast<Element>(element),
                                           sizes[0],
                                           sizes[1],
                                           sizes[2],
                                           sizes[3],
                                           sizes[4],
                                           pointers[0],
                                           strides[0],
                                           strides[1],
                                           strides[2],
                                           pointers[1],
                                           strides[3],
                                           strides[4],
                                           pointers[2],
                                           strides[5],
                                           strides[6],
                                           strides[7],
                                           pointers[3],
                                           strides[8],
                                           strides[9],
                                           strides[10],
                                           pointers[4],
                                           strides[11],
                                           strides[12],
                                           strides[13],
                                           pointers[5],
                                           pointers[6],
                                           weights_float32,
                                           eps,
                                           pointers[7],
                                           pointers[8],
                                           pointers[9]};
    return local_global_interaction_forward(arguments, walkers, nullptr);
}

// plan: columns, teams and bytes of shared memory; returns whether the sizes are supported.
int64_t emulate_interaction_plan(int64_t regions, int64_t heads, int64_t channels, int64_t shared_limit,
                                 int64_t *plan) {
    const auto chosen = local_global_interaction_plan(regions, heads, channels, shared_limit);
    plan[0] = chosen.columns;
    plan[1] = chosen.teams;
    plan[2] = chosen.shared_bytes;
    return chosen.supported;
}

int64_t emulate_interaction_walkers(int64_t clips, int64_t rows, int64_t teams, int64_t processors) {
    return local_global_interaction_walkers(clips, rows, static_cast<int>(teams), static_cast<int>(processors));
}
}
