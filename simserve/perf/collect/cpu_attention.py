"""Decode attention on the CPU: one new token in each of `batch` requests over `context` cached tokens, one layer.

Keys and values of a request and KV head lie together. Without torch: NumPy in fp32, q K^T, softmax and times V per
(request, KV head), dealt out to `threads` threads of a pool while BLAS keeps to one thread; with torch:
scaled_dot_product_attention in bf16 on that many threads. NumPy's is a plain kernel, not a tuned one such as those of
llama.cpp or NEO; the table's provenance holds the bandwidth that the same threads read from memory, so that the share
can be told.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData
from simserve.perf.collect.grid import Curve
from simserve.perf.collect.machine import Machine
from simserve.perf.collect.task import Options, Task, powers, product
from simserve.perf.collect.timer import Call, HostClock, buffer_sets
from simserve.perf.roofline import element_bytes, kv_bytes
from simserve.units import MIB

_HEADS = ((32, 8, 128), (32, 32, 128))
_MOST_BATCH, _LONGEST = 64, 8192
_Arrays = NDArray[np.float32]


def tasks(machine: Machine, options: Options) -> list[Task]:
    """One task: a curve over contexts per heads, threads and batch."""
    threads = options.threads or powers(1, int(machine.facts["cores"]))
    dtype = options.dtype or ("fp32" if machine.torch is None else "bf16")
    if dtype != "fp32" and (machine.torch is None or dtype != "bf16"):
        raise MissingData(f"no CPU attention in {dtype} can be measured here; NumPy does fp32, PyTorch bf16 as well")
    shapes = [(("heads", h), ("kv_heads", kv), ("head_dim", dim), ("dtype", dtype))
              for h, kv, dim in options.heads or _HEADS]  # fmt: skip
    fixed = product(threads=threads, batch=powers(1, _MOST_BATCH))
    curves = [Curve((*shape, *keys), "context", powers(64, _LONGEST, 2)) for shape in shapes for keys in fixed]
    make = _numpy if machine.torch is None else _torch
    facts = {"read_bytes_per_s": {str(count): read_rate(count) for count in threads}}
    return [Task("cpu_decode_attention", machine.name, curves, lambda point: make(machine, point), HostClock(),
                 kernel=make.__doc__ or "", skip=lambda point: _kv_bytes(point) > machine.memory_bytes // 2,
                 facts=facts)]  # fmt: skip


def _kv_bytes(point: dict[str, Any]) -> int:
    tokens = point["batch"] * point["context"]
    return int(tokens * kv_bytes(1, point["kv_heads"], point["head_dim"], 1) * element_bytes(point["dtype"]))


def _sets(machine: Machine, point: dict[str, Any]) -> range:
    wanted = buffer_sets(_kv_bytes(point), machine.cache_bytes)
    return range(max(1, min(wanted, machine.memory_bytes // _kv_bytes(point))))


def _numpy(machine: Machine, point: dict[str, Any]) -> Call:
    """NumPy, fp32"""
    draw = np.random.default_rng(0)
    batch, kv, dim, context = (point[name] for name in ("batch", "kv_heads", "head_dim", "context"))
    group, sets = point["heads"] // kv, _sets(machine, point)
    q = draw.random((batch, kv, group, dim), dtype=np.float32)
    k = [draw.random((batch, kv, dim, context), dtype=np.float32) for _ in sets]
    v = [draw.random((batch, kv, context, dim), dtype=np.float32) for _ in sets]
    out = np.empty((batch, kv, group, dim), dtype=np.float32)
    work = [(r, h) for r in range(batch) for h in range(kv)]
    shares = [work[i :: point["threads"]] for i in range(point["threads"])]
    pool = ThreadPoolExecutor(point["threads"]) if point["threads"] > 1 else None

    def share(mine: list[tuple[int, int]], j: int) -> None:
        for r, h in mine:
            out[r, h] = attend(q[r, h], k[j][r, h], v[j][r, h])

    def call(i: int) -> None:
        j = i % len(sets)
        if pool is None:
            share(work, j)
        else:
            list(pool.map(share, shares, [j] * len(shares)))

    return call


def attend(q: _Arrays, k: _Arrays, v: _Arrays) -> _Arrays:
    """softmax(q k / sqrt(d)) v of one KV head; q [group, d], k [d, context], v [context, d]."""
    scores = q @ k
    scores /= np.float32(np.sqrt(q.shape[1]))
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return np.asarray(scores @ v)


def _torch(machine: Machine, point: dict[str, Any]) -> Call:
    """torch scaled_dot_product_attention"""
    torch = machine.torch
    torch.set_num_threads(point["threads"])
    kind = {"dtype": {"bf16": torch.bfloat16, "fp32": torch.float32}[point["dtype"]]}
    batch, kv, dim, context = (point[name] for name in ("batch", "kv_heads", "head_dim", "context"))
    sets = _sets(machine, point)
    q = torch.randn(batch, point["heads"], 1, dim, **kind)
    k = [torch.randn(batch, kv, context, dim, **kind) for _ in sets]
    v = [torch.randn(batch, kv, context, dim, **kind) for _ in sets]
    grouped = point["heads"] != kv

    def call(i: int) -> None:
        j = i % len(sets)
        torch.nn.functional.scaled_dot_product_attention(q, k[j], v[j], enable_gqa=grouped)

    return call


def read_rate(threads: int, size_bytes: int = 512 * MIB) -> int:
    """Bytes/s at which `threads` threads multiply an array larger than the caches with itself, the best of five."""
    parts = np.array_split(np.ones(size_bytes // 8, dtype=np.float64), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter_ns()
            list(pool.map(np.dot, parts, parts))
            best = min(best, time.perf_counter_ns() - start)
    return int(size_bytes / best * 1e9)
