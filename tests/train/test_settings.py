"""Every setting carries what there is to know of it."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from maedfer.dataclass_tree import field_types, keys_of, walk
from maedfer.models import LGIFormerConfig, MAEDFERConfig
from maedfer.setting import OWNERS, setting_of
from maedfer.train.config import TASKS
from maedfer.train.settings import AugmentConfig, DataConfig, EvalConfig, OptimConfig, RunConfig, TrainConfig

CLASSES = (LGIFormerConfig, MAEDFERConfig, DataConfig, AugmentConfig, OptimConfig, TrainConfig, EvalConfig, RunConfig)


def holds_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(holds_numbers(part) for part in typing.get_args(hint))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_a_setting_with_meaning_owner_and_range(cls: type) -> None:
    for key, field in walk(cls):
        known = setting_of(field)
        assert known.doc and not known.doc.endswith(".") and "\n" not in known.doc, key
        assert known.belongs_to in OWNERS, key
        assert set(known.by_task) <= set(TASKS), key
    for name, hint in field_types(cls).items():
        known = setting_of(cls.__dataclass_fields__[name])  # type: ignore[attr-defined]
        assert known.doc, name
        assert holds_numbers(hint) == known.has_range, f"{cls.__name__}.{name}: numbers, and nothing else, have a range"


def test_weights_have_an_architecture_and_runs_have_none() -> None:
    assert {key.removeprefix("encoder.") for key in keys_of(MAEDFERConfig, "weights")} > {"embed_dim", "decoder_dim"}
    assert all(key.startswith("model.") for key in keys_of(RunConfig, "weights"))


def test_what_a_resumed_run_may_change() -> None:
    free = keys_of(RunConfig, "machine")
    # Nothing that a run ends with depends on these.
    assert free >= set(
        """output report data.train data.val data.test data.root data.workers data.backend data.cache data.on_error
        data.max_broken train.max_skipped
        model.impl model.full_attention model.checkpoint_blocks
        model.encoder.impl model.encoder.full_attention model.encoder.checkpoint_blocks
        augment.device train.batch_size train.accumulate train.global_batch train.timeout train.lost_after data.timeout
        train.compile train.cuda_graphs
        train.device train.resume train.save_every train.save_steps train.log_every train.threads train.tensorboard
        train.log_to eval.batch_size eval.save_features eval.checkpoint eval.runs""".split()
    )
    # Everything that it ends with depends on these.
    for section in ("augment.", "optim."):
        assert not any(key.startswith(section) for key in free - {"augment.device"})
    assert not free & set(
        """task model_name seed data.classes data.label_offset data.stride data.repeats data.fit train.ema
        train.precision train.max_steps train.init train.freeze_blocks train.tune
        train.lora_rank train.lora_alpha train.lora_targets train.deterministic eval.views eval.every
        eval.select eval.metric model.depth model.num_classes model.encoder.depth model.mask_ratio""".split()
    )


def test_what_may_differ_in_a_model_that_takes_weights_over() -> None:
    free = keys_of(LGIFormerConfig, "results", "machine")
    assert free >= set(
        """clip_size region_size token_type position_grid drop_path num_classes init_scale checkpoint_blocks impl
        full_attention""".split()
    )
    assert not free & set(
        """patch_size in_channels architecture embed_dim depth num_heads mlp_ratio qkv_bias intra_region inter_region
        interaction feedback share_attention position""".split()
    )
