"""Measured load stages: a run of a server under one request rate after another, as CSV with the columns of `Stage`:
a row per stage, in order; a row without a rate is of all stages of its run together.

Needed: run, model, gpu (here or in the records file), prompt_tokens, output_tokens, and one of the measured columns.
What such a file leaves open, and what is simulated:
- the stages of a run follow one another on one server, each when the one before has drained, so that the prefix cache
  stays warm [known of inference-perf]; the pause itself changes nothing, DRAIN_S is longer than any drain;
- a stage sends rate x duration requests [known of inference-perf]. `poisson`: at times drawn evenly from the duration,
  a Poisson process given its number [derived]; inference-perf's load type `constant` is this too: exponential gaps,
  scaled to the duration [known, its load_timer]. `constant`: equal gaps;
- every request has the row's lengths: outputs because the tool ignores the end of a sequence [known of the BLIS runs];
  prompts come out up to 5 % longer after the model's own tokenizer [known of one run; not modelled];
- prompts are those of `prompt_groups` x `prompts_per_group`, each sent in turn, in a random order; those of a group
  begin with the same `system_prompt_tokens` [known of inference-perf's shared_prefix]. 0: every prompt is its own.

`studies/records/blis_vllm.yaml`: 10 groups of 10 prompts [known of four runs whose settings are public, guessed of the
others]. What its training rows say to it: the median error of mean TTFT is 16 %, with shared system prompts alone 34 %,
with nothing shared 48 %; and where 100 prompts do not fit into the KV cache beside the running requests (Llama-2-7B,
1,034 tokens), TTFT is twice as long, measured as simulated. Mean E2E is off by 7, 3 and 8 %. Equal gaps change neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.accuracy.judged import ALL, Judged
from simserve.accuracy.requests import TOO_LONG, Floats, complete, latencies_ms
from simserve.accuracy.table import Kind
from simserve.build import engine_profile
from simserve.errors import SimserveError, SpecError
from simserve.run import half_width, simulate
from simserve.sim.rng import stream
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.units import NS_PER_S
from simserve.workload.requests import Content, RequestSet

DRAIN_S = 600
ARRIVALS = ("poisson", "constant")
STATISTICS = ("mean", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Stage:
    """One measured stage; rate_rps 0: all stages of the run. split: a group for scores of its own, '' for none.

    The fields from gpu to kv_cache_dtype replace those of the records file's deployment; empty and 0: as there.
    """

    run: str
    model: str
    prompt_tokens: int
    output_tokens: int
    stage: str = ""
    rate_rps: float = 0.0
    duration_s: float = 600.0
    arrivals: str = "poisson"
    prompt_groups: int = 0
    prompts_per_group: int = 1
    system_prompt_tokens: int = 0
    split: str = ""
    gpu: str = ""
    tensor_parallel_size: int = 0
    dtype: str = ""
    max_num_batched_tokens: int = 0
    max_num_seqs: int = 0
    gpu_memory_utilization: float = 0.0
    max_model_len: int = 0
    kv_cache_dtype: str = ""
    ttft_mean_ms: float | None = None
    ttft_p90_ms: float | None = None
    ttft_p99_ms: float | None = None
    e2e_mean_ms: float | None = None
    e2e_p90_ms: float | None = None
    e2e_p99_ms: float | None = None

    def __post_init__(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise SpecError(f"must be one of {', '.join(ARRIVALS)}", key="arrivals", value=self.arrivals)
        if self.prompt_groups and self.system_prompt_tokens >= self.prompt_tokens:
            problem = f"must be fewer than the prompt's {self.prompt_tokens}"
            raise SpecError(problem, key="system_prompt_tokens", value=self.system_prompt_tokens)

    @property
    def requests(self) -> int:
        """Requests that the stage sends."""
        return max(1, round(self.rate_rps * self.duration_s))

    def measured(self) -> dict[str, float]:
        """What was measured, by metric."""
        names = {f"{m} {s}": f"{m}_{s}_ms" for m in ("ttft", "e2e") for s in STATISTICS}
        return {metric: v for metric, name in names.items() if (v := getattr(self, name)) is not None}


NEEDED = ("run", "model", "prompt_tokens", "output_tokens")
_MEASURED = tuple(f.name for f in fields(Stage) if f.name.endswith("_ms"))
KIND = Kind(Stage, NEEDED, ("prompt_tokens", "output_tokens", "duration_s", "prompts_per_group", *_MEASURED), _MEASURED)
_DEPLOYMENT = [f.name for f in fields(Stage) if f.name in DeploymentSpec.model_fields]


def runs_of(rows: Sequence[Stage]) -> list[list[Stage]]:
    """The rows of each run, in the order of the file."""
    found: dict[str, list[Stage]] = {}
    for row in rows:
        found.setdefault(row.run, []).append(row)
    return list(found.values())


def deployment_of(row: Stage, common: DeploymentSpec) -> DeploymentSpec:
    """The engine of a row: the common one, with what the row says."""
    own = {name: value for name in _DEPLOYMENT if (value := getattr(row, name))}
    given: dict[str, Any] = common.model_dump(exclude_unset=True)
    return parse(DeploymentSpec, {**given, **own}, file=row.run)


def load_of(stages: Sequence[Stage], seed: int = 0) -> RequestSet:
    """The requests of the stages of a run, one stage after the other."""
    begin_s, times, prompts, outputs = 0.0, list[Floats](), list[int](), list[int]()
    for number, stage in enumerate(stages):
        times.append(begin_s + _times_s(stage, stream(seed, f"stage {number}")))
        prompts += [stage.prompt_tokens] * stage.requests
        outputs += [stage.output_tokens] * stage.requests
        begin_s += stage.duration_s + DRAIN_S
    arrival = np.rint(np.concatenate(times) * NS_PER_S).astype(np.int64)
    return RequestSet(
        arrival, np.array(prompts), np.array(outputs), np.zeros(len(prompts), dtype=np.int64), None,
        {"kind": "stages", "seed": seed}, _content(stages, stream(seed, "prompts")),
    )  # fmt: skip


def _times_s(stage: Stage, rng: np.random.Generator) -> Floats:
    if stage.arrivals == "constant":
        return np.arange(stage.requests) / stage.rate_rps
    return np.sort(rng.uniform(0.0, stage.duration_s, stage.requests))


def _content(stages: Sequence[Stage], rng: np.random.Generator) -> list[Content] | None:
    """Prompt after prompt of the groups, in one random order for the whole run."""
    first = stages[0]
    groups, each = first.prompt_groups, first.prompts_per_group
    if not groups:
        return None
    order = rng.permutation(groups * each).tolist()
    found: list[Content] = []
    for stage in stages:
        shared, own = stage.system_prompt_tokens, stage.prompt_tokens - stage.system_prompt_tokens
        for n in range(stage.requests):
            prompt = order[n % len(order)]
            begin = ((prompt // each, shared),) if shared else ()
            found.append((*begin, (groups + prompt, own)))
    return found


def judge_run(
    rows: Sequence[Stage], deployment: DeploymentSpec, *, client_side: bool, seed: int = 0, api_ns: int | None = None
) -> list[Judged]:
    """A record per row of one run; a run that cannot be simulated is records with a problem, never an error.

    api_ns: what lies between client and engine, where the measurement states it; None for the engine profile's.
    """
    stages = [row for row in rows if row.rate_rps]
    records = [_record(row) for row in rows]
    try:
        if not stages:
            raise SpecError("no row of this run has a rate", key="rate_rps")
        engine = deployment_of(rows[0], deployment)
        if any(row.model != rows[0].model or deployment_of(row, deployment) != engine for row in rows):
            raise SpecError("the rows of this run differ in model or engine")
        load = load_of(stages, seed)
        profile = None
        if api_ns is not None:
            profile = replace(engine_profile(engine), api_ns=api_ns, api_ns_per_request=0, api_ns_per_token=0,
                              api_ns_per_output_token=0)
        run = simulate(load_model(rows[0].model), engine, load, client_side=client_side, profile=profile)
    except SimserveError as error:
        return [replace(record, problem=str(error)) for record in records]
    done, times = complete(run.trace, load), latencies_ms(run.trace.requests)
    ends = np.cumsum([stage.requests for stage in stages])
    parts = {id(s): slice(int(end) - s.requests, int(end)) for s, end in zip(stages, ends, strict=True)}
    width = half_width(run)
    return [
        _predicted(record, times, done, parts.get(id(row), slice(None)), width)
        for row, record in zip(rows, records, strict=True)
    ]


def _record(row: Stage) -> Judged:
    what = f"stage {row.stage}, {row.rate_rps:g}/s" if row.rate_rps else "whole run"
    split = (("split", row.split),) if row.split else ()
    regimes = (ALL, *split, ("model", row.model), ("gpu", row.gpu)) if row.rate_rps else (("whole runs", ""),)
    if not row.rate_rps and row.split:
        regimes = (*regimes, ("whole runs", row.split))
    same_load = (bool(row.rate_rps), row.prompt_tokens, row.output_tokens)
    return Judged(f"{row.run}: {what}", row.measured(), regimes=regimes, scenario=same_load)


def _predicted(
    record: Judged, times: dict[str, Floats], done: NDArray[np.bool_], part: slice, width: float
) -> Judged:
    if not done[part].all():
        return replace(record, problem=f"a request {TOO_LONG}")
    predicted: dict[str, float] = {}
    for metric in record.measured:
        name, statistic = metric.split()
        values = times[name][part]
        predicted[metric] = float(values.mean() if statistic == "mean" else np.percentile(values, int(statistic[1:])))
    return replace(record, predicted=predicted, half_width=width)
