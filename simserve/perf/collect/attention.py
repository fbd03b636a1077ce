"""Attention on a GPU by torch's scaled_dot_product_attention: prompts, also after cached context, and decode.

Decode here reads a contiguous cache by equal contexts: what a paged kernel of a serving engine adds is not in it.
Grouped heads are left to the kernel (`enable_gqa`).
"""

from __future__ import annotations

import importlib
from typing import Any

from simserve.errors import MissingData
from simserve.perf.collect.grid import Curve
from simserve.perf.collect.machine import Machine, need_torch
from simserve.perf.collect.task import Options, Task, powers, product
from simserve.perf.collect.timer import Call, Clock, CudaClock, HostClock, buffer_sets

_HEADS = ((32, 8, 128), (16, 4, 128), (8, 2, 128), (64, 8, 128), (32, 32, 128), (1, 1, 128))
_LONGEST = {"cuda": 16384, "cpu": 1024}


def tasks(machine: Machine, options: Options) -> list[Task]:
    """Two tables: prefill_attention (batch, past) over tokens, decode_attention (batch) over contexts."""
    torch = need_torch(machine, "measuring attention")
    longest, dtype = _LONGEST[machine.kind], options.dtype or "bf16"
    if dtype not in ("bf16", "fp32"):
        raise MissingData(f"no attention in {dtype} can be measured here; bf16 and fp32 can")
    heads = options.heads or (_HEADS if machine.kind == "cuda" else _HEADS[:1])
    shapes = [(("heads", h), ("kv_heads", kv), ("head_dim", dim), ("kv_dtype", dtype), ("window", 0))
              for h, kv, dim in heads]  # fmt: skip
    prompts = [*product(batch=powers(1, 8), past=(0,)), *product(batch=(1,), past=powers(1024, longest))]
    prefill = [Curve((*shape, *fixed), "tokens", powers(16, longest, 2)) for shape in shapes for fixed in prompts]
    decode = [Curve((*shape, *fixed), "context", powers(16, 4 * longest)) for shape in shapes
              for fixed in product(batch=powers(1, 256 if machine.kind == "cuda" else 16))]  # fmt: skip
    clock: Clock = CudaClock(torch, machine.cache_bytes) if machine.kind == "cuda" else HostClock()

    def task(family: str, curves: list[Curve]) -> Task:
        return Task(family, machine.name, curves, lambda point: _call(machine, point), clock,
                    kernel="torch scaled_dot_product_attention",
                    skip=lambda point: 4 * _bytes(point) > machine.memory_bytes)  # fmt: skip

    return [task("prefill_attention", prefill), task("decode_attention", decode)]


def _lengths(point: dict[str, Any]) -> tuple[int, int]:
    """(query tokens, keys) of each request."""
    if "context" in point:
        return 1, point["context"]
    return point["tokens"], point["tokens"] + point["past"]


def _bytes(point: dict[str, Any]) -> int:
    queries, keys = _lengths(point)
    rows = 2 * queries * point["heads"] + 2 * keys * point["kv_heads"]
    return int(2 * point["batch"] * rows * point["head_dim"])


def _call(machine: Machine, point: dict[str, Any]) -> Call:
    torch = machine.torch
    queries, keys = _lengths(point)
    kind = {"device": machine.kind, "dtype": {"bf16": torch.bfloat16, "fp32": torch.float32}[point["kv_dtype"]]}
    sets = range(max(1, min(buffer_sets(_bytes(point), machine.cache_bytes), machine.memory_bytes // _bytes(point))))
    batch, dim = point["batch"], point["head_dim"]
    q = [torch.randn(batch, point["heads"], queries, dim, **kind) for _ in sets]
    k = [torch.randn(batch, point["kv_heads"], keys, dim, **kind) for _ in sets]
    v = [torch.randn(batch, point["kv_heads"], keys, dim, **kind) for _ in sets]
    extra: dict[str, Any] = {"is_causal": queries > 1 and queries == keys}
    if queries > 1 and queries != keys:
        bias = importlib.import_module("torch.nn.attention.bias")
        extra = {"attn_mask": bias.causal_lower_right(queries, keys)}
    grouped = point["heads"] != point["kv_heads"]

    def call(i: int) -> None:
        j = i % len(sets)
        torch.nn.functional.scaled_dot_product_attention(q[j], k[j], v[j], enable_gqa=grouped, **extra)

    return call
