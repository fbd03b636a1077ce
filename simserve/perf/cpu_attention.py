"""Decode attention of one layer on a host's CPU: a launch, and KV bytes at an effective bandwidth by threads and batch.

With a table of the host (`perfdb/<host>/cpu_decode_attention`): per measured number of threads the rule of decode
attention on GPUs (`simserve.perf.decode`: piecewise linear in the sum of contexts, monotone cubic of log time in log
batch), between numbers of threads linear in log time over log threads; formats of another width go with the bytes.
Without one: `perfdb/cpu_attention.yaml`, whose constants say what is published, derived and guessed; such prices are
transferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData, SpecError, UnknownName, nearest_name
from simserve.paths import find_data
from simserve.perf import store
from simserve.perf.decode import EXPONENTS, DecodeTable, decode_table
from simserve.perf.priced import Priced, Source, worst
from simserve.perf.roofline import NS, Floats, element_bytes, kv_bytes
from simserve.perf.shapes import nearest
from simserve.spec.hardware import HostSpec

FAMILY = "cpu_decode_attention"
REFERENCE = "llamafile"  # the kernel whose bandwidth a study may give


@dataclass(frozen=True)
class CpuKernel:
    """A published CPU kernel; see perfdb/cpu_attention.yaml."""

    launch_ns: int
    core_bytes_per_s: int
    share: float
    batch_half: float
    half_width: float
    source: str

    def rate_bytes_per_s(self, host: HostSpec, threads: int, batch: int, large_batch_bytes_per_s: float = 0.0) -> float:
        """Effective bandwidth of `threads` threads over a batch; or of a given one that large batches reach."""
        cores = min(threads, host.cores) * self.core_bytes_per_s
        most = large_batch_bytes_per_s or min(cores, self.share * host.memory_bandwidth_bytes_per_s)
        return most * batch / (batch + self.batch_half)


@dataclass(frozen=True)
class CpuAttention:
    """One layer's shape on one host, compiled: ns[b, j] at batch b and sum of contexts 2^j."""

    table: DecodeTable
    name: str

    def time_ns(self, batch: int, context_sum: int) -> float:
        """Time of `batch` requests with `context_sum` cached tokens in all."""
        return self.table.time_ns(batch, context_sum)

    def price(self, batch: int, context_sum: int) -> Priced:
        """The same, with its source."""
        source = self.table.source_at(batch, context_sum)
        return Priced(self.time_ns(batch, context_sum), source, self.name, self.table.note)


def cpu_attention(
    host: HostSpec,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    threads: int = 0,
    dtype: str = "bf16",
    kernel: str = "",
    max_batch: int = 256,
    bytes_per_s: float = 0.0,
) -> CpuAttention:
    """Decode attention of one layer; threads: 0 = all cores; dtype: of the KV; kernel: '' = the host's table.

    bytes_per_s: what large batches reach under REFERENCE on this host, 0 for what the kernel's entry says; other
    kernels keep their ratio to it, and each its curve over the batch.
    MissingData if there is no table and no kernel is named; UnknownName for a kernel that nobody described.
    """
    threads = threads or host.cores
    if kernel:
        token_bytes = kv_bytes(1, kv_heads, head_dim, 1) * element_bytes(dtype)
        return _published(host, kernel, token_bytes, threads, max_batch, bytes_per_s)
    if not store.has_table(host.name, FAMILY):
        known = ", ".join(sorted(kernels()))
        raise MissingData(f"no {FAMILY} table for {host.name}; name a kernel ({known}) or collect one with "
                          f"`simserve perfdb collect cpu-attention`")  # fmt: skip
    return _measured(host, heads, kv_heads, head_dim, threads, dtype, max_batch)


@lru_cache(maxsize=1)
def kernels() -> dict[str, CpuKernel]:
    """Name -> published kernel; SpecError for an entry that is not as described."""
    import yaml

    path = find_data("perfdb", "cpu_attention")
    data: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    wanted = CpuKernel.__dataclass_fields__
    for name, entry in data.items():
        for key in {*entry} ^ {*wanted}:
            problem = "is missing" if key in wanted else "unknown key"
            raise SpecError(problem, file=str(path), key=f"{name}.{key}", nearest=nearest_name(key, wanted))
    return {name: CpuKernel(**entry) for name, entry in data.items()}


def _published(
    host: HostSpec, kernel: str, token_bytes: float, threads: int, max_batch: int, bytes_per_s: float
) -> CpuAttention:  # fmt: skip
    if kernel not in kernels():
        raise UnknownName("CPU kernel", kernel, kernels())
    known = kernels()[kernel]
    most = bytes_per_s * known.share / kernels()[REFERENCE].share
    sums = 2.0 ** np.arange(EXPONENTS)
    ns = np.array([
        known.launch_ns + token_bytes * sums / known.rate_bytes_per_s(host, threads, max(batch, 1), most) * NS
        for batch in range(max_batch + 1)
    ])  # fmt: skip
    rate = f"{bytes_per_s / 1e9:g} GB/s for {REFERENCE}" if bytes_per_s else f"{threads} threads"
    table = DecodeTable(ns, "transferred", f"kernel {kernel}, {rate}", frozenset(), EXPONENTS)
    return CpuAttention(table, f"{host.name}/{FAMILY}")


def _measured(
    host: HostSpec, heads: int, kv_heads: int, head_dim: int, threads: int, dtype: str, max_batch: int
) -> CpuAttention:
    columns = store.read_table(host.name, FAMILY)
    shapes = [columns[name].astype(np.int64).tolist() for name in ("heads", "kv_heads", "head_dim")]
    match = nearest(heads, kv_heads, head_dim, set(zip(*shapes, strict=True)))
    keep = np.ones(len(columns["latency_ns"]), dtype=np.bool_)
    for name, value in (("heads", match.heads), ("kv_heads", match.kv_heads), ("head_dim", match.head_dim)):
        keep &= columns[name] == value
    rows_dtype = str(columns["dtype"][0])
    size = kv_bytes(1, match.kv_heads, match.head_dim, 1) * element_bytes(rows_dtype)
    have = np.unique(columns["threads"][keep].astype(np.int64))
    around, source = _around(threads, have)
    log_ns: Floats = np.zeros(1)
    measured: frozenset[int] = frozenset()
    hull = 0
    for count, weight in around:
        rows = keep & (columns["threads"] == count)
        part = [columns[name][rows].astype(np.float64) for name in ("batch", "context", "latency_ns")]
        table = decode_table(host, host, (part[0], part[1], part[2]), size, match, max_batch)
        log_ns, measured, hull = log_ns + weight * np.log(table.ns), table.measured_batch, table.hull
    note = match.note
    width = element_bytes(dtype) / element_bytes(rows_dtype)
    if width != 1:
        source, note = worst(source, "modelled"), f"{rows_dtype} rows, by bytes; {note}".rstrip("; ")
    table = DecodeTable(np.exp(log_ns) * width, worst(source, match.source), note, measured, hull)
    return CpuAttention(table, f"{host.name}/{FAMILY}")


def _around(threads: int, have: NDArray[np.int64]) -> tuple[list[tuple[int, float]], Source]:
    """Measured numbers of threads around `threads` with weights in log; beyond the last one it stays."""
    if threads in have:
        return [(threads, 1.0)], "measured"
    high = int(np.searchsorted(have, threads))
    if high in (0, len(have)):
        return [(int(have[min(high, len(have) - 1)]), 1.0)], "modelled"
    low_count, high_count = int(have[high - 1]), int(have[high])
    weight = float(np.log(threads / low_count) / np.log(high_count / low_count))
    return [(low_count, 1 - weight), (high_count, weight)], "interpolated"
