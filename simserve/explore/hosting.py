"""Why keeping KV on a host pays, or does not: the chosen run beside the best one of every other strategy.

A strategy is a scheduler and, if it uses one, the size of its host memory. Told from the outcomes of a search alone; a
search in which nothing keeps KV on a host, or in which all do it alike, has nothing to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simserve.explore.objective import TIE, Outcome
from simserve.explore.result import missed
from simserve.explore.space import uses_host
from simserve.perf.breakdown import RESOURCES

_OFTEN = 0.1  # of the time: a wait that limits
_BUSY = 0.75  # of the time: a CPU that has no more room; a cohort takes at most 0.9 of a step [guessed]
_LEAST = 0.005  # of the tokens: a host that is used


@dataclass(frozen=True)
class Strategy:
    """The best run of one strategy.

    name: scheduler and host memory; place: in the result's runs; gain: its tokens/s/GPU over the chosen run's, less 1;
    running: requests in a step, mean over the busy time; gpu_blocks: KV blocks of the GPU; hybrid: the metrics of that
    name, None without a host; limit: what keeps it from more, in words; misses: what of the SLO, '' for nothing.
    """

    name: str
    place: int
    hosted: bool
    tokens_per_s_per_gpu: float
    gain: float
    running: float | None
    gpu_blocks: int
    hybrid: dict[str, float] | None
    limit: str
    misses: str


@dataclass(frozen=True)
class Hosting:
    """verdict: whether a host pays, in a sentence; chosen: the run that all are compared with; others: best first."""

    verdict: str
    chosen: Strategy
    others: tuple[Strategy, ...]

    @property
    def lines(self) -> list[str]:
        """Sentences: the verdict, the chosen one, each of the others."""
        return [self.verdict, f"{_words(self.chosen)}.", *(_against(other, self.chosen) for other in self.others)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**asdict(self), "others": [asdict(other) for other in self.others]}


def hosting(runs: Sequence[Outcome], chosen: Outcome) -> Hosting | None:
    """The comparison, None where there is none to make; runs: of a result, the best first, with the chosen one."""
    best: dict[str, tuple[int, Outcome]] = {}
    best[_name(chosen)] = (next(i for i, run in enumerate(runs) if run is chosen), chosen)
    for place, run in enumerate(runs):  # those that meet the SLO come first
        best.setdefault(_name(run), (place, run))
    found = [_strategy(place, run, chosen) for place, run in best.values()]
    if len(found) < 2 or not any(one.hosted for one in found):
        return None
    own, others = found[0], sorted(found[1:], key=lambda one: one.place)
    return Hosting(_verdict(own, others), own, tuple(others))


def _name(run: Outcome) -> str:
    d = run.deployment
    if d.hybrid is None or not uses_host(d.scheduler):
        return d.scheduler
    return f"{d.scheduler} with {d.hybrid.kv_gib:g} GiB of {d.hybrid.host}"


def _strategy(place: int, run: Outcome, chosen: Outcome) -> Strategy:
    per_gpu = run.tokens_per_s_per_gpu
    return Strategy(
        _name(run), place, uses_host(run.deployment.scheduler), per_gpu,
        per_gpu / chosen.tokens_per_s_per_gpu - 1 if chosen.tokens_per_s_per_gpu else 0.0,
        run.usage[0]["running"] if run.usage else None, run.num_gpu_blocks, run.metrics.get("hybrid"), _limit(run),
        "" if run.meets_slo else missed(run),
    )  # fmt: skip


def _limit(run: Outcome) -> str:
    """What keeps a run from more: the CPU, copies, KV memory, or what the GPU waits for; '' where nothing is known."""
    if not run.usage:
        return ""
    use, hybrid = run.usage[0], run.metrics.get("hybrid")
    if hybrid is not None:
        if hybrid["cpu_wait"] >= _OFTEN:
            return f"the CPU's attention bandwidth: the GPU waits for it in {_share(hybrid['cpu_wait'])} of the time"
        if hybrid["copy_wait"] >= _OFTEN:
            return f"PCIe: the GPU waits for copies of KV in {_share(hybrid['copy_wait'])} of the time"
        if hybrid["cpu_busy"] >= _BUSY:
            return f"the CPU's attention bandwidth: it attends in {_share(hybrid['cpu_busy'])} of the time"
    if (waits := use["waits"].get("kv", 0.0)) >= _OFTEN:
        of = "" if hybrid is None else f" and {_share(hybrid['host_kv'])} of the host's are taken"
        return f"KV memory: requests wait because the GPU's blocks are full in {_share(waits)} of the time{of}"
    resource, share = max(use["resources"].items(), key=lambda item: item[1], default=("", 0.0))
    if sum(use["waits"].values()) < _OFTEN and use["busy"] < 1 - _OFTEN:
        return f"the load: the GPU stands still in {_share(1 - use['busy'])} of the time"
    return f"the GPU's {RESOURCES[resource]}, {_share(share)} of the time" if resource else ""


def _verdict(chosen: Strategy, others: Sequence[Strategy]) -> str:
    """Against the best run of the other kind: with a host if the chosen one has none, and the reverse."""
    rival = next((other for other in others if other.hosted != chosen.hosted), None)
    if rival is None:
        return f"Every strategy keeps KV on a host; the best is {chosen.name}."
    better, worse = (chosen, rival) if chosen.place < rival.place else (rival, chosen)
    word = "pays" if better.hosted else "does not pay"
    if worse.misses and not better.misses:
        return f"Hybrid execution {word}: {worse.name} does not meet the SLO, {better.name} does."
    lead = chosen.tokens_per_s_per_gpu / rival.tokens_per_s_per_gpu - 1 if rival.tokens_per_s_per_gpu else 0.0
    if abs(lead) <= TIE:
        return f"Hybrid execution makes no difference: {rival.name} is within 1 % of {chosen.name} in tokens/s/GPU."
    but = "" if (lead > 0) == (better is chosen) else f", but {better.name} ranks first"
    return f"Hybrid execution {word}: {100 * lead:+.0f} % tokens/s/GPU with {chosen.name} over {rival.name}{but}."


def _words(one: Strategy) -> str:
    """What it does, and what limits it."""
    parts = [f"{one.name}: {one.tokens_per_s_per_gpu:.4g} tokens/s/GPU"]
    if one.running is not None:
        parts.append(f"{one.running:.3g} requests in a step, {one.gpu_blocks:,} KV blocks on the GPU")
    if (h := one.hybrid) is not None and h["cpu_tokens"] < _LEAST:
        parts.append("the CPU attends for next to no token, for the GPU's KV memory is enough"
                     if h["host_kv"] < _LEAST else "the CPU attends for next to no token")  # fmt: skip
    elif h is not None:
        shares = ", ".join(f"{_share(h[f'decode_{name}'])} {words}" for name, words in
                           (("overlap", "overlapped"), ("pipeline", "pipelined"), ("gpu", "of the GPU alone")))
        parts.append(f"steps without prompts {shares}, the CPU attends for {_share(h['cpu_tokens'])} of the tokens")
    if one.limit:
        parts.append(f"limited by {one.limit}")
    return "; ".join(parts)


def _against(other: Strategy, chosen: Strategy) -> str:
    far = f"{_share(abs(other.gain))} {'more' if other.gain > 0 else 'less'} than"
    text = f"{_words(other)}; {'within 1 % of' if abs(other.gain) <= TIE else far} the chosen one"
    return f"{text}; {other.misses}." if other.misses else f"{text}."


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.0995 or value == 0 else f"{100 * value:.2g} %"
