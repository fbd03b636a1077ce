"""The numbers that a prediction rests on, and how each may be moved: of hardware, workload and deployment.

Times of kernel families stand for the hardware: a GEMM is bound by memory bandwidth at few tokens and by FLOP/s at
many, decode attention by bandwidth, prefill attention by FLOP/s, an all-reduce by the link. Numbers with an error of
their own (left-out errors of tables, standard errors of host times: `simserve.perf.uncertainty`) move by that, others
by 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simserve.perf.uncertainty import NORMAL_90
from simserve.run import KV_LINK, families
from simserve.units import NS_PER_MS

if TYPE_CHECKING:
    from simserve.run import RunResult
    from simserve.spec.deployment import DeploymentSpec
    from simserve.workload.requests import RequestSet

DEFAULT_CHANGE = 0.1
LEAST = 0.05  # no time is less than so much of what it is
EXCHANGE = "expert exchange time"
_FAMILIES = {
    "GEMM time": ("gemm_time_factor", ("gemm",)),
    "expert time": ("moe_time_factor", ("moe",)),
    "prefill attention time": ("prefill_attention_time_factor", ("prefill_attention", "mla_prefill", "dsa_prefill")),
    "decode attention time": ("decode_attention_time_factor", ("decode_attention", "mla_decode", "dsa_decode")),
    "all-reduce time": ("all_reduce_time_factor", ("all_reduce",)),
    "elementwise time": ("elementwise_time_factor", ("elementwise",)),
    EXCHANGE: ("exchange_time_factor", ("collective", "moe_exchange")),
}
_HOST = ("host_ns_per_step", "host_ns_per_seq", "verify_ns_per_seq")


@dataclass(frozen=True)
class End:
    """One way to move a number.

    change: relative, None for a switch; what: in words; factors: as `simserve.run.simulate` takes them; reshape: kind
    of change of the requests ('load', 'prompts', 'outputs', 'bursts') and its factor.
    """

    change: float | None
    what: str
    deployment: DeploymentSpec
    factors: Mapping[str, float] = field(default_factory=dict)
    reshape: tuple[str, float] | None = None


@dataclass(frozen=True)
class Factor:
    """A number and the ends of its range; basis: why it is moved so far."""

    name: str
    group: str
    basis: str
    ends: tuple[End, ...]


def factors_of(run: RunResult, deployment: DeploymentSpec, workload: RequestSet, change: float | None) -> list[Factor]:
    """All numbers that this run can depend on; change: move every one by so much, None for its own error or 10 %."""
    return [*_hardware(run, deployment, change), *_workload(deployment, workload, change),
            *_deployment(run, deployment, change)]  # fmt: skip


def _hardware(run: RunResult, deployment: DeploymentSpec, change: float | None) -> list[Factor]:
    known, found = families(run), []
    exchanges = any(engine.deployment.data_parallel_size > 1 for engine in run.engines)
    for name, (number, members) in _FAMILIES.items():
        if name == EXCHANGE and not exchanges:  # other collectives are all-reduces over nodes, or of context ranks
            continue
        parts = [known[member] for member in members if member in known]
        share = sum(part for part, _ in parts)
        if share:
            error = sum(part * width for part, width in parts) / share
            found.append(_timed(name, (number,), deployment, change, error))
    if "host" in known:
        found.append(_host(run, deployment, change))
    if deployment.system is not None and len(deployment.pools) != 1:
        by = change or DEFAULT_CHANGE
        found.append(Factor("KV link bandwidth", "hardware", _stated(change, None), tuple(
            End(sign * by, _percent(sign * by), deployment, {KV_LINK: 1 + sign * by}) for sign in (-1, 1)
        )))  # fmt: skip
    return found


def _host(run: RunResult, deployment: DeploymentSpec, change: float | None) -> Factor:
    """Host time of a step; its standard error is of the constant part, and larger than that on fast hosts."""
    profile = run.engines[0].cost.inner.profile
    if change is not None or not profile.host_ns_per_step:
        return _timed("host time", _HOST, deployment, change, 0.0)
    reach = NORMAL_90 * profile.host_ns_stderr / profile.host_ns_per_step
    ends = tuple(
        End(factor - 1, f"{factor * profile.host_ns_per_step / NS_PER_MS:.3g} ms a step", deployment,
            {_HOST[0]: factor}) for factor in (max(1 - reach, 0.0), 1 + reach)
    )  # fmt: skip
    return Factor("host time", "hardware", _stated(None, reach), ends)


def _timed(
    name: str, numbers: tuple[str, ...], deployment: DeploymentSpec, change: float | None, error: float
) -> Factor:
    by = change or error or DEFAULT_CHANGE
    ends = tuple(
        End(moved, _percent(moved), deployment, dict.fromkeys(numbers, 1 + moved))
        for moved in (max(-by, LEAST - 1), by)
    )
    return Factor(name, "hardware", _stated(change, error), ends)


def _workload(deployment: DeploymentSpec, workload: RequestSet, change: float | None) -> list[Factor]:
    by, basis = change or DEFAULT_CHANGE, _stated(change, None)
    closed = workload.concurrency is not None
    kinds = {"concurrency" if closed else "request rate": "load", "prompt tokens": "prompts",
             "output tokens": "outputs"} | ({} if closed else {"burstiness (CV of the gaps)": "bursts"})  # fmt: skip
    return [
        Factor(name, "workload", basis, tuple(
            End(moved, _percent(moved), deployment, reshape=(kind, 1 + moved)) for moved in (-by, by)
        ))
        for name, kind in kinds.items()
    ]  # fmt: skip


def _deployment(run: RunResult, deployment: DeploymentSpec, change: float | None) -> list[Factor]:
    by, basis = change or DEFAULT_CHANGE, _stated(change, None)
    blocks = {e.name: (e.num_gpu_blocks - 1) // e.deployment.data_parallel_size + 1 for e in run.engines}
    found = [
        _moved("KV blocks", deployment, "num_gpu_blocks", by, basis, lambda pool, own: blocks[pool]),
        _moved("max_num_seqs", deployment, "max_num_seqs", by, basis, lambda pool, own: own),
        _moved("max_num_batched_tokens", deployment, "max_num_batched_tokens", by, basis, lambda pool, own: own),
    ]
    if deployment.num_speculative_tokens:
        ends = [min(0.99, deployment.acceptance_rate * (1 + sign * by)) for sign in (-1, 1)]
        found.append(Factor("acceptance rate of drafts", "deployment", basis, tuple(
            End(rate / deployment.acceptance_rate - 1, f"{rate:.2f}",
                deployment.model_copy(update={"acceptance_rate": rate})) for rate in ends
        )))  # fmt: skip
    other = "auto" if deployment.kv_cache_dtype == "fp8" else "fp8"
    switched = deployment.model_copy(update={"kv_cache_dtype": other})
    found.append(Factor("KV cache dtype", "deployment", "a switch", (End(None, other, switched),)))
    return found


def _moved(
    name: str, deployment: DeploymentSpec, knob: str, by: float, basis: str, own: Callable[[str, Any], int]
) -> Factor:
    """A whole number of every pool, moved down and up, at least by 1."""
    ends = []
    for sign in (-1, 1):
        values = {
            pool: max(2, value + sign * max(1, round(by * value)))
            for pool, engine in deployment.engines() for value in [own(pool, getattr(engine, knob))]
        }  # fmt: skip
        ends.append(End(sign * by, " / ".join(map(str, values.values())), _with(deployment, knob, values)))
    return Factor(name, "deployment", basis, tuple(ends))


def _with(deployment: DeploymentSpec, knob: str, values: Mapping[str, int]) -> DeploymentSpec:
    if "" in values:
        return deployment.model_copy(update={knob: values[""]})
    pools = tuple(
        (name, pool.model_copy(update={knob: values[name]}) if name in values else pool)
        for name, pool in deployment.pools
    )  # fmt: skip
    return deployment.model_copy(update={"pools": pools})


def reshaped(workload: RequestSet, kind: str, factor: float) -> RequestSet | None:
    """The requests after a change of an `End`; None where there is nothing to change."""
    from simserve.explore.repeats import at_load, load_of
    from simserve.workload.reshape import burstier, longer_outputs, longer_prompts

    if kind == "load":
        own = load_of(workload)
        return at_load(workload, own * factor, own)
    return {"prompts": longer_prompts, "outputs": longer_outputs, "bursts": burstier}[kind](workload, factor)


def _percent(change: float) -> str:
    return f"{100 * change:+.3g} %"


def _stated(change: float | None, error: float | None) -> str:
    if change is not None:
        return "as asked"
    return "its own 90 % error" if error else "no stated error"
