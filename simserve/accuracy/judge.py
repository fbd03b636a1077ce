"""Points played in the simulator as they were measured, and how far off the predictions are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.accuracy.points import Point
from simserve.errors import SimserveError, SpecError
from simserve.perf.host import EngineProfile, is_older
from simserve.run import RunResult, half_width, run_residuals, simulate
from simserve.sim.plan import knobs
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.systems import SCHEDULERS
from simserve.units import NS_PER_MS, NS_PER_S
from simserve.workload.requests import RequestSet

Floats = NDArray[np.float64]
ASYNC_SINCE = {"vllm": "0.14", "sglang": "0", "trtllm": "0"}  # by scheduler, the version whose default it became
BANDS = ((1, 8), (9, 32), (33, 128), (129, 1 << 30))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A point and its prediction; problem: why there is none.

    half_width: of the 90 % interval of step times; within: {metric: f}, where 90 % of measurements lie between the
    prediction over f and times f, by the residuals of the calibration or the half-width: `perf.uncertainty`.
    """

    point: Point
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    tokens_per_s_per_gpu: float | None = None
    half_width: float | None = None
    e2e_ms: float | None = None
    within: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one metric over some points: relative, in size but for the signed median."""

    metric: str
    points: int
    median: float
    mape: float
    p90: float
    signed_median: float
    spearman: float | None


def predict(
    point: Point, seed: int = 0, *, calibrated: bool = True, profile: EngineProfile | None = None
) -> Verdict:
    """Play one point; a deployment that cannot be is a verdict with a problem, never an error.

    calibrated: with the constants of the engine profiles that were fitted to such points; profile: instead of them.
    """
    if point.obstacle:
        return Verdict(point, problem=point.obstacle)
    try:
        run = _run(point, seed, calibrated, profile)
    except SimserveError as error:
        return Verdict(point, problem=str(error))
    ttft, tpot, e2e, rate = _means(run)
    width = half_width(run)
    # As the measured rate is come by: without the ends of the run, when not all clients are at it.
    rate = implied_rate(point, ttft, tpot) or rate
    return Verdict(point, ttft, tpot, rate, width, e2e, _within(run, width))


def _within(run: RunResult, width: float) -> dict[str, float]:
    """The factor of each metric; throughput and E2E go as TPOT does, which is most of them."""
    known = run_residuals(run, width)
    ttft, tpot = (known[metric].factor if metric in known else 1 + width for metric in ("ttft", "tpot"))
    return {"ttft": ttft, "tpot": tpot, "e2e": tpot, "throughput": tpot}


def play(point: Point, seed: int = 0, *, profile: EngineProfile | None = None) -> tuple[float, float, float] | None:
    """Mean TTFT, TPOT and E2E in ms as `predict` has them, without what they rest on; None for what cannot be."""
    try:
        return None if point.obstacle else _means(_run(point, seed, True, profile))[:3]
    except SimserveError:
        return None


def _run(point: Point, seed: int, calibrated: bool, profile: EngineProfile | None) -> RunResult:
    deployment = deployment_of(point, calibrated=calibrated)
    return simulate(
        load_model(point.model), deployment, requests_of(point, seed), client_side=True, profile=profile
    )  # fmt: skip


def _means(run: RunResult) -> tuple[float, float, float, float]:
    """TTFT, TPOT and E2E in ms over the requests; output tokens per second and GPU."""
    requests = run.trace.requests
    first, last = requests["first_token_ns"], requests["finish_ns"]
    ttft = (first - requests["arrival_ns"]) / NS_PER_MS
    tpot = (last - first) / NS_PER_MS / np.maximum(requests["output_tokens"] - 1, 1)
    e2e = (last - requests["arrival_ns"]) / NS_PER_MS
    rate = float(requests["output_tokens"].sum()) / (run.trace.end_ns / NS_PER_S) / run.num_gpus
    return float(ttft.mean()), float(tpot.mean()), float(e2e.mean()), rate


def deployment_of(point: Point, *, calibrated: bool = True) -> DeploymentSpec:
    """The engine that the point was measured on."""
    scheduler = point.framework if point.framework in SCHEDULERS.names() else "vllm"
    values = {
        "gpu": point.gpu, "replicas": point.replicas, "tensor_parallel_size": point.tensor_parallel_size,
        "dtype": point.dtype, "scheduler": scheduler, "engine": point.engine or None,
        "engine_version": point.version, "calibrated": calibrated,
        "data_parallel_size": point.data_parallel_size,
        "moe_tensor_parallel_size": point.moe_tensor_parallel_size or None,
        "moe_dtype": point.moe_dtype or None, "enable_expert_parallel": point.enable_expert_parallel,
        "kv_cache_dtype": point.kv_cache_dtype, "max_num_batched_tokens": point.max_num_batched_tokens,
        "max_num_seqs": point.max_num_seqs or max(256, point.concurrency),
        "scheduler_options": _declared(scheduler, point) | options_of(point),
        "num_speculative_tokens": point.num_speculative_tokens, "acceptance_rate": point.acceptance_rate,
        "enable_prefix_caching": point.distinct_prompts > 0,
    }  # fmt: skip
    values["async_scheduling"] = scheduler in ASYNC_SINCE and not is_older(point.version, ASYNC_SINCE[scheduler])
    if point.prefill_replicas:
        values |= _pools(point)
    values["gpu_memory_utilization"] = point.gpu_memory_utilization or None
    return parse(DeploymentSpec, values, file=point.id or "point")


def _pools(point: Point) -> dict[str, Any]:
    """Servers for prompts, of their own sizes, and for decoding, of the point's."""
    prefill = {
        "replicas": point.prefill_replicas, "tensor_parallel_size": point.prefill_tensor_parallel_size,
        "data_parallel_size": point.prefill_data_parallel_size,
        "enable_expert_parallel": point.prefill_enable_expert_parallel,
    }  # fmt: skip
    return {"system": "distserve", "pools": {"prefill": prefill, "decode": {}}}


def _declared(scheduler: str, point: Point) -> dict[str, int]:
    """Clients state the length that they ask for; schedulers that plan with it are told."""
    return {"max_new_tokens": point.output_tokens} if "max_new_tokens" in knobs(SCHEDULERS.get(scheduler)) else {}


def options_of(point: Point) -> dict[str, bool | int | float | str]:
    """The knobs of `scheduler_options`; SpecError for what is no name=value."""
    found: dict[str, bool | int | float | str] = {}
    for part in filter(None, (text.strip() for text in point.scheduler_options.split(";"))):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise SpecError("must be name=value pairs, parted by ;", key="scheduler_options", value=part)
        found[name] = _scalar(text)
    return found


def _scalar(text: str) -> bool | int | float | str:
    """true and false, whole numbers, other numbers, text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def requests_of(point: Point, seed: int = 0) -> RequestSet:
    """The requests of the closed loop, or of Poisson arrivals at a rate; equal points get equal ones.

    Lengths are evenly spread over their range, in random order: of a few random ones the mean would be an accident,
    which no measurement shares (TTFT of two seeds differs by 0.6 instead of 1.2 %).
    """
    count = point.requests or 10 * point.concurrency
    prompts = min(count, point.distinct_prompts) or count
    draw = np.random.default_rng(seed)

    def lengths(most: int, number: int) -> NDArray[np.int64]:
        least = max(1, int(point.least_share * most))
        shares = (np.arange(number) + 0.5) / number
        return draw.permutation((least + shares * (most + 1 - least)).astype(np.int64))

    prompt, output = lengths(point.prompt_tokens, prompts), lengths(point.output_tokens, count)
    start = np.zeros(count, dtype=np.int64)
    content = None
    if point.distinct_prompts:
        which = np.arange(count) % prompts
        prompt = prompt[which]
        content = [((number, tokens),) for number, tokens in zip(which.tolist(), prompt.tolist(), strict=True)]
    if point.rate_rps:
        arrival = np.cumsum(draw.exponential(NS_PER_S / point.rate_rps, count)).astype(np.int64)
        return RequestSet(arrival, prompt, output, start, None, {}, content)
    return RequestSet(start, prompt, output, start, point.concurrency, {}, content)


def measured_rate(point: Point) -> float | None:
    """Output tokens per second and GPU that the measured latencies imply; None without both or at a given rate."""
    return implied_rate(point, point.ttft_ms, point.tpot_ms)


def implied_rate(point: Point, ttft_ms: float | None, tpot_ms: float | None) -> float | None:
    """Output tokens per second and GPU of a closed loop by Little's law; None without both or at a given rate."""
    if ttft_ms is None or tpot_ms is None or point.rate_rps:
        return None
    mean = (1 + point.least_share) / 2 * point.output_tokens
    seconds = (ttft_ms + tpot_ms * (mean - 1)) / 1000
    return point.concurrency * mean / seconds / point.num_gpus


METRICS: dict[str, tuple[Callable[[Verdict], float | None], Callable[[Point], float | None]]] = {
    "ttft": (lambda v: v.ttft_ms, lambda p: p.ttft_ms),
    "tpot": (lambda v: v.tpot_ms, lambda p: p.tpot_ms),
    "e2e": (lambda v: v.e2e_ms, lambda p: p.e2e_ms),
    "throughput": (lambda v: v.tokens_per_s_per_gpu, measured_rate),
}


def compared(verdict: Verdict) -> dict[str, tuple[float, float]]:
    """{metric: (predicted, measured)} of the metrics that have both; none for a point with a problem."""
    found = {}
    for metric, (predicted, measured) in METRICS.items() if not verdict.problem else ():
        ours, theirs = predicted(verdict), measured(verdict.point)
        if ours is not None and theirs:
            found[metric] = (ours, theirs)
    return found


def scores(verdicts: Iterable[Verdict]) -> list[Score]:
    """One score per metric over the points that were predicted and measured."""
    pairs = [(verdict.point.scenario, compared(verdict)) for verdict in verdicts]
    found = []
    for metric in METRICS:
        whole = [(scenario, *both[metric]) for scenario, both in pairs if metric in both]
        if whole:
            found.append(score(metric, whole))
    return found


def coverage(verdicts: Iterable[Verdict]) -> dict[str, tuple[int, float]]:
    """{metric: (points, share)} of the measurements within the 90 % interval of their prediction."""
    inside: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for metric, (predicted, measured) in compared(verdict).items():
            if metric in verdict.within:
                factor = verdict.within[metric]
                inside.setdefault(metric, []).append(predicted / factor <= measured <= predicted * factor)
    return {metric: (len(hits), sum(hits) / len(hits)) for metric, hits in inside.items()}


def score(metric: str, rows: Sequence[tuple[Hashable, float, float]]) -> Score:
    """The score of (scenario, predicted, measured) rows."""
    error = np.array([predicted / measured - 1 for _, predicted, measured in rows])
    size = np.abs(error)
    return Score(
        metric, len(rows), float(np.median(size)), float(size.mean()), float(np.quantile(size, 0.9)),
        float(np.median(error)), _spearman(rows),
    )  # fmt: skip


def _spearman(rows: Sequence[tuple[Hashable, float, float]]) -> float | None:
    """Mean rank correlation within scenarios of at least four points, weighted by their number."""
    by_scenario: dict[Hashable, list[tuple[float, float]]] = {}
    for scenario, predicted, measured in rows:
        by_scenario.setdefault(scenario, []).append((predicted, measured))
    total = weight = 0.0
    for pairs in by_scenario.values():
        if len(pairs) >= 4:
            x, y = (_ranks(np.array(values)) for values in zip(*pairs, strict=True))
            spread = sqrt(float(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()))
            if spread:
                total += len(pairs) * float(((x - x.mean()) * (y - y.mean())).sum()) / spread
                weight += len(pairs)
    return total / weight if weight else None


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, equal values sharing their mean rank."""
    _, back, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[back], dtype=np.float64)


def band(point: Point) -> str:
    """The concurrency band of a point: '9-32'."""
    for low, high in BANDS:
        if low <= point.concurrency <= high:
            return f"{low}-{high}" if high < BANDS[-1][1] else f"{low}+"
    raise SpecError("must be at least 1", key="concurrency", value=point.concurrency)


def model_class(point: Point) -> str:
    """What kind of decoder: 'dense', 'MoE', 'MoE, MLA', 'MoE, sliding window'; 'not described' without a model file."""
    try:
        model = load_model(point.model)
    except SimserveError:
        return "not described"
    kinds = {"sparse MLA": model.sparse, "MLA": None if model.sparse else model.latent, "delta nets": model.linear,
             "sliding window": model.sliding_window}  # fmt: skip
    return ", ".join(["MoE" if model.experts is not None else "dense", *(k for k, part in kinds.items() if part)])


REGIMES: dict[str, Callable[[Point], str]] = {
    "mode": lambda p: p.mode,
    "framework": lambda p: p.framework,
    "gpu": lambda p: p.gpu,
    "model class": model_class,
    "model": lambda p: p.model,
    "concurrency": band,
}


def by_regime(verdicts: Sequence[Verdict]) -> list[tuple[str, str, Score]]:
    """(regime, value, score): all points, then by framework, GPU, class of model, model and concurrency band."""
    rows = [("all", "", score) for score in scores(verdicts)]
    for regime, of in REGIMES.items():
        groups: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            groups.setdefault(of(verdict.point), []).append(verdict)
        rows += [(regime, value, score) for value in sorted(groups) for score in scores(groups[value])]
    return rows
