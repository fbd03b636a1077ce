"""All-reduce and other collectives by torch.distributed: NCCL among this machine's GPUs, gloo among CPU processes.

Rank 0 measures and is this process; the others are spawned and follow what it broadcasts: an operation and a size, and
how often to run it. A sample begins behind a barrier and ends when rank 0's last call is done.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from simserve.errors import Infeasible
from simserve.perf.collect.grid import Curve
from simserve.perf.collect.machine import Machine, need_torch
from simserve.perf.collect.task import Options, Task, powers
from simserve.perf.collect.timer import Call
from simserve.units import KIB, MIB

_LARGEST = {"cuda": 512 * MIB, "cpu": 16 * MIB}
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


class Group:
    """The processes of a measurement, seen from rank 0; also the clock of its calls."""

    def __init__(self, torch: Any, kind: str, ranks: int) -> None:
        self.torch, self.kind, self.ranks = torch, kind, ranks
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context: Any = torch.multiprocessing.get_context("spawn")
        args = (kind, ranks, port)
        self._others = [context.Process(target=follow, args=(rank, *args), daemon=True) for rank in range(1, ranks)]
        for other in self._others:
            other.start()
        join_group(torch, 0, *args)

    def prepare(self, point: dict[str, Any]) -> Call:
        """Tell all ranks what to run."""
        self._tell(("prepare", str(point.get("op", "all_reduce")), int(point["bytes"])))
        return operation(self.torch, self.kind, self.ranks, str(point.get("op", "all_reduce")), int(point["bytes"]))

    def elapsed_ns(self, call: Call, times: int) -> float:
        """See Clock."""
        self._tell(("run", "", times))
        return timed(self.torch, self.kind, call, times)

    def close(self) -> None:
        """End all processes."""
        self._tell(("stop", "", 0))
        for other in self._others:
            other.join(timeout=30)
        self.torch.distributed.destroy_process_group()

    def _tell(self, message: tuple[str, str, int]) -> None:
        self.torch.distributed.broadcast_object_list([message], src=0)


def tasks(machine: Machine, options: Options) -> list[Task]:
    """Two tables: all_reduce, and the other collectives, over bytes."""
    torch = need_torch(machine, "measuring collectives")
    ranks = options.ranks or (torch.cuda.device_count() if machine.kind == "cuda" else 2)
    if ranks < 2 or (machine.kind == "cuda" and ranks > torch.cuda.device_count()):
        raise Infeasible(f"collectives among {ranks} ranks need at least two GPUs here, or --device cpu")
    method = "nccl" if machine.kind == "cuda" else "gloo"
    sizes = powers(KIB, _LARGEST[machine.kind])
    fixed = (("method", method), ("ranks", ranks))
    others = OPS[1:] if method == "nccl" else ("all_gather",)  # gloo has neither of the other two for tensors
    group = Group(torch, machine.kind, ranks)
    return [
        Task("all_reduce", machine.name, [Curve(fixed, "bytes", sizes)], group.prepare, group,
             kernel=f"torch.distributed {method}"),
        Task("collective", machine.name, [Curve((*fixed, ("op", op)), "bytes", sizes) for op in others],
             group.prepare, group, kernel=f"torch.distributed {method}", close=group.close),
    ]  # fmt: skip


def join_group(torch: Any, rank: int, kind: str, ranks: int, port: int) -> None:
    """Become `rank` of the group."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=ranks)


def follow(rank: int, kind: str, ranks: int, port: int) -> None:
    """What the ranks other than 0 do until they are told to stop."""
    torch: Any = importlib.import_module("torch")
    join_group(torch, rank, kind, ranks, port)
    call: Call | None = None
    while True:
        told: list[Any] = [None]
        torch.distributed.broadcast_object_list(told, src=0)
        word, op, number = told[0]
        if word == "stop":
            torch.distributed.destroy_process_group()
            return
        if word == "prepare":
            call = operation(torch, kind, ranks, op, number)
        elif call is not None:
            timed(torch, kind, call, number)


def operation(torch: Any, kind: str, ranks: int, op: str, size_bytes: int) -> Call:
    """One collective of a message of `size_bytes` (all parts together) in 16-bit numbers."""
    count = max(size_bytes // 2 // ranks, 1) * ranks
    whole = torch.zeros(count, dtype=torch.bfloat16, device=kind)
    part = torch.zeros(count // ranks, dtype=torch.bfloat16, device=kind)
    distributed = torch.distributed
    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: distributed.all_reduce(whole),
        "all_gather": lambda: distributed.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: distributed.reduce_scatter_tensor(part, whole),
        "all_to_all": lambda: distributed.all_to_all_single(torch.empty_like(whole), whole),
    }
    run = calls[op]
    return lambda i: run()


def timed(torch: Any, kind: str, call: Call, times: int) -> float:
    """Mean ns of `times` calls of this rank behind a barrier."""
    torch.distributed.barrier()
    if kind == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for i in range(times):
        call(i)
    if kind == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / times
