// The launchers and kernels of csrc/cuda compiled for the emulator, as functions that Python's ctypes can call, and the
// emulator's own faults. Each function returns what the launcher does; emulator_error tells of faults.

// The kernels' way to the emulator.
#define MAEDFER_EMULATE
#include "reconstruction_loss.cu"
#include "tubelets.cu"

using namespace maedfer;

namespace {

Clips clips_of(const int64_t *sizes) {
    return {static_cast<int>(sizes[0]), sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8]};
}

Cube cube_of(const int64_t *sizes) {
    return {static_cast<int>(sizes[9]), static_cast<int>(sizes[10]), static_cast<int>(sizes[11])};
}

}  // namespace

extern "C" {

void emulator_reset() { simt::machine().reset(); }
const char *emulator_error() { return simt::machine().error().c_str(); }

// Kernels with faults that the emulator is to find.
int64_t emulate_fault(int64_t fault) {
    return !simt::machine().run(1, 64, 1024, [&] {
        const int thread = thread_index();
        if (fault == 0) store_shared_word(thread / 2 * 4, thread);
        if (fault == 1) {
            store_shared_word(thread * 4, thread);
            load_shared_word((63 - thread) * 4);
        }
        if (fault == 2) load_shared_word(1022);
        if (fault == 3) load_shared_word(1024);
        if (fault == 4 && thread < 32) block_barrier();
        if (fault == 5 && thread % 2 == 0) shuffle_xor(1.0f, 1);
        if (fault == 6) {
            load_shared_word((thread + 1) % 64 * 4);
            store_shared_word(thread * 4, thread);
        }
        if (fault == 7) {
            store_shared_word(thread * 4, thread);
            block_barrier();
            load_shared_word((63 - thread) * 4);
            block_barrier();
            store_shared_word(thread * 4, thread);
            block_barrier();
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
}
