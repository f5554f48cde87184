#include "interaction.h"

#include "floats.h"
#include "parallel.h"
#include "variants.h"

namespace maedfer {
namespace {

int64_t rounded_up(int64_t count) { return (count + interaction_block - 1) / interaction_block * interaction_block; }

// Keys of all clips, packed both ways.
class AllPacked {
  public:
    AllPacked(const InteractionSizes &sizes, const Keys &by_columns, const Keys &by_rows, int threads)
        : each_(rounded_up(sizes.keys()) * rounded_up(sizes.channels)), packed_(sizes.clips * 2 * each_) {
        const int64_t blocks = sizes.blocks();
        parallel_tasks(sizes.clips * blocks, threads, [&](int64_t task) {
            const int64_t clip = task / blocks;
            variant().interactions.pack(sizes, by_columns, by_rows, clip, task % blocks, of(clip));
        });
    }

    PackedKeys of(int64_t clip) const {
        float *data = packed_.data() + clip * 2 * each_;
        return {data, data + each_};
    }

  private:
    int64_t each_;
    Floats packed_;
};

}  // namespace

void interaction_forward(const InteractionForward &task, int threads) {
    const InteractionSizes &sizes = task.sizes;
    const Interactions &kernels = variant().interactions;
    const AllPacked packed(sizes, task.a, task.v, threads);
    const int64_t each = sizes.chunks() + 1, scratch_size = kernels.scratch(sizes);
    parallel_tasks(sizes.clips * each, threads, [&](int64_t number) {
        const int64_t clip = number / each, chunk = number % each;
        if (chunk == sizes.chunks()) return kernels.representatives(task, clip);
        const Floats scratch(scratch_size);
        kernels.forward(task, clip, chunk, packed.of(clip), scratch.data());
    });
}

void interaction_backward(InteractionBackward task, int threads) {
    const InteractionSizes &sizes = task.sizes;
    const Interactions &kernels = variant().interactions;
    const int64_t each = sizes.chunks() + 1, scratch_size = kernels.scratch(sizes);
    const Floats dscore(sizes.clips * sizes.chunks() * sizes.keys() * interaction_chunk);
    const Floats dscore_sums(sizes.clips * sizes.chunks() * sizes.keys());
    const Floats moments(2 * sizes.clips * sizes.tokens());
    task.dscore = dscore.data();
    task.dscore_sums = dscore_sums.data();
    task.moments = moments.data();
    {
        const AllPacked packed(sizes, task.v, task.a, threads);
        parallel_tasks(sizes.clips * each, threads, [&](int64_t number) {
            const int64_t clip = number / each, chunk = number % each;
            if (chunk == sizes.chunks()) return kernels.backward_representatives(task, clip);
            const Floats scratch(scratch_size);
            kernels.backward(task, clip, chunk, packed.of(clip), scratch.data());
        });
    }
    const int64_t blocks = sizes.blocks();
    parallel_tasks(sizes.clips * blocks * 2, threads, [&](int64_t number) {
        const Floats scratch(scratch_size);
        kernels.key_gradients(task, number / 2 / blocks, number / 2 % blocks, number % 2, scratch.data());
    });
}

}  // namespace maedfer
