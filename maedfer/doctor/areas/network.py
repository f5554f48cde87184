"""What several processes of a run need: a group of processes, and the machine of the first one."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist

from maedfer.doctor.finding import Finding, Options, note, ok, wrong


def look(options: Options) -> Iterator[Finding]:
    """This machine's name, MASTER_ADDR where it is set, a process group of one."""
    yield _own_name()
    if address := os.environ.get("MASTER_ADDR"):
        try:
            socket.getaddrinfo(address, None)
            yield ok("MASTER_ADDR", "this machine knows it")
        except OSError as error:
            said = f"this machine does not know {address!r} ({error.strerror})"
            yield wrong("MASTER_ADDR", said, "give the name or address of the machine of process 0")
    yield _group()


def _own_name() -> Finding:
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError as error:
        return note(
            "host name",
            f"this machine does not know itself by its name ({error.strerror})",
            "a line in /etc/hosts, or GLOO_SOCKET_IFNAME=lo for runs on it alone",
        )
    return ok("host name", "this machine knows itself by it")


def _group() -> Finding:
    if not dist.is_available():
        return note("process group", "this PyTorch is without torch.distributed: one process a run", "install another")
    store = dist.TCPStore("127.0.0.1", 0, 1, True, timeout=datetime.timedelta(seconds=20))
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    value = torch.ones(3)
    dist.all_reduce(value)
    dist.destroy_process_group()
    if value.tolist() != [1.0] * 3:
        return wrong("process group", "gloo's sum over one process is another number", "pip install -U torch")
    nccl = "with" if dist.is_nccl_available() else "without"
    return ok("process group", f"gloo works on this machine; {nccl} NCCL")
