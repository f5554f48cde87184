"""The processes of a run: who this one is, and how it finds the others."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from maedfer._progress import Patience, duration
from maedfer.errors import InputError

# Seconds that NCCL waits longer than is said, since it ends a process with pages of its own: a sentence comes first.
_NCCL_MORE = 60.0
_START = "start the processes with torchrun, which sets what they need, or unset {} to run in one process"


@dataclass(frozen=True)
class Place:
    """This process among those of a run: number of all, number on this machine, how many there are."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1


def place() -> Place:
    """What torchrun, or who does its work, says in the environment. What SLURM says is not looked at.

    Raises:
        InputError: it is incomplete, or contradicts itself.
    """
    world, rank, local_rank = (_number(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if world is None:
        if rank is not None:
            raise InputError(f"RANK is {rank} but WORLD_SIZE is not set: {_START.format('RANK')}")
        return Place(0, local_rank or 0, 1)
    if world < 1:
        raise InputError(f"WORLD_SIZE is {world}, which is no number of processes: {_START.format('WORLD_SIZE')}")
    if world > 1:
        absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if absent:
            raise InputError(
                f"WORLD_SIZE is {world} but {' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} not set: "
                + _START.format("WORLD_SIZE")
            )
        port = _number("MASTER_PORT")
        if port is not None and not 0 < port < 65536:
            raise InputError(f"MASTER_PORT is {port}: ports go from 1 to 65535")
    if rank is not None and rank >= world:
        raise InputError(f"RANK is {rank} but WORLD_SIZE is {world}: ranks go from 0 to {world - 1}")
    return Place(rank or 0, local_rank or 0, world)


def join(where: Place, device: torch.device, timeout: float = 600.0) -> None:
    """Join the process group of a run of several processes.

    Args:
        where: this process.
        device: of the model.
        timeout: seconds that it waits for the others, here and whenever they exchange something.

    Raises:
        InputError: the others are not found.
    """
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"

    def tell(seconds: float) -> None:
        print(
            f"process {where.rank} of {where.world}: waiting for the others at {address} for {duration(seconds)}",
            flush=True,
        )

    try:
        # PyTorch would try again for half an hour.
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError as error:
        raise InputError(
            f"MASTER_ADDR is {os.environ['MASTER_ADDR']!r}, which this machine does not know ({error.strerror}): give "
            "the name or address of the machine of process 0"
        ) from error
    patience = Patience(tell)
    nccl = device.type == "cuda"
    try:
        with patience:
            dist.init_process_group(
                "nccl" if nccl else "gloo",
                timeout=timedelta(seconds=timeout + (_NCCL_MORE if nccl else 0.0)),
                device_id=device if nccl else None,
                **_store_of_agents(where, timeout),
            )
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"process {where.rank} of {where.world} cannot join the others at {address} (MASTER_ADDR and MASTER_PORT): "
            f"{first}"
        ) from error
    finally:
        patience.close()


def _store_of_agents(where: Place, timeout: float) -> dict[str, Any]:
    """How a process group finds torchrun's store, which has the addresses of processes that were there before.

    One store serves all the times that torchrun starts processes (as of PyTorch 2.14), who would look for each other
    at the places of their predecessors. The number of restarts tells the times apart on one machine only: a machine
    that came later has counted fewer.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=timeout)
    store = dist.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=patience)
    name = agree_on_name(store, where, timeout)
    return {"store": dist.PrefixStore(f"maedfer/group/{name}", store), "rank": where.rank, "world_size": where.world}


def agree_on_name(store: dist.Store, where: Place, timeout: float) -> str:
    """A new name that all processes know, in a store that may hold what other processes of the same ranks left there.

    Each one draws a number; process 0 tells its own to every number that it finds, until all have said that they know.

    Raises:
        RuntimeError: that takes longer than `timeout` seconds.
    """
    mine = secrets.token_hex(8)
    store.set(f"maedfer/here/{where.rank}", mine)
    if where.rank:
        store.wait([f"maedfer/told/{mine}"], timedelta(seconds=timeout))
        name = store.get(f"maedfer/told/{mine}").decode()
        store.add(f"maedfer/known/{name}", 1)
        return name
    keys = [f"maedfer/here/{rank}" for rank in range(1, where.world)]
    told: set[bytes] = set()
    deadline = time.monotonic() + timeout
    while store.add(f"maedfer/known/{mine}", 0) < where.world - 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {where.world} processes have come within {timeout:g} s")
        if store.check(keys):
            for number in set(store.multi_get(keys)) - told:
                store.set(f"maedfer/told/{number.decode()}", mine)
                told.add(number)
        time.sleep(0.05)
    return mine


def _number(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} must be a whole number, got {os.environ[name]!r}: {_START.format(name)}")
    return int(text)
