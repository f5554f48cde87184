"""A dry run: everything about a run that can be checked without training, and without writing anything."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maedfer._progress import counted
from maedfer.data.annotations import Clip
from maedfer.data.few_labels import SomeClips
from maedfer.data.sampler import SampleKey
from maedfer.data.shards.clips import ShardClips
from maedfer.data.source import ClipSource, as_source
from maedfer.errors import InputError
from maedfer.evaluation.score import score_views
from maedfer.train.augmenting import settled
from maedfer.train.checkpoint import load_resumable
from maedfer.train.checkpoints import LatestCheckpoint
from maedfer.train.config import RunConfig, for_processes
from maedfer.train.environment import memory_mb
from maedfer.train.evaluate import model_to_score, other_clip_settings, read_class_map, read_runs
from maedfer.train.every_clip import Look, read_every_clip
from maedfer.train.list_notes import list_notes
from maedfer.train.loader import TrainBatches, ViewBatches
from maedfer.train.lock import check_free
from maedfer.train.optim import run_schedule
from maedfer.train.processes import Runtime, start
from maedfer.train.run_folder import check_evaluation, check_run, hooks_of_run
from maedfer.train.same_clips import changed_lists, check_same_clips, identity, spread
from maedfer.train.sources import learned_clips, read_clips
from maedfer.train.tasks import FinetuneTask, ForwardPass, PretrainTask, finetune_notes
from maedfer.train.tune import Trained, Tune

# Clips of each list that are opened, evenly spread.
_SAMPLE = 16
# Above this number of clips, the files of the sample alone are looked for.
_LOOK_FOR_ALL = 100_000
# Clips in the batch on a CPU, where a whole batch of the base model takes minutes.
_CPU_BATCH = 2

Say = Callable[[str], None]


def dry_run(cfg: RunConfig, say: Say, every_clip: bool = False) -> None:
    """Check a run and tell what it would do.

    Args:
        cfg: the run.
        say: takes a line for people; called in the main process only.
        every_clip: read every clip of every list, by `data.workers` processes, in place of a sample.

    Raises:
        InputError: naming the first thing that would stop the run; with `every_clip`, how many clips of which lists.
    """
    workers = cfg.data.workers
    with start(cfg) as runtime:
        cfg = settled(cfg, runtime.device)
        # Loader processes cost more to start than they save for one batch.
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, workers=0))
        tell = say if runtime.main else _say_nothing
        checkpoint = runtime.on_main(lambda: _check_output(cfg, tell))
        cfg = for_processes(cfg, runtime.world)
        if cfg.task == "evaluate" and cfg.eval.runs:
            for folder, part in zip(cfg.eval.runs, read_runs(cfg.eval.runs), strict=True):
                tell(f"eval.runs    {folder}: {counted(len(part.names), 'clip')}")
        else:
            splits = {"pretrain": ["train"], "finetune": ["train", "val", "test"], "evaluate": ["test"]}[cfg.task]
            lists = {
                split: learned_clips(cfg) if split == "train" else read_clips(cfg, getattr(cfg.data, split))
                for split in splits
                if getattr(cfg.data, split)
            }
            if every_clip:
                runtime.on_main(lambda: _check_every_clip(cfg, lists, workers, tell), "reads every clip", long=True)
            else:
                for split, clips in lists.items():
                    _check_list(cfg, split, clips, tell)
            precision = [runtime.precision_why] if runtime.precision_why else []
            lists_say = runtime.on_main(lambda: list_notes(cfg, lists), "compares the lists", long=True)
            for note in [*precision, *lists_say, *(finetune_notes(cfg) if cfg.task == "finetune" else [])]:
                tell(f"note         {note}")
            if cfg.task == "evaluate":
                _check_evaluation(cfg, runtime, tell)
            else:
                _check_training(cfg, runtime, tell, checkpoint)
        tell("dry run complete: nothing was written")


def _say_nothing(line: str) -> None:
    pass


def _check_output(cfg: RunConfig, say: Say) -> LatestCheckpoint | None:
    # The checkpoint that the run would go on from.
    output = Path(cfg.output)
    check_free(output)
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"output {cfg.output!r} cannot be made: {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK):
        raise InputError(f"output {cfg.output!r} cannot be written: no permission for {str(existing)!r}")
    checkpoint = None
    if cfg.task == "evaluate":
        check_evaluation(cfg)
    else:
        checkpoint = check_run(cfg)
    say(f"output       {output} ({f'the run would go on from {checkpoint.path}' if checkpoint else 'new'})")
    for note in checkpoint.said if checkpoint else ():
        say(f"             {note}")
    return checkpoint


def _skips(cfg: RunConfig, split: str) -> bool:
    # Whether a clip of the list that cannot be read is passed over.
    return (cfg.data.on_error if split == "train" else cfg.eval.on_error) == "skip"


def _check_every_clip(cfg: RunConfig, lists: Mapping[str, Sequence[Clip]], workers: int, say: Say) -> None:
    stops = []
    known: dict[Path, Look] = {}
    for split, clips in lists.items():
        skips = _skips(cfg, split)
        looks = read_every_clip(clips, cfg.data.backend, workers, f"data.{split}", known)
        broken = [(clip, look) for clip, look in zip(clips, looks, strict=True) if look.problem]
        lengths = [look.frames for look in looks if not look.problem]
        _say_clips(cfg, split, clips, say)
        span = f", {min(lengths)} to {max(lengths)} frames" if lengths else ""
        say(f"             {len(lengths)} of {len(clips)} clips read from the first frame to the last{span}")
        for clip, look in broken:
            passed = skips and not look.kills
            say(f"             {'would be skipped' if passed else 'broken'}: {clip.where}: {look.problem}")
        kills = any(look.kills for _, look in broken)
        if broken and not (skips and lengths and not kills):
            setting = "data.on_error" if split == "train" else "eval.on_error"
            remedy = "" if skips or kills else f", or set {setting}=skip"
            stops.append(f"{len(broken)} of {len(clips)} clips of data.{split} (mend or remove them{remedy})")
    if stops:
        raise InputError(
            f"the run would stop at clips that cannot be read, all of them are listed above: {'; '.join(stops)}"
        )


def _check_list(cfg: RunConfig, split: str, clips: Sequence[Clip], say: Say) -> None:
    tolerant = _skips(cfg, split)
    source, sample = as_source(clips), spread(len(clips), _SAMPLE)
    if not tolerant:
        source.check(None if len(clips) <= _LOOK_FOR_ALL else sample)
    problems, lengths = [], []
    for index in sample:
        try:
            lengths.append(_frames(cfg, source, index))
        except InputError as error:
            problems.append(f"{clips[index].where}: {error}")
    if problems and (not tolerant or not lengths):
        raise InputError(f"{len(problems)} of {len(sample)} sampled clips cannot be read: {problems[0]}")
    _say_clips(cfg, split, clips, say)
    say(f"             {len(lengths)} of {len(sample)} sampled clips read, {min(lengths)} to {max(lengths)} frames")
    for problem in problems:
        say(f"             would be skipped: {problem}")


def _say_clips(cfg: RunConfig, split: str, clips: Sequence[Clip], say: Say) -> None:
    say(f"data.{split:<8}{getattr(cfg.data, split)}: {counted(len(clips), 'clip')}{_class_counts(cfg, clips)}")
    source = clips.source if isinstance(clips, SomeClips) else clips
    if isinstance(source, ShardClips):
        say(f"             {source.describe()}")


def _frames(cfg: RunConfig, source: ClipSource, index: int) -> int:
    with source.open(index, cfg.data.backend) as reader:
        reader.read([0, len(reader) - 1])
        return len(reader)


def _class_counts(cfg: RunConfig, clips: Sequence[Clip]) -> str:
    if cfg.task == "pretrain":
        return ""
    counts = Counter(as_source(clips).labels.tolist())
    return " (" + ", ".join(f"{name} {counts[label]}" for label, name in enumerate(cfg.classes)) + ")"


def _check_training(cfg: RunConfig, runtime: Runtime, say: Say, checkpoint: LatestCheckpoint | None) -> None:
    if cfg.train.log_to:
        hooks_of_run(cfg, runtime)
        say(f"train.log_to {', '.join(cfg.train.log_to)}: found, not told of a dry run")
    task = (PretrainTask if cfg.task == "pretrain" else FinetuneTask)(cfg, runtime)
    model, loaded = task.build(initial=checkpoint is None)
    if loaded is not None:
        say(f"train.init   {cfg.train.init}: {len(loaded.used)} keys used, {len(loaded.fresh)} left as initialised")
    trained = Trained.of(model, Tune.of_run(cfg))
    say(f"model        {cfg.model_name}, {trained}, on {runtime.device} in {runtime.precision}")
    batches = TrainBatches(cfg, runtime)
    schedule = run_schedule(cfg, batches.clips, len(batches), runtime.world)
    if checkpoint is not None:
        state = load_resumable(checkpoint.path, cfg, schedule.global_batch)
        lists = {"train": batches.identity, **{name: identity(clips) for name, clips in task.lists().items()}}
        check_same_clips(checkpoint.path, state["lists"], lists)
        for note in changed_lists(state["lists"], lists, state["position"]["epoch"], ("", 0)):
            say(f"             {note}")
    factors = f"batch {cfg.train.batch_size} x processes {runtime.world} x passes {cfg.train.accumulate}"
    say(
        f"schedule     {counted(schedule.total, 'step')} of {counted(schedule.global_batch, 'clip')} ({factors}), "
        f"{schedule.steps_per_epoch} an epoch"
    )
    rise = f"learning rate to {schedule.peak:.4g} in {schedule.warmup} steps"
    say(f"             {rise}, then down to {schedule.floor:.4g}")
    chosen = spread(batches.clips, _batch_size(cfg, runtime))
    batch = batches.dataset.collate([batches.dataset[SampleKey(index, cfg.seed)] for index in chosen])
    del batch["skipped"]
    where = "on the device, in batches" if cfg.augment.device == "cuda" else "by the loader, on the CPU"
    say(f"augment      clips are {'decoded and ' if cfg.data.decode == 'cuda' else ''}changed {where}")
    forward_pass = ForwardPass(task, model)
    prepared = task.send(batch)
    _forward(prepared["frames"], runtime, lambda: float(forward_pass(prepared)["loss"]), say)


def _check_evaluation(cfg: RunConfig, runtime: Runtime, say: Say) -> None:
    model, cfg = model_to_score(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    size = f"{count / 1e6:.2f} M parameters, {model.config.num_classes} classes"
    say(f"model        {cfg.eval.checkpoint}, {size}, on {runtime.device} in {runtime.precision}")
    for note in other_clip_settings(cfg, model):
        say(f"             {note}")
    mapping = read_class_map(cfg, model)
    if mapping is not None:
        say(f"class_map    {cfg.data.class_map}: scored in {', '.join(mapping.reached)}")
    small = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=_batch_size(cfg, runtime)))
    views = ViewBatches(small, runtime, cfg.data.test)
    if mapping is not None:
        mapping.kept(views.labels)
    # Where clips that cannot be read are skipped, a batch of them holds no frames.
    batch = next((batch for batch in views if "frames" in batch), None)
    if batch is None:
        raise InputError(f"none of the clips of {cfg.data.test} can be read")
    labels = batch["label"][:: views.views, None]
    model.to(runtime.device)

    def loss() -> float:
        probabilities, _ = score_views(model, batch["frames"].to(runtime.device), views=views.views)
        if mapping is not None:
            # Labels are of other classes: how sure the model is stands for how right.
            return -float(probabilities.cpu().amax(1).log().mean())
        return -float(probabilities.cpu().gather(1, labels).log().mean())

    _forward(batch["frames"], runtime, loss, say)


@torch.inference_mode()
def _forward(frames: Tensor, runtime: Runtime, loss: Callable[[], float], say: Say) -> None:
    began = time.perf_counter()
    with runtime.autocast():
        value = loss()
    seconds = time.perf_counter() - began
    shape = " x ".join(map(str, frames.shape))
    say(f"forward      batch {shape}: loss {value:.4f} in {seconds:.2f} s, {memory_mb(runtime.device):.0f} MB")


def _batch_size(cfg: RunConfig, runtime: Runtime) -> int:
    size = (cfg.eval.batch_size if cfg.task == "evaluate" else 0) or cfg.train.batch_size
    return min(size, _CPU_BATCH) if runtime.device.type == "cpu" else size
