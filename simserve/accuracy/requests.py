"""Measured requests: one run of a server, one row per request, as CSV with the columns of `Request`.

Needed: arrival_s, prompt_tokens, output_tokens, and one of ttft_ms, tpot_ms, e2e_ms. The run is replayed: each request
arrives when it did and is as long as it was [known]. A trace with block ids (`workload/blocks.py`), one request per
row and in the order of the rows, says what the prompts share; without one they share nothing [guessed]. What the file
does not say (GPU, limits, prefix caching) is in the records file.
TTFT and E2E count from arrival; TPOT is (E2E - TTFT) / (output_tokens - 1), 0 for a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simserve.accuracy.judged import Judged
from simserve.accuracy.table import Kind
from simserve.errors import SimserveError, SpecError
from simserve.run import half_width, simulate
from simserve.sim.request import Outcome
from simserve.sim.trace import Columns, Trace
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.units import NS_PER_MS, NS_PER_S
from simserve.workload.requests import RequestSet

Floats = NDArray[np.float64]
TOO_LONG = "needs more tokens than the context or the KV cache has"
METRICS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}


@dataclass(frozen=True, slots=True)
class Request:
    """One measured request; arrival_s: from any zero; None: not measured."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    id: str = ""


NEEDED = ("arrival_s", "prompt_tokens", "output_tokens")
KIND = Kind(Request, NEEDED, NEEDED[1:], tuple(METRICS.values()))


def replayed(rows: Sequence[Request], trace: RequestSet | None = None) -> RequestSet:
    """The run as a workload, in the order of the rows, which must be that of arrival; trace: says what is shared."""
    seconds = np.array([row.arrival_s for row in rows])
    prompt, output = (np.array([getattr(row, name) for row in rows]) for name in NEEDED[1:])
    if trace is not None:
        _check_trace(prompt, trace)
    return RequestSet(
        np.rint((seconds - seconds[0]) * NS_PER_S).astype(np.int64), prompt, output,
        np.zeros(len(rows), dtype=np.int64), None, {}, None if trace is None else trace.content,
    )  # fmt: skip


def _check_trace(prompt: NDArray[np.int64], trace: RequestSet) -> None:
    """SpecError unless the trace is of these requests."""
    file = str(trace.provenance["file"])
    if trace.content is None:
        raise SpecError("has no block ids; use format mooncake or blocks_jsonl", file=file)
    if len(trace) != len(prompt):
        raise SpecError(f"has {len(trace)} requests, the records have {len(prompt)}", file=file)
    other = np.flatnonzero(trace.prompt_tokens != prompt)
    if len(other):
        n = int(other[0])
        problem = f"request {n + 1} has {trace.prompt_tokens[n]} prompt tokens, the records have {prompt[n]}"
        raise SpecError(problem, file=file)


def judge_requests(
    rows: Sequence[Request], model: str, deployment: DeploymentSpec, *, client_side: bool,
    trace: RequestSet | None = None, name: str = "run",
) -> list[Judged]:  # fmt: skip
    """A record per request, and one of the run: means, and the 90th percentile of TTFT."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].arrival_s)
    if trace is not None and order != list(range(len(rows))):
        raise SpecError("with a trace the requests must be in order of arrival", key="arrival_s")
    ordered = [rows[i] for i in order]
    workload = replayed(ordered, trace)
    try:
        run = simulate(load_model(model), deployment, workload, client_side=client_side)
    except SimserveError as error:
        return [replace(record, problem=str(error)) for record in [*_measured(ordered), _whole(ordered, None, name)]]
    times, done = latencies_ms(run.trace.requests), complete(run.trace, workload)
    width = half_width(run)
    found = [
        replace(record, predicted={metric: float(times[metric][i]) for metric in METRICS}, half_width=width)
        if done[i] else replace(record, problem=TOO_LONG)
        for i, record in enumerate(_measured(ordered))
    ]  # fmt: skip
    return [*found, replace(_whole(ordered, times if done.all() else None, name), half_width=width)]


def latencies_ms(requests: Columns) -> dict[str, Floats]:
    """TTFT, TPOT and E2E of each request of a trace, by its number."""
    order = np.argsort(requests["id"])
    arrival, first, last, tokens = (
        requests[c][order] for c in ("arrival_ns", "first_token_ns", "finish_ns", "output_tokens")
    )
    decode = (last - first) / np.maximum(tokens - 1, 1)
    return {"ttft": (first - arrival) / NS_PER_MS, "tpot": decode / NS_PER_MS, "e2e": (last - arrival) / NS_PER_MS}


def complete(trace: Trace, workload: RequestSet) -> NDArray[np.bool_]:
    """Whether each request got all of its tokens: a prompt may be too long, an output cut at max_model_len."""
    requests, order = trace.requests, np.argsort(trace.requests["id"])
    whole = requests["output_tokens"][order] == workload.output_tokens
    return np.asarray(whole & (requests["outcome"][order] == Outcome.FINISHED))


def _measured(rows: Sequence[Request]) -> list[Judged]:
    return [
        Judged(row.id or str(number), {m: v for m, f in METRICS.items() if (v := getattr(row, f)) is not None},
               scenario="requests", listed=False)
        for number, row in enumerate(rows, 1)
    ]  # fmt: skip


def _whole(rows: Sequence[Request], times: dict[str, Floats] | None, name: str) -> Judged:
    """What the run has as a whole, of the metrics that every request has."""
    columns = {m: [v for row in rows if (v := getattr(row, f)) is not None] for m, f in METRICS.items()}
    whole = {m: np.array(values) for m, values in columns.items() if len(values) == len(rows)}
    predicted = {} if times is None else _totals({m: times[m] for m in whole})
    problem = "" if times is not None else "requests of the run are not predicted"
    return Judged(name, _totals(whole), predicted, (), problem=problem)


def _totals(values: dict[str, Floats]) -> dict[str, float]:
    found = {f"{metric} mean": float(v.mean()) for metric, v in values.items()}
    return {**found, **({"ttft p90": float(np.percentile(values["ttft"], 90))} if "ttft" in values else {})}


