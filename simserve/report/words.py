"""Numbers and verdicts as a reader sees them, the same in the terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from simserve.arch.diffusion import BATCH
from simserve.explore.limits import positions
from simserve.explore.objective import KERNELS, NEVER_MS, Outcome
from simserve.explore.result import SearchResult
from simserve.units import format_bytes

_TIES = {
    "throughput": "within 1 % of its throughput per GPU: {} more, at higher cost or TPOT",
    "front": "within 1 % of its throughput per GPU: {} more, at higher cost or TPOT",
    "gpus": "as few GPUs: {} more, at higher cost or TPOT",
    "cost": "within 1 % of its cost per hour: {} more, at higher cost per token or TPOT",
}
_MEMORY = {BATCH: "KV, activations and logits of the batch"}


@dataclass(frozen=True)
class Terms:
    """What the parts of a run are called, by the kind of its model.

    gaps: what ITL measures; whole, rest: steps that compute prompts, and the others; held, slots, short: memory for
    requests, its pieces, and a word in a legend; latencies: what TTFT and ITL mean, '' where that is usual.
    """

    gaps: str = "gaps between tokens"
    whole: str = "steps that compute prompts"
    rest: str = "steps that only decode"
    held: str = "KV cache"
    slots: str = "KV blocks"
    short: str = "KV"
    latencies: str = ""


_DECODES = Terms()
_DENOISES = Terms("gaps between blocks", "steps with refreshes (passes over all of a request)", "steps of reuses alone",
                  latencies="TTFT is the end of the first block, ITL the gap between blocks")  # fmt: skip
_BATCHES = replace(_DENOISES, held="memory of the batch", slots="slots", short="slots")


def terms(run: Outcome) -> Terms:
    """How to speak of a run."""
    if not run.metrics.get("diffusion"):
        return _DECODES
    return _BATCHES if BATCH in run.memory_bytes else _DENOISES


def together(words: Iterable[str]) -> str:
    """What several runs call it: each word once, 'KV blocks or slots'."""
    return " or ".join(dict.fromkeys(words))


def memory_parts(sizes: Mapping[str, int]) -> str:
    """'weights 14.9 GiB, KV cache 24.9 GiB'; nothing of what a system without a KV pool does not keep apart."""
    shown = {name: size for name, size in sizes.items() if size or BATCH not in sizes}
    names = {name: _MEMORY.get(name, name.replace("_", " ")) for name in shown}
    return ", ".join(f"{names[name]} {format_bytes(size)}" for name, size in shown.items())


def denoising_line(run: Outcome) -> str:
    """What the steps of a diffusion model were made of; '' for other models."""
    found = run.metrics.get("diffusion")
    if not found:
        return ""
    tail = "" if found["tail_ratio"] is None else f"; p99 over median latency {number(found['tail_ratio'])}"
    return (f"diffusion: {number(found['requests_per_step'])} requests and {number(found['query_tokens_per_step'])} "
            f"query tokens a step, {number(100 * found['refresh_tokens'])} % of the tokens in refreshes; "
            f"{positions(found['tokens_per_step'])} a pass{tail}")  # fmt: skip


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant ones, whole from there on; 'never' for NEVER_MS, '-' for None."""
    if value is None:
        return "-"
    if value >= NEVER_MS:
        return "never"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def in_ms(value: float | None) -> str:
    """The same with its unit, where there is a value."""
    text = number(value)
    return text if text in ("-", "never") else f"{text} ms"


def verdict(run: Outcome) -> str:
    """'met', or what of the SLO a run misses; '' without an SLO that it could miss."""
    if run.meets_slo:
        return "met" if run.slo else ""
    return f"misses {', '.join(missed_names(run, with_percentile=True))}"


def missed_names(run: Outcome, *, with_percentile: bool = False) -> list[str]:
    """What a run misses: 'TTFT', '3 turned away', or that it does so on average over its replications."""
    names = [f"{s.name.upper()} P{s.percentile:g}" if with_percentile else s.name.upper()
             for s in run.slo if s.excess > 0.0]  # fmt: skip
    names += [f"{run.turned_away:,} turned away"] if run.turned_away else []
    return [*names, "on average over seeds"] if run.misses_on_average else names


def ties_line(result: SearchResult) -> str:
    """How many tie with the recommended run, and in what; '' for none."""
    best = result.recommended
    if best is None or not result.ties:
        return ""
    words = _TIES[result.objective].format(len(result.ties))
    if best.replications is not None and result.objective in ("throughput", "front"):
        return words.replace("within 1 %", f"tied by the 90 % interval over {len(best.replications.seeds)} seeds")
    return words


def scope_line(result: SearchResult) -> str:
    """How much of the space was simulated, and how much of that was given up on the way."""
    given_up = f", {len(result.pruned):,} more given up as sure to miss the SLO" if result.pruned else ""
    return f"{len(result.runs):,} of {result.configurations:,} possible configurations simulated{given_up}"


def rests_on(source: str, half_width: float) -> str:
    """What an interval rests on; kernel errors with the half-width of the step times."""
    return f"{KERNELS}, step times +-{100 * half_width:.1f} %" if source == KERNELS else source
