"""Plans against sums done otherwise: rings and failures are simulated, schedules are the trainer's."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.planning import Machine, TrainingJob, plan_run, training_job, with_core_rate
from maedfer.planning.measured import PASSES
from maedfer.planning.plan import sharing
from maedfer.planning.words import sentences
from maedfer.train.config import load_config
from maedfer.train.optim import run_schedule

H100 = Machine.of_gpu("h100")
# Nothing but the GPUs takes time.
FREE = Machine.of_gpu("h100", {"disk": 1e9, "cores": 1e9, "write": 1e9, "mtbf": 1e12})
CLIPS = 1_092_009


@cache
def job(recipe: str = "voxceleb2_pretrain", *overrides: str, clips: int | None = None) -> TrainingJob:
    return training_job(recipe, list(overrides), clips)


def test_one_gpu_is_what_was_measured() -> None:
    for recipe, task in (("voxceleb2_pretrain", "pretrain"), ("dfew", "finetune")):
        whole = PASSES[task]
        asked = job(recipe, f"train.batch_size={whole.clips}")
        plan = plan_run(asked, FREE, 1)
        assert plan.step_ms == pytest.approx(whole.kernels_ms, rel=1e-3)
        # Held by weights and averages, the rest of the peak, and weights in bfloat16.
        measured = 12 * whole.parameters + whole.memory_bytes + 2 * whole.parameters
        assert plan.memory_gb * 1e9 == pytest.approx(measured, rel=1e-3)
        eager = plan_run(job(recipe, f"train.batch_size={whole.clips}", "train.compile=false"), FREE, 1)
        assert eager.step_ms == pytest.approx(whole.eager_ms, rel=1e-3)
        assert plan.eager_hours == pytest.approx(eager.hours, rel=1e-6)
    plan = plan_run(job(), FREE, 1)
    assert plan.hours == pytest.approx(50 * (CLIPS // 128) * 0.035277 / 3600, rel=1e-3)
    assert plan.price == pytest.approx(3 * plan.gpu_hours) and plan.bottleneck == "compute"


@pytest.mark.parametrize(("recipe", "gpus"), [("voxceleb2_pretrain", [1, 4, 64]), ("dfew", [1, 4, 48]), ("mafw", [32])])
@pytest.mark.parametrize("memory", [80.0, 5.0])
def test_the_settings_of_a_plan_keep_the_schedule(recipe: str, gpus: list[int], memory: float) -> None:
    machine = Machine.of_gpu("h100", {"memory": memory})
    asked = job(recipe)
    for count in gpus:
        plan = plan_run(asked, machine, count)
        overrides = [f"train.batch_size={plan.batch_size}", f"train.accumulate={plan.accumulate}"]
        cfg = load_config(asked.task, recipe, overrides, check=False)
        schedule = run_schedule(cfg, asked.clips, asked.clips // (plan.batch_size * count), count)
        assert (schedule.total, schedule.peak, schedule.warmup) == (
            plan.steps,
            plan.learning_rate,
            asked.schedule.warmup,
        )
        assert plan.memory_gb <= 0.9 * memory
        assert plan.accumulate == 1 or memory == 5.0
    # One GPU of so little memory cannot take the batch at once.
    assert memory == 80.0 or plan_run(asked, machine, 1).accumulate > 1


def test_bytes_of_a_ring() -> None:
    """All-reduce by hand: chunks go round until every process has every sum."""
    for gpus in (2, 3, 8):
        values = [[float(10 * rank + chunk) for chunk in range(gpus)] for rank in range(gpus)]
        want = [sum(row[chunk] for row in values) for chunk in range(gpus)]
        sent = [0] * gpus
        for step in range(2 * (gpus - 1)):
            moves = [(rank, (rank - step) % gpus, values[rank][(rank - step) % gpus]) for rank in range(gpus)]
            for rank, chunk, value in moves:
                sent[rank] += 1
                other = (rank + 1) % gpus
                values[other][chunk] = value + (values[other][chunk] if step < gpus - 1 else 0)
        assert all(row == want for row in values)
        plan = plan_run(job("dfew"), H100, gpus)
        assert plan.sent_mb == pytest.approx(sent[0] / gpus * 4 * 84_878_343 / 1e6)
        # Two gathers in half of the bytes, and a scatter, which is half of an all-reduce.
        assert plan.sharded_mb == pytest.approx(plan.sent_mb)


def test_links() -> None:
    inside, across = plan_run(job(), FREE, 8), plan_run(job(), FREE, 16)
    assert (inside.nodes, inside.link_gb_s, across.nodes, across.link_gb_s) == (1, 450, 2, 400)
    buckets = math.ceil(4 * 92_760_192 / (25 * 2**20))
    assert inside.gradients_ms == pytest.approx(inside.sent_mb / (450 * 0.8) + buckets * 2 * 3 * 0.010)
    slow = dataclasses.replace(FREE, network=dataclasses.replace(FREE.network, value=12.5))
    assert plan_run(job(), slow, 8) == inside
    assert plan_run(job(), slow, 16).gradients_ms > 20 * across.gradients_ms
    assert plan_run(job(), slow, 16).bottleneck == "gradients"
    # What the backward pass hides is not waited for, but for the last bucket.
    hidden = Machine.of_gpu("h100", {"overlap": 1, "disk": 1e9, "cores": 1e9})
    large = job("voxceleb2_pretrain", "train.batch_size=1024")
    assert plan_run(large, hidden, 8).gradients_ms == pytest.approx(plan_run(large, FREE, 8).gradients_ms / buckets)


def test_loading() -> None:
    """The slowest of GPUs, cores and disk is what a step takes."""
    wanted = plan_run(job(), FREE, 8).clips_per_s
    for given, bottleneck, rate in (
        ({"cores": 8}, "cores", 8 / 2.6228e-3),
        ({"disk": 200}, "disk", 200e6 / 114_701),
        ({"store": 150}, "store", 150e6 / 114_701),
    ):
        plan = plan_run(job(), Machine.of_gpu("h100", given), 8)
        assert plan.bottleneck == bottleneck and plan.clips_per_s == pytest.approx(rate, rel=1e-3)
        assert plan.loading_ms == pytest.approx(128 * (1 / rate - 1 / wanted) * 1000, rel=1e-3)
    plan = plan_run(job(), Machine.of_gpu("h100", {"cores": 8}), 8, "videos")
    assert plan.clips_per_s == pytest.approx(8 / 17.463e-3, rel=1e-3)
    plan = plan_run(with_core_rate(job(), "shards", 100), Machine.of_gpu("h100", {"cores": 8}), 8)
    assert plan.clips_per_s == pytest.approx(800)
    # On the CPU augmentation takes its time, and a raw clip is all of its pixels.
    by_loader = job("voxceleb2_pretrain", "augment.device=cpu")
    assert by_loader.loading["shards"].core_ms == 3.8965
    assert by_loader.loading["raw"].read_bytes == 16 * 160 * 160 * 3
    # Two machines have two disks.
    one, two = (plan_run(job(), Machine.of_gpu("h100", {"disk": 200}), gpus) for gpus in (8, 16))
    assert two.clips_per_s == pytest.approx(2 * one.clips_per_s) and two.node_mb_s == pytest.approx(one.node_mb_s)


def test_hours_with_failures_are_those_of_a_simulation() -> None:
    machine = Machine.of_gpu("h100", {"mtbf": 60, "restart": 6, "save_every": 4, "write": 100})
    plan = plan_run(job(), machine, 64)
    clean = plan_run(job(), Machine.of_gpu("h100", {"mtbf": 1e12, "save_every": 4, "write": 100}), 64)
    assert plan.checkpoints == clean.checkpoints and plan.hours > 1.1 * clean.hours
    draw = np.random.default_rng(0)
    piece, mean = clean.hours * 3600 / clean.checkpoints, 60 * 3600 / 64
    hours, failures = [], []
    for _ in range(400):
        clock, done, broken, ahead = 0.0, 0, 0, 0.0
        failure = draw.exponential(mean)
        while done < clean.checkpoints:
            if clock + ahead + piece <= failure:
                clock, done, ahead = clock + ahead + piece, done + 1, 0.0
            else:
                # A failure may well come before the restart from the last one is over.
                clock, broken, ahead = failure, broken + 1, 360.0
                failure = clock + draw.exponential(mean)
        hours.append(clock / 3600)
        failures.append(broken)
    assert np.mean(hours) == pytest.approx(plan.hours, rel=0.03)
    assert np.mean(failures) == pytest.approx(plan.failures, rel=0.15)


def test_youngs_interval_loses_least() -> None:
    long = job(clips=10 * CLIPS)
    given = {"mtbf": 80.0, "write": 100.0}
    best = plan_run(long, Machine.of_gpu("h100", given), 64).best_interval_min
    hours = {
        minutes: plan_run(long, Machine.of_gpu("h100", {**given, "save_every": minutes}), 64).hours
        for minutes in (best / 4, best / 2, best, 2 * best)
    }
    assert min(hours, key=lambda minutes: hours[minutes]) == best
    often = plan_run(long, Machine.of_gpu("h100", {**given, "save_every": 0}), 64)
    assert often.interval_min > 2 * best
    (advice,) = (
        said for said in sentences(long, Machine.of_gpu("h100", given), [often], "shards") if "save_steps" in said
    )
    assert f"train.save_steps={round(best * 60_000 / often.step_ms)}" in advice
    with pytest.raises(InputError, match="fail every .* minutes and lose .* the run would not end"):
        plan_run(long, Machine.of_gpu("h100", {"mtbf": 1}), 64)


def test_shares_add_up() -> None:
    for gpus in sharing(job("dfew")):
        parts = plan_run(job("dfew"), H100, gpus).parts
        assert sum(parts.values()) == pytest.approx(1)
    assert sharing(job("dfew")) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]


def test_numbers_that_cannot_share_a_batch() -> None:
    with pytest.raises(
        InputError, match="512 GPUs cannot share a step of 128 clips evenly: give 128 GPUs, or a step of 512"
    ):
        plan_run(job(), H100, 512)
    with pytest.raises(InputError, match="give 48 or 96 GPUs, or a step of 128 clips"):
        plan_run(job("dfew"), H100, 64)
    with pytest.raises(InputError, match=r"a clip takes 1\.7 GB in training"):
        plan_run(job(), Machine.of_gpu("h100", {"memory": 1}), 1)
    recomputed = job("voxceleb2_pretrain", "train.recompute=true")
    assert plan_run(recomputed, H100, 1).memory_gb < 0.6 * plan_run(job(), H100, 1).memory_gb
    assert recomputed.clip_seconds == pytest.approx(4 / 3 * job().clip_seconds)
    # Weights, gradients and averages in four parts: what is left in whole are bfloat16 weights and activations.
    whole, sharded = (plan_run(job("dfew", *more), H100, 4) for more in ((), ("train.sharding=full",)))
    assert whole.memory_gb - sharded.memory_gb == pytest.approx(3 / 4 * 16 * 84_878_343 / 1e9)
    assert sharded.sent_mb == whole.sharded_mb and sharded.step_ms > 6 * whole.step_ms
    alone = plan_run(job("dfew", "train.sharding=full"), H100, 1)
    assert (alone.memory_gb, alone.step_ms) == (
        plan_run(job("dfew"), H100, 1).memory_gb,
        plan_run(job("dfew"), H100, 1).step_ms,
    )


def test_checkpoints_are_those_that_training_writes() -> None:
    """One after each epoch; one more before an epoch is scored or kept, and one that is kept."""
    assert plan_run(job("dfew"), H100, 1).checkpoints == 100 + 100
    assert plan_run(job(), H100, 1).checkpoints == 50 + 5 + 5
    both = job("dfew", "eval.every=4", "train.save_every=6")
    before = {epoch for epoch in range(1, 101) if epoch % 4 == 0 or epoch % 6 == 0}
    assert plan_run(both, H100, 1).checkpoints == 100 + len(before) + 100 // 6
    # In parts every machine writes one, and aside only those that are not done when the next one comes are waited for.
    asked = ("train.batch_size=4096", "train.checkpoint=sharded")
    whole, parts = (plan_run(job("voxceleb2_pretrain", *asked[:more]), H100, 64) for more in (1, 2))
    assert parts.checkpoint_s == pytest.approx(whole.checkpoint_s / 8)
    aside = plan_run(job("voxceleb2_pretrain", *asked, "train.save_async=true"), H100, 64)
    assert aside.parts["saving"] == 0 < parts.parts["saving"]
    assert aside.lost_h / aside.failures > parts.lost_h / parts.failures
    slow = Machine.of_gpu("h100", {"write": 1})
    late = plan_run(job("voxceleb2_pretrain", *asked, "train.save_async=true"), slow, 64)
    assert late.parts["saving"] * late.hours * 3600 == pytest.approx(
        late.checkpoints * (late.checkpoint_s - 60 * late.interval_min)
    )
    often = job("dfew", "eval.every=0", "train.save_steps=10")
    assert plan_run(often, H100, 1).checkpoints == 100 + 970


def test_more_clips_and_larger_batches() -> None:
    ten = plan_run(job(clips=10 * CLIPS), FREE, 8)
    assert ten.hours == pytest.approx(10 * plan_run(job(), FREE, 8).hours, rel=1e-3)
    large = job("voxceleb2_pretrain", "train.batch_size=4096")
    assert plan_run(large, FREE, 512).learning_rate == pytest.approx(32 * 1.5e-4)
    said_so = job("voxceleb2_pretrain", "train.global_batch=4096")
    assert plan_run(said_so, FREE, 512) == plan_run(large, FREE, 512) and said_so.recipe_batch == 128
    said = " ".join(sentences(large, H100, [plan_run(large, H100, 512)], "shards"))
    assert "4,096 clips a step are 32.0 times the recipe's 128" in said and "was not tried" in said
    assert "was not tried" not in " ".join(sentences(job(), H100, [plan_run(job(), H100, 1)], "shards"))
    odd = sentences(job("dfew"), H100, [plan_run(job("dfew"), H100, 32)], "shards")
    assert any("mixed with each other" in sentence for sentence in odd)


def test_other_gpus_and_models() -> None:
    slow = Machine.of_gpu("A100", {"disk": 1e9, "cores": 1e9})
    assert slow.speed.value == pytest.approx(312 / 989, rel=1e-2)
    assert plan_run(job(), slow, 1).compute_ms == pytest.approx(
        plan_run(job(), FREE, 1).compute_ms * 989 / 312, rel=1e-2
    )
    tiny = job("dfew", "model.name=lgi_former_tiny")
    base = job("dfew")
    assert tiny.clip_seconds / base.clip_seconds == pytest.approx(10.85 / 41.50, rel=1e-2)
    assert tiny.activation_bytes == pytest.approx(base.activation_bytes / 2)
    assert any("Another model" in note for note in tiny.notes)
    # A half of the blocks, and half the operations but for the embedding.
    assert job("dfew", "model.depth=8").pass_seconds == pytest.approx(base.pass_seconds / 2)
    head = job("dfew", "train.tune=head")
    assert head.trained == 512 * 7 + 7 and head.gradient_bytes == 4 * head.trained
    assert head.clip_seconds == pytest.approx(base.clip_seconds / 3, rel=1e-2)
    # The memory of a ViT is its own measurement.
    vit = plan_run(job("dfew", "model.name=vit_base", "train.batch_size=64"), H100, 1)
    assert vit.memory_gb == pytest.approx((17_925_137_920 + 14 * 86_232_583) / 1e9, rel=1e-3)


def test_a_rate_that_was_measured_elsewhere() -> None:
    given = training_job("voxceleb2_pretrain", [], None, None, 1000.0)
    plan = plan_run(given, FREE, 1)
    assert plan.clips_per_s == pytest.approx(1000) and plan.eager_hours == plan.hours
    # It is the rate of whatever GPU it was measured on.
    assert plan_run(given, Machine.of_gpu("l40s", {"disk": 1e9, "cores": 1e9}), 1).step_ms == plan.step_ms
    eight = plan_run(given, FREE, 8)
    assert eight.compute_ms + eight.small_ms == pytest.approx(16 / 1000 * 1000 + 7 / 8 * eight.small_ms, rel=1e-3)
    for override, key in (("train.precision=fp32", "train.precision"), ("model.impl=torch", "model.impl")):
        with pytest.raises(InputError, match=f"{key} is .* nothing was measured of that: .* --clips-per-s"):
            training_job("dfew", [override])
        assert training_job("dfew", [override], clips_per_s=100).clip_seconds < 0.01


def test_clips_of_a_list_and_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("".join(f"{index}.mp4 {index % 2}\n" for index in range(64)))
    (tmp_path / "mine.yaml").write_text(
        "task: finetune\nmodel: {name: lgi_former_tiny}\ndata: {classes: [a, b]}\n"
        "train: {batch_size: 8, accumulate: 2}\noptim: {epochs: 10}\n"
    )
    mine = tmp_path / "mine.yaml"
    lists = [f"data.train={tmp_path}/train.csv", f"data.test={tmp_path}/train.csv"]
    asked = training_job(mine, lists)
    assert (asked.clips, asked.scored, asked.scorings, asked.schedule.total) == (64, 128, 10, 40)
    assert training_job(mine, [*lists, "data.labels=16"]).schedule.total == 20
    assert training_job(mine, [*lists, "eval.every=5"]).scorings == 2
    assert training_job(mine, [], 100, 0).scorings == 0
    with pytest.raises(InputError, match=r"does not say how many clips there are: give --clips N"):
        training_job(mine)
    with pytest.raises(InputError, match=r"data.labels is '5%': give data.train, or the number of clips"):
        training_job("dfew", ["data.labels=5%"])
    with pytest.raises(InputError, match="15 training clips do not fill one step of 16"):
        training_job(mine, [], 15)
    with pytest.raises(InputError, match="pre-training scores none"):
        training_job("voxceleb2_pretrain", [], None, 5)
    (tmp_path / "none.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="does not say what is run"):
        training_job(tmp_path / "none.yaml")
    assert (job("dfew").clips, job("dfew").scored) == (11_697 - 2_341, 2 * 2_341)
    assert job().clips == CLIPS


@pytest.mark.parametrize(
    ("gpu", "given", "message"),
    [
        ("h1000", {}, "unknown GPU 'h1000': did you mean 'h100'"),
        ("h100", {"link": 0.0}, "--link must be at least 1e-09"),
        ("h100", {"reached": 1.5}, "--reached must be at least 1e-09 and at most 1"),
        ("h100", {"gpus_per_node": 2.5}, "--gpus-per-node must be a whole number, got 2.5"),
        ("h100", {"price": -1.0}, "--price must be at least 0 .USD., got -1"),
    ],
)
def test_machines_that_are_none(gpu: str, given: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Machine.of_gpu(gpu, given)
