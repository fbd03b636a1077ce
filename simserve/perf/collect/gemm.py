"""GEMMs: torch.nn.functional.linear in bf16 (fp32 on a CPU), torch._scaled_mm in fp8; NumPy in fp32 without torch.

Shapes: the projections of Llama-3.1-8B and 70B and of Qwen3-32B at tensor parallelism 1 to 8, and a grid of powers of
two around them; m from 1 to 16,384.
"""

from __future__ import annotations

from typing import Any

from simserve.errors import Infeasible, MissingData
from simserve.perf.collect.grid import Curve
from simserve.perf.collect.machine import Machine
from simserve.perf.collect.task import Options, Task, powers
from simserve.perf.collect.timer import Call, CudaClock, HostClock, buffer_sets
from simserve.perf.roofline import element_bytes

_WIDE = (1024, 2048, 4096, 8192, 16384, 28672)
_MODELS = ((6144, 4096), (4096, 14336), (28672, 4096), (10240, 8192), (57344, 8192), (8192, 28672), (51200, 5120))
_MOST_M = {"cuda": 16384, "cpu": 512}


def tasks(machine: Machine, options: Options) -> list[Task]:
    """One task: a curve over m for each (n, k) that fits the memory."""
    dtype = options.dtype or ("bf16" if machine.torch is not None else "fp32")
    if machine.torch is None and dtype != "fp32":
        raise MissingData(f"NumPy multiplies fp32 alone; {dtype} needs PyTorch: pip install torch")
    if dtype not in ("bf16", "fp32", "fp8") or (dtype == "fp8" and machine.kind != "cuda"):
        raise Infeasible(f"no GEMM in {dtype} can be measured here; bf16, fp32, and fp8 on a GPU can")
    wide = _WIDE if machine.kind == "cuda" else _WIDE[:3]
    shapes = dict.fromkeys([*((n, k) for n in wide for k in wide), *(_MODELS if machine.kind == "cuda" else ())])
    m = powers(1, _MOST_M[machine.kind], 2)
    curves = [Curve((("dtype", dtype), ("n", n), ("k", k)), "m", m) for n, k in shapes]
    clock = CudaClock(machine.torch, machine.cache_bytes) if machine.kind == "cuda" else HostClock()
    make = _numpy if machine.torch is None else _scaled if dtype == "fp8" else _linear
    return [
        Task(
            "gemm", machine.name, curves, lambda point: make(machine, point), clock,
            kernel=make.__doc__ or "", skip=lambda point: 2 * _bytes(point) > machine.memory_bytes,
        )
    ]  # fmt: skip


def _bytes(point: dict[str, Any]) -> int:
    m, n, k, element = point["m"], point["n"], point["k"], element_bytes(point["dtype"])
    return int(element * (m * k + n * k) + 2 * m * n)


def _sets(machine: Machine, point: dict[str, Any]) -> int:
    wanted = buffer_sets(_bytes(point), machine.cache_bytes)
    return max(1, min(wanted, machine.memory_bytes // _bytes(point)))


def _linear(machine: Machine, point: dict[str, Any]) -> Call:
    """torch linear"""
    torch = machine.torch
    kind = {"device": machine.kind, "dtype": {"bf16": torch.bfloat16, "fp32": torch.float32}[point["dtype"]]}
    sets = range(_sets(machine, point))
    x = [torch.randn(point["m"], point["k"], **kind) for _ in sets]
    w = [torch.randn(point["n"], point["k"], **kind) for _ in sets]
    out = [torch.empty(point["m"], point["n"], **kind) for _ in sets]

    def call(i: int) -> None:
        j = i % len(sets)
        torch.matmul(x[j], w[j].t(), out=out[j])

    return call


def _scaled(machine: Machine, point: dict[str, Any]) -> Call:
    """torch scaled_mm, per-tensor scales"""
    torch = machine.torch
    sets, fp8 = range(_sets(machine, point)), torch.float8_e4m3fn
    # scaled_mm wants rows in multiples of 16, as serving engines pad them.
    rows = -(-point["m"] // 16) * 16
    x = [torch.randn(rows, point["k"], device="cuda").to(fp8) for _ in sets]
    w = [torch.randn(point["n"], point["k"], device="cuda").to(fp8) for _ in sets]
    one = torch.ones((), device="cuda", dtype=torch.float32)

    def call(i: int) -> None:
        j = i % len(sets)
        torch._scaled_mm(x[j], w[j].t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return call


def _numpy(machine: Machine, point: dict[str, Any]) -> Call:
    """NumPy matmul"""
    import numpy as np

    sets = range(_sets(machine, point))
    draw = np.random.default_rng(0)
    x = [draw.random((point["m"], point["k"]), dtype=np.float32) for _ in sets]
    w = [draw.random((point["k"], point["n"]), dtype=np.float32) for _ in sets]
    out = np.empty((point["m"], point["n"]), dtype=np.float32)

    def call(i: int) -> None:
        j = i % len(sets)
        np.matmul(x[j], w[j], out=out)

    return call


