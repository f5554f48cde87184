"""A plan for people: a table with a column for each number of GPUs, what is assumed, and what the time goes into."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maedfer._progress import counted
from maedfer.planning.job import TrainingJob
from maedfer.planning.machine import Machine
from maedfer.planning.measured import Source
from maedfer.planning.plan import RunPlan, memory_bytes, plan_run, sharing

# What the parts of a plan's time are called in the table.
_PARTS = {
    "compute": "computing",
    "small": "small passes",
    "gradients": "gradients",
    "cores": "the loader",
    "disk": "disks",
    "store": "the store",
    "scoring": "scoring",
    "saving": "checkpoints",
    "failures": "failures",
}


def amount(value: float) -> str:
    """A number with three digits or so, as people write it."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def head(job: TrainingJob, machine: Machine) -> str:
    """What is planned, in two lines or three."""
    schedule = job.schedule
    room = job.clips * machine.frames.value * job.picture_bytes / 1e9
    return "\n".join(
        [
            f"{job.recipe}: {job.model}, {job.parameters / 1e6:.2f} M parameters"
            + (f", {job.trained / 1e6:.3g} M of them trained" if job.trained != job.parameters else ""),
            f"{job.clips:,} clips ({job.clips_source}), {amount(room)} GB in shards; "
            f"{amount(schedule.total / schedule.steps_per_epoch).removesuffix('.0')} epochs of "
            f"{schedule.steps_per_epoch:,} steps",
            f"on {machine.gpu.upper()}",
        ]
    )


def table(job: TrainingJob, machine: Machine, plans: Sequence[RunPlan], source: Source) -> str:
    """The numbers, a row each and a column for each plan."""
    rows: list[tuple[str, Callable[[RunPlan], str]]] = [
        ("GPUs", lambda plan: str(plan.gpus)),
        ("machines", lambda plan: str(plan.nodes)),
        ("train.batch_size x train.accumulate", lambda plan: f"{plan.batch_size} x {plan.accumulate}"),
        ("clips of a step", lambda plan: f"{plan.global_batch:,}"),
        ("peak learning rate", lambda plan: f"{plan.learning_rate:.3g}"),
        ("steps", lambda plan: f"{plan.steps:,}"),
        ("a step, ms", lambda plan: amount(plan.step_ms)),
        ("  computing", lambda plan: amount(plan.compute_ms)),
        ("  what a pass takes however small", lambda plan: amount(plan.small_ms)),
        ("  waiting for gradients", lambda plan: amount(plan.gradients_ms)),
        ("  waiting for clips", lambda plan: amount(plan.loading_ms)),
        ("clips/s", lambda plan: amount(plan.clips_per_s)),
        ("frames/s", lambda plan: amount(plan.frames_per_s)),
        ("loader's cores, of those there are", lambda plan: f"{amount(plan.cores_wanted)} of {plan.cores:g}"),
        (f"read from {source}, MB/s", lambda plan: amount(plan.read_mb_s)),
        ("  by each machine", lambda plan: amount(plan.node_mb_s)),
        ("  from videos instead", lambda plan: amount(plan.read_videos_mb_s)),
        ("  from raw shards instead", lambda plan: amount(plan.read_raw_mb_s)),
        ("sent by a GPU a step, MB", lambda plan: amount(plan.sent_mb)),
        ("  with train.sharding=full (FSDP2)", lambda plan: amount(plan.sharded_mb)),
        ("  over a link of GB/s", lambda plan: amount(plan.link_gb_s) if plan.link_gb_s else "-"),
        ("memory of a GPU, GB", lambda plan: f"{amount(plan.memory_gb)} of {machine.memory.value:g}"),
        ("a checkpoint, GB", lambda plan: amount(plan.checkpoint_gb)),
        ("  seconds to write", lambda plan: amount(plan.checkpoint_s)),
        ("  minutes between two", lambda plan: amount(plan.interval_min)),
        ("  best minutes between two (Young)", lambda plan: amount(plan.best_interval_min)),
        ("failures expected", lambda plan: amount(plan.failures)),
        ("  hours lost by them", lambda plan: amount(plan.lost_h)),
        ("hours", lambda plan: amount(plan.hours)),
        ("  if every pass is run eagerly", lambda plan: amount(plan.eager_hours)),
        ("GPU hours", lambda plan: amount(plan.gpu_hours)),
        ("price", lambda plan: amount(plan.price)),
        ("efficiency: share spent computing", lambda plan: f"{plan.efficiency:.0%}"),
        ("held up by", lambda plan: _PARTS[plan.bottleneck]),
    ]
    cells = [[name, *(value(plan) for plan in plans)] for name, value in rows]
    first = max(len(row[0]) for row in cells)
    width = max(len(cell) for row in cells for cell in row[1:]) + 2
    return "\n".join(row[0].ljust(first) + "".join(cell.rjust(width) for cell in row[1:]) for row in cells)


def assumptions(job: TrainingJob, machine: Machine, source: Source) -> str:
    """What the numbers rest on, each with where it is from and the option that changes it."""
    lines = ["Assumed, with the option for each:"]
    for option, known in machine.assumptions():
        value = f"{known.value:g} {known.unit}".strip()
        lines.append(f"  {option:<16} {value:<18} {known.meaning} [{known.source}]")
    cost = job.loading[source]
    read = f"{cost.core_ms:.2f} ms"
    lines.append(
        f"  {'--source':<16} {source:<18} {read} of a core and {amount(cost.read_bytes / 1e3)} kB a clip [{cost.how}]"
    )
    return "\n".join(lines)


def sentences(job: TrainingJob, machine: Machine, plans: Sequence[RunPlan], source: Source) -> list[str]:
    """What the numbers say: where the time goes, how far more GPUs help, what is not as the recipe has it."""
    said = [f"{counted(plan.gpus, 'GPU')}: {_bottleneck(job, plan, source)}." for plan in plans]
    batch, schedule = job.schedule.global_batch, job.schedule
    for plan in plans:
        if plan.best_interval_min < plan.interval_min / 2:
            steps = max(1, round(plan.best_interval_min * 60_000 / plan.step_ms))
            said.append(
                f"{counted(plan.gpus, 'GPU')}: checkpoints are {amount(plan.interval_min)} minutes apart, where "
                f"{amount(plan.best_interval_min)} would lose least: train.save_steps={steps}."
            )
    halves = [gpus for gpus in sharing(job) if _efficiency(job, machine, gpus, source) >= 0.5]
    if halves and halves[-1] < sharing(job)[-1]:
        said.append(
            f"Beyond {counted(halves[-1], 'GPU')} less than half of the time is spent computing ({batch:,} clips a "
            "step, numbers that share them evenly): the run ends sooner, if at all, and costs more."
        )
    if batch != job.recipe_batch:
        times = batch / job.recipe_batch
        said.append(
            f"{batch:,} clips a step are {amount(times)} times the recipe's {job.recipe_batch}: the rule makes the "
            f"learning rate {schedule.peak:.3g}, and there are {schedule.total:,} steps. Whether it learns as well so "
            "was not tried: optim.lr, optim.lr_batch and optim.warmup_epochs may need other values."
        )
    if job.mixes and any(plan.batch_size * job.repeats % 2 for plan in plans):
        said.append(
            "Clips of a pass are mixed with each other (mixup, CutMix): where it has an odd number, one stays as it "
            "is. The schedule is the same, the augmentation is weaker."
        )
    if job.sharded and plans[-1].gpus > 1:
        said.append(
            "Passes with sharded weights are not replayed as CUDA graphs: train.sharding=none has them replayed."
        )
    if job.replayed and any(plan.accumulate > 1 for plan in plans):
        said.append("Where train.accumulate is above 1, passes are not replayed as CUDA graphs.")
    state = memory_bytes(job, 0) / 1e9
    if state <= 0.5 * machine.memory.value and not job.sharded:
        said.append(
            f"Weights, gradients and optimiser take {amount(state)} of {machine.memory.value:g} GB: there is no need "
            "to shard them."
        )
    return said


def _efficiency(job: TrainingJob, machine: Machine, gpus: int, source: Source) -> float:
    return plan_run(job, machine, gpus, source).efficiency


def _bottleneck(job: TrainingJob, plan: RunPlan, source: Source) -> str:
    share = f"{plan.parts[plan.bottleneck]:.0%} of the time"
    wanted = plan.global_batch / (plan.step_ms - plan.loading_ms) * 1000
    clips = f"{amount(wanted)} clips/s ({amount(wanted * job.clip_frames)} frames/s)"
    cost = job.loading[source]
    passes = f"a pass of {counted(plan.batch_size * job.repeats, 'clip')}"
    if plan.bottleneck == "compute":
        return f"computing takes {plan.parts['compute']:.0%} of the time"
    if plan.bottleneck == "small":
        if job.replayed and plan.accumulate == 1 and not (job.sharded and plan.gpus > 1):
            return f"{passes} is small: the {amount(plan.small_ms)} ms that it takes however few they are go to {share}"
        return f"waiting for the processor that launches kernels takes {share}, as passes are not replayed"
    if plan.bottleneck == "gradients":
        return (
            f"waiting for gradients takes {share}: {amount(plan.sent_mb)} MB from each GPU in a step, over "
            f"{plan.link_gb_s:g} GB/s, and {passes} computes for {amount(plan.compute_ms / plan.accumulate)} ms only"
        )
    if plan.bottleneck == "cores":
        return (
            f"waiting for the loader takes {share}: they want {clips}, the work of "
            f"{amount(wanted * cost.core_ms / 1000)} cores from {source}, and there are {plan.cores:g}"
        )
    if plan.bottleneck in ("disk", "store"):
        whose = "of a machine" if plan.bottleneck == "disk" else "of the store"
        machines = plan.nodes if plan.bottleneck == "disk" else 1
        return (
            f"waiting for the disk {whose} takes {share}: they want {clips}, "
            f"{amount(wanted * cost.read_bytes / 1e6 / machines)} MB/s from {source}, and it gives "
            f"{amount(plan.read_mb_s / machines)}"
        )
    if plan.bottleneck == "scoring":
        return f"scoring takes {share}: eval.every has epochs between two evaluations"
    if plan.bottleneck == "saving":
        return (
            f"writing checkpoints takes {share}: {plan.checkpoints} of {amount(plan.checkpoint_s)} s, "
            f"{amount(plan.interval_min)} minutes apart"
            + ("" if job.saved_aside else " (train.save_async goes on meanwhile)")
        )
    return f"failures take {share}: save more often (--save-every), restart faster (--restart)"
