"""What a plan takes for granted of machines: every number with its unit, where it is from, and the option for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maedfer.errors import InputError, unknown


@dataclass(frozen=True)
class Assumption:
    """A number that a plan takes for granted.

    Args:
        value: the number.
        unit: of it.
        meaning: what it is, for people.
        source: where it is from: measured, a data sheet, given, or assumed.
        least, most: that it may be.
    """

    value: float
    unit: str
    meaning: str
    source: str
    least: float = 0.0
    most: float = float("inf")

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class GpuSheet:
    """What data sheets say of a GPU and of the usual machine around it.

    Args:
        tflops: dense bfloat16 products, without sparsity.
        tb_s: of its memory.
        memory: GB.
        link: GB/s to the other GPUs of its machine, in one direction.
        network: GB/s of the machine to others, in one direction, all adapters together.
        cores: processor cores of the machine, of 8 GPUs.
        machine: that links, network and cores are of.
    """

    tflops: float
    tb_s: float
    memory: float
    link: float
    network: float
    cores: float
    machine: str


SHEETS = {
    "a100": GpuSheet(312, 2.039, 80, 300, 200, 128, "data sheets: A100 80GB SXM, DGX A100"),
    "b200": GpuSheet(2250, 8.0, 180, 900, 400, 112, "data sheets: B200, DGX B200"),
    "h100": GpuSheet(989, 3.35, 80, 450, 400, 112, "data sheets: H100 SXM, DGX H100"),
    "h200": GpuSheet(989, 4.8, 141, 450, 400, 112, "data sheets: H200 SXM, DGX H200"),
    "l40s": GpuSheet(362, 0.864, 48, 32, 25, 64, "data sheet: L40S on PCIe 4; network and cores assumed"),
    "rtx4090": GpuSheet(165, 1.008, 24, 32, 3, 64, "data sheet: RTX 4090 on PCIe 4; network and cores assumed"),
}


@dataclass(frozen=True)
class Machine:
    """The machines of a plan; each field is an option of `maedfer plan`, with a dash for an underscore.

    Args:
        gpu: name of the GPU.
        speed: of a GPU's kernels, as a multiple of an H100's.
        memory, gpus_per_node, cores, link, network, reached, latency, overlap, disk, store, frames, write, save_every,
            mtbf, restart, price: see the meaning of each.
    """

    gpu: str
    speed: Assumption
    memory: Assumption
    gpus_per_node: Assumption
    cores: Assumption
    link: Assumption
    network: Assumption
    reached: Assumption
    latency: Assumption
    overlap: Assumption
    disk: Assumption
    store: Assumption
    frames: Assumption
    write: Assumption
    save_every: Assumption
    mtbf: Assumption
    restart: Assumption
    price: Assumption

    @classmethod
    def of_gpu(cls, gpu: str, given: Mapping[str, float] | None = None) -> Machine:
        """The machines around a GPU of that name.

        Args:
            gpu: a key of `SHEETS`, in small letters or capitals.
            given: numbers in place of those that are assumed, by field.

        Raises:
            InputError: no such GPU, or a number out of its range.
        """
        name = gpu.lower()
        if name not in SHEETS:
            raise unknown("GPU", gpu, SHEETS)
        machine = _machine(name)
        changes: dict[str, Any] = {}
        for field, value in (given or {}).items():
            known: Assumption = getattr(machine, field)
            option = option_of(field)
            if not known.least <= value <= known.most or value == float("inf"):
                most = "" if known.most == float("inf") else f" and at most {known.most:g}"
                raise InputError(f"{option} must be at least {known.least:g}{most} ({known.unit}), got {value:g}")
            if field == "gpus_per_node" and value != int(value):
                raise InputError(f"{option} must be a whole number, got {value:g}")
            changes[field] = dataclasses.replace(known, value=value, source="given")
        return dataclasses.replace(machine, **changes)

    def assumptions(self) -> Iterator[tuple[str, Assumption]]:
        """All of them, by the option that changes each."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Assumption):
                yield option_of(field.name), value


def option_of(field: str) -> str:
    """The option of the command line for a field of `Machine`."""
    return "--" + field.replace("_", "-")


def _machine(gpu: str) -> Machine:
    sheet, base = SHEETS[gpu], SHEETS["h100"]
    ratio = min(sheet.tflops / base.tflops, sheet.tb_s / base.tb_s)
    compared = "1 by definition" if gpu == "h100" else "data sheets: the lesser of the ratios of products and memory"
    some = 1e-9
    return Machine(
        gpu=gpu,
        speed=Assumption(round(ratio, 3), "of an H100", "speed of a GPU's kernels", compared, some),
        memory=Assumption(sheet.memory, "GB", "memory of a GPU, of which a tenth is left free", sheet.machine, some),
        gpus_per_node=Assumption(8, "GPUs", "GPUs of a machine", "assumed", 1),
        cores=Assumption(sheet.cores, "cores", "processor cores of a machine", sheet.machine, some),
        link=Assumption(sheet.link, "GB/s", "from a GPU to another one of its machine", sheet.machine, some),
        network=Assumption(sheet.network, "GB/s", "from a machine to another one", sheet.machine, some),
        reached=Assumption(0.8, "", "share of those rates that an all-reduce reaches", "assumed", some, 1),
        latency=Assumption(10, "us", "for a message to another GPU, however small", "assumed"),
        overlap=Assumption(
            0,
            "",
            "share of the backward pass in which gradients travel",
            "0 as a compiled backward pass gives all of them in its end; not measured",
            0,
            1,
        ),
        disk=Assumption(2000, "MB/s", "read from a machine's own disk, in pieces of 100 kB", "assumed", some),
        store=Assumption(0, "MB/s", "read by all machines from a store that they share; 0 = own disks", "assumed"),
        frames=Assumption(200, "frames", "of a clip in shards, for the room that these take", "assumed", 1),
        write=Assumption(500, "MB/s", "written of a checkpoint by a machine, checksums included", "assumed", some),
        save_every=Assumption(
            0, "minutes", "between checkpoints, beside one after each epoch; 0 = as the recipe says", "recipe"
        ),
        mtbf=Assumption(
            50_677,
            "hours",
            "of one GPU between failures that end a run",
            "419 unexpected interruptions of 16,384 H100 in 54 days (The Llama 3 Herd of Models, 2024)",
            some,
        ),
        restart=Assumption(10, "minutes", "from a failure to the first step that is new", "assumed"),
        price=Assumption(
            3.0, "USD", "of a GPU and hour", "assumed; offers for an H100 on demand in May 2026: 2 to 5 USD"
        ),
    )
