"""Copies between host and GPU: both directions, pinned and pageable, one piece or many in a row; for the link's folder.

`bidir`: to the GPU while as much comes from it on another stream, from the first start to the last end.
"""

from __future__ import annotations

from typing import Any

from simserve.perf.collect.grid import Curve
from simserve.perf.collect.machine import Machine, need_cuda
from simserve.perf.collect.task import Options, Task, powers, product
from simserve.perf.collect.timer import Call, Clock, buffer_sets
from simserve.units import KIB, MIB

_LARGEST, _MOST_BYTES = 512 * MIB, 2048 * MIB


class StreamClock:
    """Copies on two streams, timed by events that both streams pass; nothing is captured."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.other = torch.cuda.Stream()

    def elapsed_ns(self, call: Call, times: int) -> float:
        """See Clock."""
        cuda = self.torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        self.other.wait_stream(cuda.current_stream())
        for i in range(times):
            call(i)
        cuda.current_stream().wait_stream(self.other)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e6 / times


def tasks(machine: Machine, options: Options) -> list[Task]:
    """One task: a curve over bytes per direction, memory and number of pieces."""
    torch = need_cuda(machine, "measuring copies over PCIe")
    clock = StreamClock(torch)
    fixed = [
        *product(direction=("h2d", "d2h"), memory=("pinned", "pageable"), pieces=(1,)),
        *product(direction=("bidir",), memory=("pinned",), pieces=(1,)),
        *product(direction=("h2d", "d2h"), memory=("pinned",), pieces=(16, 256, 4096)),
    ]
    curves = [Curve(keys, "bytes", powers(4 * KIB, _LARGEST)) for keys in fixed]
    name = machine.name.partition("/")[0]
    timed: Clock = clock
    return [Task("host_copy", f"{name}_pcie", curves, lambda point: _call(machine, point, clock.other), timed,
                 kernel="torch copy_, one call per piece",
                 skip=lambda point: point["bytes"] * point["pieces"] > _MOST_BYTES)]  # fmt: skip


def _call(machine: Machine, point: dict[str, Any], other: Any) -> Call:
    torch, size, pieces = machine.torch, point["bytes"], point["pieces"]
    sets = range(max(1, min(buffer_sets(size * pieces, machine.cache_bytes), _MOST_BYTES // (size * pieces))))
    pin = point["memory"] == "pinned"
    host = [[torch.empty(size, dtype=torch.uint8, pin_memory=pin) for _ in range(pieces)] for _ in sets]
    card = [[torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(pieces)] for _ in sets]

    def call(i: int) -> None:
        j = i % len(sets)
        for low, high in zip(host[j], card[j], strict=True):
            if point["direction"] == "d2h":
                low.copy_(high, non_blocking=pin)
            else:
                high.copy_(low, non_blocking=pin)

    if point["direction"] != "bidir":
        return call
    back = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in sets]
    away = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in sets]

    def both(i: int) -> None:
        call(i)
        with torch.cuda.stream(other):
            back[i % len(sets)].copy_(away[i % len(sets)], non_blocking=True)

    return both
