"""From a space to the deployments worth simulating, the most promising first: feasibility, screen, selection.

Everything is columns until the few thousand best are known; only those become deployments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.diffusion import denoises
from simserve.errors import Infeasible, SpecError
from simserve.explore import columns
from simserve.explore.columns import Ints, Rows
from simserve.explore.feasible import Rejected, check, nothing_fits
from simserve.explore.screen import EngineCurves, Floats, Screen, curves_of, estimate_rows, merits, places
from simserve.explore.space import DISAGGREGATED, POOLS, SearchSpace, too_many_gpus, uses_host
from simserve.explore.staged_candidates import StagedPart, staged_parts
from simserve.explore.staged_space import StagedSpace

if TYPE_CHECKING:
    from simserve.explore.load import Load
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec

KEPT = 2048  # of the whole space, for simulation to choose from
_KEPT_OF_A_PART = 16  # times that, before the parts of a space are put together
_PAIRS_AT_ONCE = 1 << 20
_TTFT_ROOM, _TPOT_ROOM = 1.6, 1.15  # a high percentile over the mean that the screen estimates [guessed]


@dataclass(frozen=True)
class Candidates:
    """deployments: the promising part, the best first, with their `screen` and a number for each hardware layout;
    configurations: how many are possible in all."""

    deployments: list[DeploymentSpec]
    configurations: int
    rejected: list[Rejected]
    screen: Screen
    layouts: Ints


@dataclass(frozen=True)
class _Part:
    """Screened configurations of one or two pools: (row,) or (prefill row, decode row) of each, in `rows`."""

    pools: tuple[Rows, ...]
    rows: tuple[Ints, ...]
    screen: Screen

    def __len__(self) -> int:
        return len(self.rows[0])

    def select(self, index: Ints) -> _Part:
        return _Part(self.pools, tuple(r[index] for r in self.rows), self.screen.select(index))

    def layouts(self, known: dict[tuple[object, ...], int]) -> Ints:
        """A number for each hardware layout; `known` numbers the engines' own."""
        code = np.zeros(len(self), dtype=np.int64)
        for pool, rows in zip(self.pools, self.rows, strict=True):
            own = [known.setdefault(_layout(e), len(known) + 1) for e in pool.engines]
            code = (code << 13) + np.array(own, dtype=np.int64)[pool.variant[rows]]
            code = (code << 13) + pool.replicas[rows]
        return code

    def deployment(self, index: int) -> DeploymentSpec:
        engines = [pool.deployment(int(rows[index])) for pool, rows in zip(self.pools, self.rows, strict=True)]
        if len(engines) == 1:
            return engines[0]
        return self.pools[0].space.disaggregated(list(zip(POOLS, engines, strict=True)))


def _layout(engine: DeploymentSpec) -> tuple[object, ...]:
    """GPU, split and format, the scheduler of a diffusion model, and the strategy of one that keeps KV on a host."""
    own = (engine.gpu, engine.split, engine.dtype, *([engine.scheduler] if denoises(engine.scheduler) else []))
    if engine.hybrid is None or not uses_host(engine.scheduler):
        return own
    return (*own, engine.scheduler, engine.hybrid.kv_gib)


def candidates(
    space: SearchSpace, model: ModelSpec, load: Load, slo: SloSpec | None, *, objective: str = "throughput",
    most: int = KEPT,
) -> Candidates:  # fmt: skip
    """The `most` most promising deployments of a space.

    Raises SpecError where max_gpus leaves nothing and for pools of a diffusion model, Infeasible with the commonest
    reason where nothing can exist.
    """
    if model.diffusion and (DISAGGREGATED in space.modes or isinstance(space, StagedSpace)):
        raise SpecError(f"{model.name} is a diffusion model: it is served by one pool", key="search.space.mode",
                        value=DISAGGREGATED)  # fmt: skip
    parts: list[_Part | StagedPart] = []
    rejected: list[Rejected] = []
    possible = 0
    for part, count in _screened(space, model, load, rejected):
        parts.append(_best(part, slo, objective, _KEPT_OF_A_PART * most))
        possible += count
    if not possible:
        raise Infeasible(nothing_fits(rejected)) if rejected else too_many_gpus(space.max_gpus)
    known: dict[tuple[object, ...], int] = {}
    layouts = np.concatenate([part.layouts(known) for part in parts])
    screen = Screen(*(np.concatenate(c) for c in zip(*(part.screen.columns for part in parts), strict=True)))
    starts = np.cumsum([0, *(len(part) for part in parts)])
    best = _promising(screen, layouts, slo, objective)[:most]
    owners = np.searchsorted(starts, best, side="right") - 1
    found = [parts[o].deployment(int(i - starts[o])) for o, i in zip(owners.tolist(), best.tolist(), strict=True)]
    return Candidates(found, possible, rejected, screen.select(best), layouts[best])


def _promising(screen: Screen, layouts: Ints, slo: SloSpec | None, objective: str) -> Ints:
    """Indices, the most promising first: in turn one that keeps the SLO with room for the difference between mean and
    percentile, and one of those that only may."""
    may = places(screen, layouts, slo, objective)
    if slo is None:
        return may
    ttft_ms, tpot_ms = screen.ttft_ms * _TTFT_ROOM, screen.tpot_ms * _TPOT_ROOM
    e2e_ms = ttft_ms + (screen.e2e_ms - screen.ttft_ms) * _TPOT_ROOM
    wary = replace(screen, ttft_ms=ttft_ms, tpot_ms=tpot_ms, e2e_ms=e2e_ms)
    both = np.stack([places(wary, layouts, slo, objective, 0.0), may], axis=1).ravel()
    _, first = np.unique(both, return_index=True)
    return np.asarray(both[np.sort(first)], dtype=np.int64)


def _screened(
    space: SearchSpace, model: ModelSpec, load: Load, rejected: list[Rejected]
) -> Iterator[tuple[_Part | StagedPart, int]]:
    """(a part of the space, how many configurations it has)."""
    if isinstance(space, StagedSpace):
        yield from staged_parts(space, model, load, rejected)
        return
    whole = columns.aggregated(space)
    if whole is not None:
        rows, curves = _possible(whole, model, load, rejected, None)
        if len(rows):
            busy, tpot_ms, ttft_ms, per_gpu = estimate_rows(curves, rows, load)
            gpus = rows.gpus.astype(np.float64)
            screen = Screen(busy, tpot_ms, ttft_ms, per_gpu, gpus, _usd_per_hour(rows), _e2e(ttft_ms, tpot_ms, load))
            yield _Part((rows,), (np.arange(len(rows)),), screen), len(rows)
    for prefill, decode in columns.pairs(space):
        first, first_curves = _possible(prefill, model, load, rejected, (space.max_gpus, decode))
        second, second_curves = _possible(decode, model, load, rejected, (space.max_gpus, first))
        if len(first) and len(second):
            yield from _pairs(first, first_curves, second, second_curves, model, load)


def _possible(
    rows: Rows, model: ModelSpec, load: Load, rejected: list[Rejected], beside: tuple[int | None, Rows] | None
) -> tuple[Rows, EngineCurves]:
    """The rows whose engines can exist; of the others each engine is noted with the configurations that it spoils."""
    used, place = np.unique(rows.variant, return_inverse=True)
    blocks, kept = [], np.zeros(len(rows.engines), dtype=np.bool_)
    spoilt = _partners(rows, beside)
    for index in used.tolist():
        try:
            blocks.append(check(model, rows.engines[index], longest_tokens=load.longest_tokens))
            kept[index] = True
        except Infeasible as error:
            count = int(spoilt[place == np.searchsorted(used, index)].sum())
            if count:
                rejected.append(Rejected(rows.engines[index], str(error), count))
    engines = [rows.engines[index] for index in np.flatnonzero(kept)]
    renumbered = np.cumsum(kept) - 1
    left = rows.select(kept[rows.variant])
    left = Rows(left.space, left.prefix, engines, left.routers, renumbered[left.variant], left.replicas, left.router)
    return left, curves_of(model, engines, blocks, load, rows.space.limits)


def _partners(rows: Rows, beside: tuple[int | None, Rows] | None) -> Ints:
    """In how many configurations each row is."""
    if beside is None:
        return np.ones(len(rows), dtype=np.int64)
    most, other = beside
    room = np.full(len(rows), len(other)) if most is None else np.searchsorted(np.sort(other.gpus), most - rows.gpus,
                                                                               side="right")  # fmt: skip
    return np.asarray(room, dtype=np.int64)


def _pairs(
    prefill: Rows, prefill_curves: EngineCurves, decode: Rows, decode_curves: EngineCurves, model: ModelSpec,
    load: Load,
) -> Iterator[tuple[_Part, int]]:  # fmt: skip
    """Every prefill row with every decode row that leaves both within max_gpus, in pieces."""
    most = prefill.space.max_gpus
    first = estimate_rows(prefill_curves, prefill, load, "prefill")
    second = estimate_rows(decode_curves, decode, load, "decode")
    hand_over = _HandOver(prefill, decode, model, load)
    usd = [_usd_per_hour(rows) for rows in (prefill, decode)]
    tokens = load.prompt_tokens + load.output_tokens
    chunk = max(1, _PAIRS_AT_ONCE // len(decode))
    for start in range(0, len(prefill), chunk):
        some = np.arange(start, min(start + chunk, len(prefill)))
        gpus = prefill.gpus[some, None] + decode.gpus[None, :]
        fits = np.ones(gpus.shape, dtype=np.bool_) if most is None else gpus <= most
        i, j = np.nonzero(fits)
        if not len(i):
            continue
        p, both = some[i], gpus[i, j]
        served = np.minimum(first[2, p], second[2, j])
        ttft_ms = first[1, p]
        tpot_ms = second[1, j] + hand_over.seconds(p, j, both) * 1e3 / max(1.0, load.output_tokens - 1)
        screen = Screen(
            np.maximum(first[0, p], second[0, j]), tpot_ms, ttft_ms, served * tokens / both, both.astype(np.float64),
            usd[0][p] + usd[1][j], _e2e(ttft_ms, tpot_ms, load),
        )  # fmt: skip
        yield _Part((prefill, decode), (p, j), screen), len(i)


def _e2e(ttft_ms: Floats, tpot_ms: Floats, load: Load) -> Floats:
    """Of the mean output."""
    return ttft_ms + tpot_ms * max(0.0, load.output_tokens - 1)


def _usd_per_hour(rows: Rows) -> Floats:
    """Of all GPUs of each row."""
    from simserve.spec.hardware import load_gpu

    prices = np.array([load_gpu(engine.gpu).price_usd_per_hour for engine in rows.engines])
    return np.asarray(prices[rows.variant] * rows.gpus, dtype=np.float64)


def _best(
    part: _Part | StagedPart, slo: SloSpec | None, objective: str, most: int
) -> _Part | StagedPart:  # fmt: skip
    """The most promising of a part, where it is too large to keep whole; in the order that they had."""
    if len(part) <= most:
        return part
    promising, merit, _ = merits(part.screen, slo, objective)
    worst = np.abs(merit).max() + 1.0
    index = np.argpartition(np.where(promising, merit - worst, merit), most)[:most]
    return part.select(np.sort(index))


class _HandOver:
    """How long the mean prompt's KV takes from a prefill to a decode instance, as `simserve.run` links them."""

    def __init__(self, prefill: Rows, decode: Rows, model: ModelSpec, load: Load) -> None:
        from simserve.arch.memory import kv_bytes_per_token

        engine = prefill.engines[0]
        self._bytes = load.prompt_tokens * kv_bytes_per_token(model, engine.kv_cache_dtype, 1)
        self._rows = (prefill, decode)
        self._widths = [_per_engine(r.engines, "tensor_parallel_size") for r in self._rows]
        names = sorted({e.gpu for rows in self._rows for e in rows.engines})
        self._gpus = [np.array([names.index(e.gpu) for e in rows.engines]) for rows in self._rows]
        self._near, self._far, self._node = _links(names, prefill.space.base.kv_link)

    def seconds(self, p: Ints, j: Ints, gpus: Ints) -> Floats:
        """For pairs of rows with so many GPUs in all."""
        variants = [rows.variant[index] for rows, index in zip(self._rows, (p, j), strict=True)]
        width = np.minimum(*(widths[v] for widths, v in zip(self._widths, variants, strict=True)))
        one, other = (own[v] for own, v in zip(self._gpus, variants, strict=True))
        near = (one == other) & (gpus <= self._node[one])
        rate, latency = (np.where(near, self._near[k][one], self._far[k][one, other]) for k in (0, 1))
        return np.asarray(self._bytes / (width * rate) + latency, dtype=np.float64)


def _per_engine(engines: Sequence[DeploymentSpec], name: str) -> NDArray[np.int64]:
    return np.array([getattr(engine, name) for engine in engines], dtype=np.int64)


def _links(names: list[str], asked: str | None) -> tuple[Floats, Floats, Ints]:
    """(bytes/s and s of a GPU's own link, of the link between two types, GPUs of a node), by index into `names`."""
    from simserve.pooled import ACROSS_NODES
    from simserve.spec.hardware import LinkSpec, load_gpu, load_link
    from simserve.units import NS_PER_S

    def numbers(link: LinkSpec) -> tuple[float, float]:
        return float(link.payload_bytes_per_s), link.latency_ns / NS_PER_S

    gpus = [load_gpu(name) for name in names]
    near = [numbers(load_link(asked or gpu.interconnect)) for gpu in gpus]
    far = [[numbers(load_link(asked or (a.inter_node_link if a is b else ACROSS_NODES))) for b in gpus] for a in gpus]
    node = np.array([gpu.gpus_per_node for gpu in gpus], dtype=np.int64)
    return np.array(near).T, np.moveaxis(np.array(far), -1, 0), node
