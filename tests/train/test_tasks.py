import pytest
import torch
from torch.nn.functional import cross_entropy

from maedfer.kernels.reference import own_share
from maedfer.models import normalize_frames
from maedfer.train.loader import TrainBatches
from maedfer.train.processes import Runtime
from maedfer.train.tasks import FinetuneTask, ForwardPass, PretrainTask
from tests.train.runs import tiny, write_clips

HERE = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def first_batch(cfg):
    batch = next(TrainBatches(cfg, HERE).epoch(0))
    del batch["skipped"]
    return batch


def test_step_of_pretraining_is_the_loss_of_the_hidden_tokens(data, tmp_path):
    cfg = tiny("pretrain", data, tmp_path, "model.decoder_keep=0.5")
    task = PretrainTask(cfg, HERE)
    model, loaded = task.build()
    assert loaded is None
    batch = first_batch(cfg)
    hidden, decoded = batch["mask"].unbind(1)
    expected = model.training_loss(batch["frames"], *model.token_numbers(hidden, decoded))
    found = ForwardPass(task, model)(task.send(batch))
    assert found.keys() == expected.keys() == {"loss", "appearance", "motion"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_step_of_finetuning_is_the_cross_entropy_of_mixed_clips(data, tmp_path):
    cfg = tiny("finetune", data, tmp_path, "augment.mixup=0", "augment.cutmix=0", "augment.smoothing=0")
    task = FinetuneTask(cfg, HERE)
    model, _ = task.build()
    batch = first_batch(cfg)
    expected = cross_entropy(model(batch["frames"]), batch["label"])
    found = ForwardPass(task, model)(task.send(batch))["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    mixing = FinetuneTask(tiny("finetune", data, tmp_path), HERE)
    batches = [mixing.send(batch) for _ in range(2)]
    targets = [batch["target"] for batch in batches]
    assert not torch.equal(*targets) and torch.allclose(targets[0].sum(1), torch.ones(4))
    # Mixed by the embedding, or before: whole normalised clips with the ones at the opposite places.
    for mixed in batches:
        clips = normalize_frames(mixed["frames"])
        share = own_share(mixed["mix"], *clips.shape[-2:])
        logits = model(share * clips + (1 - share) * clips.flip(0))
        torch.testing.assert_close(mixing.losses(model, mixed)["loss"], cross_entropy(logits, mixed["target"]))
    # Where its random numbers stand is what a task must remember.
    again = FinetuneTask(tiny("finetune", data, tmp_path), HERE)
    again.load_state_dict(mixing.state_dict())
    assert torch.equal(again.prepare(batch)["target"], mixing.prepare(batch)["target"])


def test_a_wrapper_of_the_step_sees_the_whole_model(data, tmp_path):
    for kind, name in ((PretrainTask, "pretrain"), (FinetuneTask, "finetune")):
        task = kind(tiny(name, data, tmp_path), HERE)
        model, _ = task.build()
        assert dict(ForwardPass(task, model).named_parameters()) == {
            f"model.{k}": v for k, v in model.named_parameters()
        }


def test_what_no_loss_reaches_and_what_is_frozen_is_not_trained(data, tmp_path):
    def untrained(kind, name, *changes):
        model, _ = kind(tiny(name, data, tmp_path, *changes), HERE).build()
        return {key for key, value in model.named_parameters() if not value.requires_grad}

    # An autoencoder reads every local token, a classifier the representative ones: the last block's way back from
    # these to the local tokens reaches nobody.
    assert not untrained(PretrainTask, "pretrain")
    unused = untrained(FinetuneTask, "finetune")
    assert unused and all(key.startswith("encoder.blocks.1.") for key in unused)
    frozen = untrained(FinetuneTask, "finetune", "train.freeze_blocks=1") - unused
    assert frozen == {key for key in frozen if key.startswith("encoder.") and not key.startswith("encoder.blocks.1.")}
    assert {"encoder.embedding.weight", "encoder.representative_tokens"} < frozen
