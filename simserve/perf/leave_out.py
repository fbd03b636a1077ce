"""How wrong interpolation is: measured rows are taken out and predicted from the rest by the rule of prices.

Two figures per family, both over every row that has neighbours on both sides, none of which is fitted on:
- leave one out: a single row goes; it is predicted along the axis on which the table is finest;
- leave block out: a slab goes, all rows at one value of a key (a prompt length, a batch size, a width n, a split of the
  experts), or for curves of one key two rows in a row; it is predicted from the slabs on either side.
The gap is twice what a query inside the table meets, so both are on the careful side. For experts a third figure,
leave model out: a whole model goes and is priced as one that nobody measured. `against SOURCE`: no row goes, and prices
are held against what somebody else measured on the device.
Error = predicted / measured - 1. Rows that were dropped as impossible or cached are no truth and do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simserve.errors import UnknownName
from simserve.perf import second_source, store
from simserve.perf.curves import monotone
from simserve.perf.decode import token_bytes_of, without_batch
from simserve.perf.moe import MoeShape, MoeTable
from simserve.perf.relatives import gemm_table
from simserve.perf.roofline import Floats
from simserve.perf.scattered import ScatteredGemms
from simserve.perf.store import Columns
from simserve.spec.hardware import GpuSpec, load_gpu

ON_HOSTS = "cpu_decode_attention"
ONE, BLOCK, MODEL = "leave_one_out", "leave_block_out", "leave_model_out"
# Highest median of the absolute leave-block-out error that counts as good, per family.
BARS = {
    "gemm": 0.05,
    "prefill_attention": 0.04,
    "decode_attention": 0.04,
    "all_reduce": 0.10,
    "collective": 0.10,
    "moe": 0.10,
    "moe_exchange": 0.10,
}


@dataclass(frozen=True, slots=True)
class Error:
    """Relative errors of one kind: median and 90th percentile of their size, signed median, how many, of what."""

    median: float
    p90: float
    signed_median: float
    points: int
    left_out: str


@dataclass(frozen=True, slots=True)
class Validation:
    """One line of `validate`: errors of one kind; bar: highest good median, None where there is none."""

    device: str
    family: str
    kind: str
    error: Error
    bar: float | None

    @property
    def good(self) -> bool:
        """Whether the median keeps its bar, if it has one."""
        return self.bar is None or self.error.median <= self.bar


@dataclass(frozen=True, slots=True)
class Line:
    """Rows along `axis` at equal `keys`, of which runs of `block` rows go; interpolated in logarithms."""

    keys: tuple[str, ...]
    axis: str
    what: str
    block: int = 1
    straight: bool = False


def _attention(*keys: str) -> tuple[list[Line], list[Line]]:
    """Prompts: along the length, and slabs of length and of batch size."""
    along = Line((*keys, "batch"), "tokens", "one prompt length at all batch sizes")
    return [along], [along, Line((*keys, "tokens"), "batch", "one batch size at all lengths")]


def _decoding(*keys: str) -> tuple[list[Line], list[Line]]:
    """Decode: along the context, and slabs of batch size at equal sum of contexts."""
    one = Line((*keys, "batch"), "context", "one context")
    return [one], [Line((*keys, "sum"), "batch", "one batch size from those around it, at equal sum of contexts")]


_SIZES = "two sizes in a row, a gap of eight times"
_HEADS = ("part", "dtype", "kv_dtype", "heads")
_KV = ("kv_dtype", "head_dim", "heads", "kv_heads", "window")
_BLOCK, _NET = ("hidden", "dtype", "kv_dtype", "heads"), ("op", "k_heads", "v_heads")
_CPU = ("dtype", "head_dim", "heads", "kv_heads", "threads")
_EXCHANGE = ("op", "method", "ranks")
_MODEL_KEYS = ("dtype", "hidden", "inter", "experts", "topk")
LINES: dict[str, tuple[list[Line], list[Line]]] = {
    "prefill_attention": _attention(*_KV),
    "mla_prefill": _attention(*_HEADS),
    "encoder_attention": _attention("dtype", "head_dim", "heads"),
    "decode_attention": _decoding(*_KV),
    "mla_decode": _decoding(*_HEADS),
    "cpu_decode_attention": (
        [Line((*_CPU, "batch"), "context", "one context")],
        [Line((*_CPU, "context"), "batch", "one batch size at all contexts")],
    ),
    "mla_bmm": (
        [Line(("op", "dtype", "heads"), "tokens", "one number of tokens")],
        [Line(("op", "dtype", "tokens"), "heads", "one number of heads", straight=True)],
    ),
    "dsa_prefill": (
        [Line((*_BLOCK, "past", "batch"), "tokens", "one prompt length")],
        [
            Line((*_BLOCK, "past", "batch"), "tokens", "one prompt length at all batch sizes"),
            Line((*_BLOCK, "past", "tokens"), "batch", "one batch size at all lengths"),
        ],
    ),
    "dsa_decode": _decoding(*_BLOCK),
    "gdn": (
        [Line((*_NET, "batch"), "tokens", "one prompt length")],
        [
            Line((*_NET, "batch"), "tokens", "one prompt length at all batch sizes"),
            Line((*_NET, "tokens"), "batch", "one batch size at all lengths"),
        ],
    ),
    "moe": (
        [Line((*_MODEL_KEYS, "tp", "ep", "distribution"), "tokens", "one number of tokens")],
        [
            Line((*_MODEL_KEYS, "tp", "distribution", "tokens"), "ep", "one width of expert parallelism, all tokens"),
            Line((*_MODEL_KEYS, "ep", "distribution", "tokens"), "tp", "one width of tensor parallelism, all tokens"),
        ],
    ),
    "moe_exchange": (
        [Line((*_EXCHANGE, "hidden", "experts", "topk"), "tokens", "one number of tokens")],
        [Line((*_EXCHANGE, "hidden", "experts", "topk"), "tokens", "two numbers of tokens in a row", block=2)],
    ),
    "elementwise": (
        [Line(("op", "dtype", "width"), "tokens", "one number of tokens")],
        [Line(("op", "dtype", "tokens"), "width", "one width at all tokens")],
    ),
    "all_reduce": (
        [Line(("method", "ranks"), "bytes", "one size", straight=True)],
        [Line(("method", "ranks"), "bytes", _SIZES, block=2, straight=True)],
    ),
    "collective": (
        [Line(("op", "method", "ranks"), "bytes", "one size", straight=True)],
        [Line(("op", "method", "ranks"), "bytes", _SIZES, block=2, straight=True)],
    ),
}


def errors(device: str, family: str) -> dict[str, Error]:
    """kind -> error of a table on disk; {} for a family without a rule, or a table too small for it."""
    return errors_of(family, store.read_table(device, family), None if family == ON_HOSTS else load_gpu(device))


def validate(devices: Sequence[str] = (), families: Sequence[str] = ()) -> list[Validation]:
    """Errors of every table of `devices` and `families` (all if empty), measured now, by device and family.

    UnknownName for a device without tables or a family that does not exist.
    """
    known = store.devices()
    for kind, asked, names in (("device with tables", devices, known), ("table family", families, store.FAMILIES)):
        for name in asked:
            if name not in names:
                raise UnknownName(kind, name, names)
    return [
        Validation(device, family, kind, error, BARS.get(family) if kind == BLOCK else None)
        for device in devices or known
        for family in families or store.FAMILIES
        if (family in LINES or family == "gemm") and store.has_table(device, family)
        for kind, error in (*errors(device, family).items(), *_against_others(device, family))
    ]


def _against_others(device: str, family: str) -> Iterator[tuple[str, Error]]:
    """('against vidur', error) for every second source that measured the family on this device."""
    for source in second_source.others(device):
        error = _summary(second_source.errors(device, source, family), f"rows of {source}, priced from this table")
        if error is not None:
            yield f"against {source}", error


def errors_of(family: str, columns: Columns, gpu: GpuSpec | None) -> dict[str, Error]:
    """kind -> error of the rows of one table of `gpu`; None for tables of a host."""
    found: dict[str, Error | None] = {}
    if family == "gemm" and gpu is not None:
        one, block = _gemm(columns, gpu)
        found = {
            ONE: _summary(one, "one m of a shape"),
            BLOCK: _summary(block, "one width n, and one depth k, at all others"),
        }
    elif family in LINES:
        for kind, lines in zip((ONE, BLOCK), LINES[family], strict=True):
            parts = [_line(columns, line) for line in lines]
            found[kind] = _summary(np.concatenate(parts), "; ".join(line.what for line in lines))
    if family == "decode_attention" and gpu is not None:
        found[BLOCK] = _summary(_decode_blocks(columns, gpu), "one batch size, from tables compiled without it")
    if family == "moe" and gpu is not None:
        found[MODEL] = _summary(_models(columns, gpu), "one model, priced from the nearest other")
    return {kind: error for kind, error in found.items() if error is not None}


def summary(family: str, columns: Columns, gpu: GpuSpec | None) -> dict[str, Any]:
    """For provenance.json: the block error, and the other kinds inside it."""
    found = errors_of(family, columns, gpu)
    if BLOCK not in found:
        return {}
    others = {kind: asdict(error) for kind, error in found.items() if kind != BLOCK}
    return {**asdict(found[BLOCK]), **others}


def _summary(error: Floats, what: str) -> Error | None:
    error = error[np.isfinite(error)]
    if not len(error):
        return None
    size = np.abs(error)
    return Error(
        median=round(float(np.median(size)), 4),
        p90=round(float(np.quantile(size, 0.9)), 4),
        signed_median=round(float(np.median(error)), 4),
        points=len(error),
        left_out=what,
    )


def _line(columns: Columns, line: Line) -> Floats:
    """Errors along one axis, all groups with the same measured points at once."""
    if "sum" in line.keys:
        columns = {**columns, "sum": columns["batch"].astype(np.int64) * columns["context"].astype(np.int64)}
    group = store.group_ids(columns, line.keys)
    points, at = np.unique(columns[line.axis], return_inverse=True)
    grid = np.full((len(points), int(group.max(initial=-1)) + 1), np.nan)
    grid[at.reshape(-1), group] = np.log(columns["latency_ns"].astype(np.float64))
    patterns, which = np.unique(np.isfinite(grid), axis=1, return_inverse=True)
    which = which.reshape(-1)
    x = np.log(points.astype(np.float64))
    rule: Callable[[Floats, Floats, Floats], Floats] = _straight if line.straight else monotone
    out: list[Floats] = [np.zeros(0)]
    for number in range(patterns.shape[1]):
        have = patterns[:, number]
        out.append(_runs(x[have], grid[have][:, which == number], line.block, rule))
    return np.concatenate(out)


def _runs(x: Floats, y: Floats, block: int, rule: Callable[[Floats, Floats, Floats], Floats]) -> Floats:
    """Errors of every inner run of `block` points when it is missing; y: log ns [points, groups]."""
    out: list[Floats] = [np.zeros(0)]
    for first in range(1, len(x) - block):
        gone = np.arange(first, first + block)
        keep = np.setdiff1d(np.arange(len(x)), gone)
        out.append(np.exp(rule(x[keep], y[keep], x[gone]) - y[gone]).ravel() - 1)
    return np.concatenate(out)


def _straight(x: Floats, y: Floats, at: Floats) -> Floats:
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    weight = ((at - x[i]) / (x[i + 1] - x[i]))[:, None]
    return np.asarray((1 - weight) * y[i] + weight * y[i + 1])


def _gemm(columns: Columns, gpu: GpuSpec) -> tuple[Floats, Floats]:
    """Single m, and slabs of n and of k; truth is what the table believes at measured cells (L2 never granted)."""
    one: list[Floats] = [np.zeros(0)]
    block: list[Floats] = [np.zeros(0)]
    for dtype in sorted({str(d) for d in columns["dtype"]}):
        rows = columns["dtype"].astype(str) == dtype
        table = gemm_table(gpu, gpu, dtype, {name: values[rows] for name, values in columns.items()})
        if isinstance(table, ScatteredGemms):
            for into, errors in zip((one, block), table.left_out(), strict=True):
                into.append(errors)
            continue
        truth = np.where(table.measured, table.log_u, np.nan)
        for axis, grid, into in ((2, table.m_grid, one), (0, table.ns_grid, block), (1, table.ks_grid, block)):
            believed, known = np.moveaxis(table.log_u, axis, 0), np.moveaxis(truth, axis, 0)
            into.append(_utilisations(np.log(grid), believed, known))
    return np.concatenate(one), np.concatenate(block)


def _utilisations(x: Floats, log_u: Floats, truth: Floats) -> Floats:
    """Errors of time at each inner entry along axis 0, log utilisation straight between the entries beside it."""
    if len(x) < 3:
        return np.zeros(0)
    weight = ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2])).reshape(-1, 1, 1)
    guess = (1 - weight) * log_u[:-2] + weight * log_u[2:]
    # Utilisation and time err in opposite directions.
    error = np.exp(truth[1:-1] - guess).ravel() - 1
    return np.asarray(error[np.isfinite(error)])


def _decode_blocks(columns: Columns, gpu: GpuSpec) -> Floats:
    """Every inner batch size of every shape, priced as `decode.without_batch` says, against the rows as measured."""
    out: list[Floats] = [np.zeros(0)]
    for rows in store.groups(columns, _KV):
        batch, context, time = (columns[name][rows].astype(np.float64) for name in ("batch", "context", "latency_ns"))
        head = rows[0]
        kv_heads, dim, window = (int(columns[name][head]) for name in ("kv_heads", "head_dim", "window"))
        size = token_bytes_of(str(columns["kv_dtype"][head]), kv_heads, dim)
        for gone in np.unique(batch)[1:-1]:
            if (batch != gone).sum() >= 4:
                priced, measured = without_batch(gpu, (batch, context, time), size, window, int(gone))
                out.append(priced / measured - 1)
    return np.concatenate(out)


def _models(columns: Columns, gpu: GpuSpec) -> Floats:
    """Every model priced by `MoeTable` from a table without it, at its measured splits without tp and ep at once."""
    out: list[Floats] = [np.zeros(0)]
    for rows in store.groups(columns, ("dtype", "distribution")):
        part = {name: values[rows] for name, values in columns.items()}
        dtype, routing = str(part["dtype"][0]), str(part["distribution"][0])
        whole = MoeTable(gpu, gpu, dtype, routing, part)
        if len(whole.models) < 2:
            continue
        for model in whole.models:
            rest = whole.without(model)
            for (tp, ep), (log_tokens, log_ns) in whole.splits(model).items():
                shape = MoeShape(*model, tp=tp, ep=ep)
                guess = rest.curve(shape, np.exp(log_tokens)).ns
                out.append(guess / np.exp(log_ns) - 1)
    return np.concatenate(out)
