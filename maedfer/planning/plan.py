"""A run on a number of GPUs: where its time goes, what it needs, and what it costs.

A step is its passes, then what of the all-reduce no backward pass hides; the loader works beside it, and the slower of
the two counts. Gradients go round a ring: each GPU sends 2 (N - 1) / N of their bytes, over the links of a machine or,
with several machines, over their network where that is slower, in buckets of 25 MiB (DistributedDataParallel's) that
each cross 2 log2 N messages. Sharded weights (FSDP2) are gathered twice, in bfloat16, and gradients scattered once, in
float32: (N - 1) / N of the bytes each time, as many in all; their passes are not replayed.
Failures come at a constant rate; one loses half of the time between two checkpoints and the restart, and the best time
between checkpoints is Young's, sqrt(2 C M) for a checkpoint of C seconds and M seconds between failures (Communications
of the ACM 17, 1974; Daly 2006 has it with more terms).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from maedfer.errors import InputError
from maedfer.planning.job import TrainingJob
from maedfer.planning.machine import Machine
from maedfer.planning.measured import Source

_BUCKET = 25 * 2**20
# Of a pass, which is one third forward.
_BACKWARD = 2 / 3
# Of a GPU's memory, for what is not counted: libraries, fragments, the batch.
_USED = 0.9
_BF16 = 2
# Share of the time from which on something beside computing is worth a word.
_NOTABLE = 0.25


@dataclass(frozen=True)
class RunPlan:
    """A run on some GPUs. Times of a step are in milliseconds, rates in units of a second.

    Args:
        gpus, nodes: how many, and in how many machines.
        batch_size, accumulate: settings of `train` that keep the global batch.
        global_batch, learning_rate, steps: of the schedule.
        step_ms: a step; `compute_ms` of its operations, `small_ms` more as its passes take some time however small they
            are, `gradients_ms` waiting for the other GPUs, `loading_ms` waiting for clips.
        clips_per_s, frames_per_s: that all GPUs take together, each clip once.
        cores_wanted, cores: of processors, that loading takes and that there are.
        read_mb_s: of all machines from where clips lie; `read_videos_mb_s` and `read_raw_mb_s` from videos and raw
            shards; `node_mb_s` of one machine.
        room_gb: that the clips take in shards, with every frame.
        sent_mb: by each GPU in a step, `sharded_mb` with weights sharded (FSDP2).
        link_gb_s: that this goes over.
        memory_gb: of a GPU.
        checkpoint_gb, checkpoint_s, checkpoints: one, and how many; `interval_min` between two.
        failures, lost_h: expected in the run, and hours lost by them; `best_interval_min` by Young's rule.
        hours, gpu_hours, price: of the whole run; `eager_hours` with steps that no CUDA graph replays.
        efficiency: share of the hours in which operations are computed.
        bottleneck: a key of `parts`: what takes most beside computing, or computing where that is less than a quarter.
        parts: share of the hours by what they go into.
    """

    gpus: int
    nodes: int
    batch_size: int
    accumulate: int
    global_batch: int
    learning_rate: float
    steps: int
    step_ms: float
    compute_ms: float
    small_ms: float
    gradients_ms: float
    loading_ms: float
    clips_per_s: float
    frames_per_s: float
    cores_wanted: float
    cores: float
    read_mb_s: float
    read_videos_mb_s: float
    read_raw_mb_s: float
    node_mb_s: float
    room_gb: float
    sent_mb: float
    sharded_mb: float
    link_gb_s: float
    memory_gb: float
    checkpoint_gb: float
    checkpoint_s: float
    checkpoints: int
    interval_min: float
    failures: float
    lost_h: float
    best_interval_min: float
    hours: float
    eager_hours: float
    gpu_hours: float
    price: float
    efficiency: float
    bottleneck: str
    parts: dict[str, float]


@dataclass(frozen=True)
class StepSeconds:
    """What the seconds of a step go into.

    Args:
        compute: operations; `small`: what passes take beside them.
        gradients: waiting for other GPUs; `loading`: waiting for clips.
        slowest: what of loading is the slowest: "cores", "disk" or "store".
    """

    compute: float
    small: float
    gradients: float
    loading: float
    slowest: str

    @property
    def total(self) -> float:
        """All of them."""
        return self.compute + self.small + self.gradients + self.loading


def plan_run(job: TrainingJob, machine: Machine, gpus: int, source: Source = "shards") -> RunPlan:
    """Set a job against a number of GPUs.

    Args:
        job: what is to be done.
        machine: what is assumed of the machines.
        gpus: how many.
        source: what clips are read from.

    Raises:
        InputError: they cannot share the global batch, a clip does not fit in their memory, or failures come so often
            that the run would not end.
    """
    size, passes, memory = _fit(job, machine, gpus)
    nodes = _nodes(machine, gpus)
    batch, schedule, cost = size * passes * gpus, job.schedule, job.loading[source]
    spent = _step(job, machine, gpus, (size, passes), source)
    step = spent.total
    work = schedule.total * step
    scoring = job.scorings * job.scored * job.score_seconds / (machine.speed.value * gpus)
    # A checkpoint follows each epoch, and some come in between.
    checkpoint = job.state_bytes / (machine.write.value * 1e6 * (nodes if job.saved_in_parts else 1))
    epoch = between = min(work, schedule.steps_per_epoch * step)
    if job.save_steps:
        between = min(between, job.save_steps * step)
    if machine.save_every.value:
        between = min(between, 60 * machine.save_every.value)
    saves = math.ceil(work / epoch - 1e-9) + job.more_saves
    saves += math.floor(work / between + 1e-9) if between < epoch else 0
    # Aside, a checkpoint is waited for by the next one alone, and a failure finds the one before until it is written.
    waited = max(0.0, checkpoint - between) if job.saved_aside else checkpoint
    each = between / 2 + 60 * machine.restart.value + (checkpoint if job.saved_aside else 0)
    per_second = gpus / (machine.mtbf.value * 3600)
    if per_second * each >= 1:
        raise InputError(
            f"{gpus} GPUs fail every {1 / per_second / 60:.3g} minutes and lose {each / 60:.3g} each time: the run "
            "would not end; save more often (--save-every) or restart faster (--restart)"
        )
    seconds = (work + scoring + saves * waited) / (1 - per_second * each)
    times = {
        "compute": schedule.total * spent.compute,
        "small": schedule.total * spent.small,
        "gradients": schedule.total * spent.gradients,
        spent.slowest: schedule.total * spent.loading,
        "scoring": scoring,
        "saving": saves * waited,
        "failures": seconds * per_second * each,
    }
    parts = {name: value / seconds for name, value in times.items()}
    eager = _step(dataclasses.replace(job, replayed=False), machine, gpus, (size, passes), source)
    rate, hours = batch / step, seconds / 3600
    return RunPlan(
        gpus=gpus,
        nodes=nodes,
        batch_size=size,
        accumulate=passes,
        global_batch=batch,
        learning_rate=schedule.peak,
        steps=schedule.total,
        step_ms=1000 * step,
        compute_ms=1000 * spent.compute,
        small_ms=1000 * spent.small,
        gradients_ms=1000 * spent.gradients,
        loading_ms=1000 * spent.loading,
        clips_per_s=rate,
        frames_per_s=rate * job.clip_frames,
        cores_wanted=rate * cost.core_ms / 1000,
        cores=_cores(machine, gpus),
        read_mb_s=rate * cost.read_bytes / 1e6,
        read_videos_mb_s=rate * job.loading["videos"].read_bytes / 1e6,
        read_raw_mb_s=rate * job.loading["raw"].read_bytes / 1e6,
        node_mb_s=rate * cost.read_bytes / 1e6 / nodes,
        room_gb=job.clips * machine.frames.value * job.picture_bytes / 1e9,
        sent_mb=_sent(job, gpus) / 1e6,
        sharded_mb=_sent(dataclasses.replace(job, sharded=True), gpus) / 1e6,
        link_gb_s=_link(machine, gpus) if gpus > 1 else 0.0,
        memory_gb=memory / 1e9,
        checkpoint_gb=job.state_bytes / 1e9,
        checkpoint_s=checkpoint,
        checkpoints=saves,
        interval_min=between / 60,
        failures=seconds * per_second,
        lost_h=seconds * per_second * each / 3600,
        best_interval_min=math.sqrt(2 * checkpoint / per_second) / 60,
        hours=hours,
        eager_hours=hours + schedule.total * (eager.total - step) / 3600,
        gpu_hours=gpus * hours,
        price=gpus * hours * machine.price.value,
        efficiency=parts["compute"],
        bottleneck=_bottleneck(parts),
        parts=parts,
    )


def _bottleneck(parts: dict[str, float]) -> str:
    most = max((name for name in parts if name != "compute"), key=lambda name: parts[name])
    return most if parts[most] >= _NOTABLE else "compute"


def sharing(job: TrainingJob, most: int = 4096) -> list[int]:
    """Numbers of GPUs, up to `most`, that can share the global batch evenly."""
    batch = job.schedule.global_batch
    return [gpus for gpus in range(1, min(batch, most) + 1) if batch % gpus == 0]


def memory_bytes(job: TrainingJob, samples: int, gpus: int = 1) -> float:
    """Of a GPU that passes so many samples: weights in both arithmetics, gradients, AdamW's averages, activations.

    Sharded, it has its part of the first three; weights in bfloat16 come and go, and are counted in whole.
    """
    state = (job.state_bytes + job.gradient_bytes) / (gpus if job.sharded else 1)
    return state + _BF16 * job.parameters + samples * job.activation_bytes


def _fit(job: TrainingJob, machine: Machine, gpus: int) -> tuple[int, int, float]:
    """Clips of a pass, passes of a step, and bytes of memory, for the fewest passes that fit."""
    batch = job.schedule.global_batch
    if batch % gpus:
        can = sharing(job)
        near = [number for number in can if number < gpus][-1:] + [number for number in can if number > gpus][:1]
        many = math.ceil(batch / gpus) * gpus
        raise InputError(
            f"{gpus} GPUs cannot share a step of {batch} clips evenly: give {' or '.join(map(str, near))} GPUs, or a "
            f"step of {many} clips (train.global_batch), with another learning rate and fewer steps"
        )
    share, room = batch // gpus, _USED * machine.memory.value * 1e9
    for passes in _divisors(share):
        size = share // passes
        memory = memory_bytes(job, size * job.repeats, gpus)
        if memory <= room:
            return size, passes, memory
    raise InputError(
        f"a clip takes {memory / 1e9:.1f} GB in training, and of {machine.memory.value:g} GB a tenth is left free: set "
        "train.recompute=true, or train.sharding=full, or give a GPU with more memory (--memory)"
    )


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def _pass(job: TrainingJob, machine: Machine, samples: int, replayed: bool) -> tuple[float, float]:
    """Seconds of the operations of a pass, and what it takes beside them."""
    compute = samples * job.clip_seconds / (machine.speed.value if job.on_h100 else 1)
    if job.replayed and replayed:
        return compute, job.pass_seconds
    # The processor that launches kernels works beside the GPU.
    return compute, max(job.pass_seconds, job.host_seconds - compute)


def _step(job: TrainingJob, machine: Machine, gpus: int, size: tuple[int, int], source: Source) -> StepSeconds:
    """What a step of (clips of a pass, passes) takes."""
    clips, passes = size
    compute, small = _pass(job, machine, clips * job.repeats, passes == 1 and not (job.sharded and gpus > 1))
    gradients = _exposed(job, machine, gpus, compute)
    busy = passes * (compute + small) + gradients
    batch, cost = clips * passes * gpus, job.loading[source]
    waits = {"cores": batch * cost.core_ms / 1000 / _cores(machine, gpus)}
    if machine.store.value:
        waits["store"] = batch * cost.read_bytes / (machine.store.value * 1e6)
    else:
        waits["disk"] = batch * cost.read_bytes / (_nodes(machine, gpus) * machine.disk.value * 1e6)
    slowest = max(waits, key=lambda name: waits[name])
    loading = max(0.0, waits[slowest] - busy)
    return StepSeconds(passes * compute, passes * small, gradients, loading, slowest)


def _nodes(machine: Machine, gpus: int) -> int:
    return math.ceil(gpus / int(machine.gpus_per_node.value))


def _sent(job: TrainingJob, gpus: int) -> float:
    """Bytes that each GPU sends in a step: gradients, and weights where they are sharded."""
    weights = 2 * _BF16 * job.parameters if job.sharded else job.gradient_bytes
    return (gpus - 1) / gpus * (weights + job.gradient_bytes)


def _link(machine: Machine, gpus: int) -> float:
    """GB/s of the slowest link of a ring."""
    return machine.link.value if _nodes(machine, gpus) == 1 else min(machine.link.value, machine.network.value)


def _exposed(job: TrainingJob, machine: Machine, gpus: int, last_pass: float) -> float:
    """Seconds of a step in which a GPU waits for gradients."""
    if gpus == 1:
        return 0.0
    travel = _sent(job, gpus) / (_link(machine, gpus) * 1e9 * machine.reached.value)
    buckets = math.ceil(job.gradient_bytes / _BUCKET)
    whole = travel + buckets * 2 * math.log2(gpus) * machine.latency.value / 1e6
    # The last bucket cannot leave before the backward pass is over.
    return max(whole / buckets, whole - machine.overlap.value * _BACKWARD * last_pass)


def _cores(machine: Machine, gpus: int) -> float:
    """Processor cores beside so many GPUs; one that shares its machine with others has its part of them."""
    return machine.cores.value * gpus / machine.gpus_per_node.value
