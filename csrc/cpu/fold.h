// Folding the projections of the local-global interaction into its keys and values on a CPU:
//
//     A_h = scale * g * (k_h Wq_h);   a_h = scale * k_h . (Wq_h b + bq_h);   V_h = keep * ((v_h + bv_h) Wo_h^T + bo / H)
//
// for the keys and values [B, M, 2C] of all clips, R = B * M rows. Most of the time goes to reading the weights [C, C],
// each once: a task takes a head's rows of the query's, or a block of rows of the output's.
#pragma once

#include "interaction.h"

namespace maedfer {

// Rows of a weight [C, C] or of keys and values, steps in elements; of weights, there are no clips.
struct FoldRows {
    void *data;
    Element type;
    int64_t clip, row;
};

struct Fold {
    InteractionSizes sizes;
    FoldRows kv, query, output;
    // [C], or null where there is none; the norm's are there.
    const float *value_bias, *norm_weight, *norm_bias, *query_bias, *out_bias;
    const float *keep;  // [B] or null
    Keys a, v;
    float *offset;  // [H, R]
};

struct Folds {
    // Numbers of scratch that a task takes.
    int64_t (*scratch)(const InteractionSizes &sizes);
    void (*query)(const Fold &fold, int64_t head, float *scratch);
    void (*output)(const Fold &fold, int64_t block, float *scratch);
};

void fold_forward(const Fold &fold, int threads);

}  // namespace maedfer
