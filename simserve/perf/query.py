"""The price of one operation on one device, by the keys of its table: what a step would pay for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from simserve.arch.ops import AllReduce, Attention, Gemm, LinearAttention
from simserve.errors import SpecError, UnknownName
from simserve.perf import gdn
from simserve.perf.collective import AllReduceCurve, measured_collective, roofline_collective
from simserve.perf.compile import Formats, Tables, priced
from simserve.perf.cpu_attention import cpu_attention
from simserve.perf.dsa import block_of
from simserve.perf.gemm import Curve
from simserve.perf.host_copy import copy
from simserve.perf.mla import measured_mla_decode, measured_mla_prefill, roofline_mla_decode, roofline_mla_prefill
from simserve.perf.moe import MoeShape, MoeTable, roofline_moe
from simserve.perf.prefill import PrefillTable, equivalent
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec, HostSpec, load_gpu, load_host, load_link

Value = int | str
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Family:
    """What a query of one family needs: keys, with a default or None, how it is answered, and on which device."""

    keys: Mapping[str, Value | None]
    price: Callable[[Any, Values], Priced]
    device: Callable[[str], GpuSpec | HostSpec] = load_gpu


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
    return asked.price(asked.device(device), checked)


def _checked(name: str, value: Value) -> Value:
    """Numbers are at least 1 (a past may be 0; 0 threads are all cores)."""
    if name in _WORDS:
        return value
    try:
        number = int(value)
    except ValueError:
        raise SpecError("must be a whole number", key=name, value=value) from None
    least = 0 if name in ("past", "threads") else 1
    if number < least:
        raise SpecError(f"must be at least {least}", key=name, value=value)
    return number


_WORDS = ("dtype", "kv_dtype", "op", "direction", "memory", "kernel")


def _tables(gpu: GpuSpec, *, dtype: str = "bf16", kv_dtype: str = "auto", tokens: int = 1, seqs: int = 1) -> Tables:
    return Tables(gpu, Formats(dtype, kv_dtype, tokens, seqs))


def _gemm(gpu: GpuSpec, v: Values) -> Priced:
    op = Gemm("gemm", int(v["n"]), int(v["k"]), 1)
    return _tables(gpu, dtype=str(v["dtype"]), tokens=int(v["m"])).gemm(op, str(v["dtype"])).price(int(v["m"]))


def _attention(v: Values) -> Attention:
    return Attention(int(v["heads"]), int(v["kv_heads"]), int(v["head_dim"]), 1)


def _prefill(gpu: GpuSpec, v: Values) -> Priced:
    table, name = _tables(gpu, kv_dtype=str(v["kv_dtype"])).prefill(_attention(v))
    chunks = [(int(v["tokens"]), int(v["past"]))] * int(v["batch"])
    return priced(table.chunks_ns(chunks), table.source_at(equivalent(chunks)), name, table.note)


def _decode(gpu: GpuSpec, v: Values) -> Priced:
    batch, total = int(v["batch"]), int(v["batch"]) * int(v["context"])
    table, name = _tables(gpu, kv_dtype=str(v["kv_dtype"]), seqs=2 * batch).decode(_attention(v))
    return priced(table.time_ns(batch, total), table.source_at(batch, total), name, table.note)


def _cpu_decode(host: HostSpec, v: Values) -> Priced:
    batch, shape = int(v["batch"]), (int(v["heads"]), int(v["kv_heads"]), int(v["head_dim"]))
    compiled = cpu_attention(host, *shape, threads=int(v["threads"]), dtype=str(v["dtype"]), kernel=str(v["kernel"]),
                             max_batch=2 * batch)  # fmt: skip
    return compiled.price(batch, batch * int(v["context"]))


def _all_reduce(gpu: GpuSpec, v: Values) -> Priced:
    return _tables(gpu).all_reduce(AllReduce(int(v["bytes"]), 1, int(v["ranks"]))).price(1)


def _host_copy(gpu: GpuSpec, v: Values) -> Priced:
    link = load_link(gpu.host_link)
    return copy(link, int(v["bytes"]), int(v["pieces"]), direction=str(v["direction"]), memory=str(v["memory"]))


def _moe(gpu: GpuSpec, v: Values) -> Priced:
    sizes = {name: int(v[name]) for name in ("hidden", "inter", "experts", "topk", "tp", "ep")}
    shape, tokens, dtype = MoeShape(**sizes), np.array([float(v["tokens"])]), str(v["dtype"])
    pair = _tables(gpu).origin("moe", "dtype", "bf16" if dtype == "fp16" else dtype)
    curve = MoeTable(*pair, dtype).curve(shape, tokens) if pair else roofline_moe(gpu, dtype, shape, tokens)
    return _at(curve, int(v["tokens"]), "moe", pair)


def _mla_prefill(gpu: GpuSpec, v: Values) -> Priced:
    kv, heads = _mla_kv(v), int(v["heads"])
    pair = _tables(gpu).origin("mla_prefill", "kv_dtype", kv)
    table = measured_mla_prefill(*pair, kv, heads) if pair else roofline_mla_prefill(gpu, heads)
    return _of_prompts(table, [(int(v["tokens"]), int(v["past"]))] * int(v["batch"]), "mla_prefill", pair)


def _mla_decode(gpu: GpuSpec, v: Values) -> Priced:
    kv, heads, batch = _mla_kv(v), int(v["heads"]), int(v["batch"])
    pair = _tables(gpu).origin("mla_decode", "kv_dtype", kv)
    table = (measured_mla_decode(*pair, kv, heads, 2 * batch) if pair
             else roofline_mla_decode(gpu, kv, heads, 2 * batch))  # fmt: skip
    total = batch * int(v["context"])
    return priced(table.time_ns(batch, total), table.source_at(batch, total), _name("mla_decode", pair), table.note)


def _mla_kv(v: Values) -> str:
    return "fp8" if v["kv_dtype"] == "fp8" else "bf16"


def _dsa_prefill(gpu: GpuSpec, v: Values) -> Priced:
    block = block_of(int(v["hidden"]), int(v["heads"]), str(v["dtype"]))
    table, name = _tables(gpu, kv_dtype=str(v["kv_dtype"])).prefill(block)
    chunks = [(int(v["tokens"]), int(v["past"]))] * int(v["batch"])
    return priced(table.chunks_ns(chunks), table.source_at(equivalent(chunks)), name, table.note)


def _dsa_decode(gpu: GpuSpec, v: Values) -> Priced:
    batch, total = int(v["batch"]), int(v["batch"]) * int(v["context"])
    tables = _tables(gpu, kv_dtype=str(v["kv_dtype"]), seqs=2 * batch)
    table, name = tables.decode(block_of(int(v["hidden"]), int(v["heads"]), str(v["dtype"])))
    return priced(table.time_ns(batch, total), table.source_at(batch, total), name, table.note)


def _gdn(gpu: GpuSpec, v: Values) -> Priced:
    """Both kernels of a layer; one token is one more of a request that has a state."""
    net = LinearAttention(int(v["k_heads"]), int(v["v_heads"]), gdn.DIM, gdn.DIM, gdn.CONV, 4, 1)
    batch, tokens = int(v["batch"]), int(v["tokens"])
    if tokens == 1:
        decode, name = _tables(gpu, seqs=2 * batch).decode(net)
        return priced(decode.time_ns(batch, batch), decode.source_at(batch, batch), name, decode.note)
    prompts, name = _tables(gpu).prefill(net)
    chunks = [(tokens, 0)] * batch
    return priced(prompts.chunks_ns(chunks), prompts.source_at(equivalent(chunks)), name, prompts.note)


def _encoder(gpu: GpuSpec, v: Values) -> Priced:
    heads, chunks = int(v["heads"]), [(int(v["tokens"]), 0)] * int(v["batch"])
    table, name = _tables(gpu).encoder(Attention(heads, heads, int(v["head_dim"]), 1))
    return priced(table.chunks_ns(chunks), table.source_at(equivalent(chunks)), name, table.note)


def _collective(gpu: GpuSpec, v: Values) -> Priced:
    pair = _tables(gpu).origin("collective", "op", str(v["op"]))
    size, ranks = np.array([float(v["bytes"])]), int(v["ranks"])
    op = str(v["op"])
    curve = measured_collective(*pair, op, ranks, size) if pair else roofline_collective(gpu, ranks, size)
    return _at(curve, int(v["bytes"]), "collective", pair)


Pair = tuple[GpuSpec, GpuSpec] | None


def _name(family: str, pair: Pair) -> str:
    return f"{pair[1].name if pair else 'roofline'}/{family}"


def _at(curve: Curve | AllReduceCurve, x: int, family: str, pair: Pair) -> Priced:
    """The only point of a curve."""
    return priced(float(curve.ns[0]), curve.source_at(x), _name(family, pair), curve.note)


def _of_prompts(table: PrefillTable, chunks: list[tuple[int, int]], family: str, pair: Pair) -> Priced:
    return priced(table.chunks_ns(chunks), table.source_at(equivalent(chunks)), _name(family, pair), table.note)


_ATTENTION: dict[str, Value | None] = {"kv_dtype": "auto", "head_dim": 128, "heads": None, "kv_heads": None, "batch": 1}
_BLOCK: dict[str, Value | None] = {"dtype": "fp8_block", "kv_dtype": "auto", "hidden": None, "heads": None, "batch": 1}
QUERIES: dict[str, Family] = {
    "gemm": Family({"dtype": "bf16", "m": None, "n": None, "k": None}, _gemm),
    "prefill_attention": Family({**_ATTENTION, "tokens": None, "past": 0}, _prefill),
    "decode_attention": Family({**_ATTENTION, "context": None}, _decode),
    "mla_prefill": Family({"kv_dtype": "auto", "heads": None, "batch": 1, "tokens": None, "past": 0}, _mla_prefill),
    "mla_decode": Family({"kv_dtype": "auto", "heads": None, "batch": 1, "context": None}, _mla_decode),
    "dsa_prefill": Family({**_BLOCK, "tokens": None, "past": 0}, _dsa_prefill),
    "dsa_decode": Family({**_BLOCK, "context": None}, _dsa_decode),
    "gdn": Family({"k_heads": None, "v_heads": None, "batch": 1, "tokens": 1}, _gdn),
    "moe": Family({
        "dtype": "bf16", "hidden": None, "inter": None, "experts": None, "topk": None, "tp": 1, "ep": 1, "tokens": None,
    }, _moe),
    "encoder_attention": Family({"heads": None, "head_dim": 64, "batch": 1, "tokens": None}, _encoder),
    "collective": Family({"op": None, "ranks": None, "bytes": None}, _collective),
    "host_copy": Family({"direction": "h2d", "memory": "pinned", "bytes": None, "pieces": 1}, _host_copy),
    "cpu_decode_attention": Family({
        "dtype": "bf16", "head_dim": 128, "heads": None, "kv_heads": None, "threads": 0, "batch": 1, "context": None,
        "kernel": "",
    }, _cpu_decode, load_host),
    "all_reduce": Family({"ranks": None, "bytes": None}, _all_reduce),
}
