"""The price of one operation on one device, by the keys of its table: what a step would pay for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simserve.arch.ops import AllReduce, Attention, Gemm
from simserve.errors import SpecError, UnknownName
from simserve.perf.compile import Formats, Tables, priced
from simserve.perf.host_copy import copy
from simserve.perf.prefill import Equivalent, equivalent
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec, load_gpu, load_link

Value = int | str
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Family:
    """What a query of one family needs: keys, with a default or None, and how it is answered."""

    keys: Mapping[str, Value | None]
    price: Callable[[GpuSpec, Values], Priced]


def query(device: str, family: str, values: Values) -> Priced:
    """The price of one run of one operation; SpecError names a key that is missing, unknown or no number."""
    if family not in QUERIES:
        raise UnknownName("family that can be queried", family, QUERIES)
    asked = QUERIES[family]
    for name in values:
        if name not in asked.keys:
            raise UnknownName(f"key of {family}", name, asked.keys)
    whole = {name: values.get(name, default) for name, default in asked.keys.items()}
    missing = [name for name, value in whole.items() if value is None]
    if missing:
        raise SpecError(f"{family} needs {', '.join(missing)}", key=missing[0])
    checked = {name: _checked(name, value) for name, value in whole.items() if value is not None}
    return asked.price(load_gpu(device), checked)


def _checked(name: str, value: Value) -> Value:
    """Numbers are at least 1 (a past may be 0)."""
    if name in _WORDS:
        return value
    try:
        number = int(value)
    except ValueError:
        raise SpecError("must be a whole number", key=name, value=value) from None
    least = 0 if name == "past" else 1
    if number < least:
        raise SpecError(f"must be at least {least}", key=name, value=value)
    return number


_WORDS = ("dtype", "kv_dtype", "direction", "memory")


def _tables(gpu: GpuSpec, *, dtype: str = "bf16", kv_dtype: str = "auto", tokens: int = 1, seqs: int = 1) -> Tables:
    return Tables(gpu, Formats(dtype, kv_dtype, tokens, seqs))


def _gemm(gpu: GpuSpec, v: Values) -> Priced:
    op = Gemm("gemm", int(v["n"]), int(v["k"]), 1)
    return _tables(gpu, dtype=str(v["dtype"]), tokens=int(v["m"])).gemm(op, str(v["dtype"])).price(int(v["m"]))


def _attention(v: Values) -> Attention:
    return Attention(int(v["heads"]), int(v["kv_heads"]), int(v["head_dim"]), 1)


def _prefill(gpu: GpuSpec, v: Values) -> Priced:
    table, name = _tables(gpu, kv_dtype=str(v["kv_dtype"])).prefill(_attention(v))
    work: Equivalent = equivalent([(int(v["tokens"]), int(v["past"]))] * int(v["batch"]))
    return priced(table.time_ns(work.batch, work.tokens), table.source_at(work), name, table.note)


def _decode(gpu: GpuSpec, v: Values) -> Priced:
    batch, total = int(v["batch"]), int(v["batch"]) * int(v["context"])
    table, name = _tables(gpu, kv_dtype=str(v["kv_dtype"]), seqs=2 * batch).decode(_attention(v))
    return priced(table.time_ns(batch, total), table.source_at(batch, total), name, table.note)


def _all_reduce(gpu: GpuSpec, v: Values) -> Priced:
    return _tables(gpu).all_reduce(AllReduce(int(v["bytes"]), 1, int(v["ranks"]))).price(1)


def _host_copy(gpu: GpuSpec, v: Values) -> Priced:
    link = load_link(gpu.host_link)
    return copy(link, int(v["bytes"]), int(v["pieces"]), direction=str(v["direction"]), memory=str(v["memory"]))


_ATTENTION: dict[str, Value | None] = {"kv_dtype": "auto", "head_dim": 128, "heads": None, "kv_heads": None, "batch": 1}
QUERIES: dict[str, Family] = {
    "gemm": Family({"dtype": "bf16", "m": None, "n": None, "k": None}, _gemm),
    "prefill_attention": Family({**_ATTENTION, "tokens": None, "past": 0}, _prefill),
    "decode_attention": Family({**_ATTENTION, "context": None}, _decode),
    "host_copy": Family({"direction": "h2d", "memory": "pinned", "bytes": None, "pieces": 1}, _host_copy),
    "all_reduce": Family({"ranks": None, "bytes": None}, _all_reduce),
}
