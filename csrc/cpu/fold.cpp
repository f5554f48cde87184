#include "fold.h"

#include "floats.h"
#include "parallel.h"
#include "variants.h"

namespace maedfer {

void fold_forward(const Fold &fold, int threads) {
    const Folds &kernels = variant().folds;
    const int64_t heads = fold.sizes.heads, scratch_size = kernels.scratch(fold.sizes);
    parallel_tasks(heads + fold.sizes.blocks(), threads, [&](int64_t task) {
        const Floats scratch(scratch_size);
        if (task < heads) return kernels.query(fold, task, scratch.data());
        kernels.output(fold, task - heads, scratch.data());
    });
}

}  // namespace maedfer
