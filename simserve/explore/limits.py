"""What limits a run, and which objective binds, told from the numbers of its Outcome alone.

`limits(run)` needs no trace and no cost model: an Outcome that was read back from a `result.json` or from the journal
of a search is enough. The HTML report shows it; `simserve explain` plays the run again and measures it (`pressure`).

Where the time of a step goes is `run.usage`; what a latency is made of follows from means over the requests: of TTFT
the part before the first step is queueing, of TPOT the part above the median gap between tokens is what steps with
prompts add. Which resource an operation waits for is by the roofline [derived].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simserve.diffusion import static_batches
from simserve.explore.objective import NEVER_MS, Outcome, SloValue
from simserve.explore.staged_words import bottleneck
from simserve.perf.breakdown import RESOURCES

_LEAST = 0.02  # a share of the time below this limits nothing worth a line
_NEAR = 0.1  # an objective within so much of its bound binds
_IDLE = 0.95  # a share of the time that is worth a word
_KNOB = {"seqs": "max_num_seqs", "tokens": "max_num_batched_tokens", "kv": "KV memory", "policy": "the scheduler"}


@dataclass(frozen=True)
class Limit:
    """One thing that limits a run.

    name: load (nobody waits), seqs, tokens, kv (memory), policy: what who waits is waiting for; stage: the process of a
    layout of stages that is the busiest; prompts: steps with prompts delay decoding; queries: what a step of a
    diffusion model is made of; or a resource, a key of
    `simserve.perf.breakdown.RESOURCES`. share: of the busy time that it takes, 0 to 1; of queries, those in refreshes.
    text: one sentence with the numbers.
    """

    name: str
    share: float
    text: str


@dataclass(frozen=True)
class Limits:
    """What limits a run.

    binding: the objective with the least room, None without an SLO; summary: one sentence on it and on what its
    latency is made of; found: what limits, the strongest of each kind first.
    """

    binding: SloValue | None
    summary: str
    found: tuple[Limit, ...]


def binding(run: Outcome) -> SloValue | None:
    """The objective that is exceeded most, or nearest to its bound; None if no objective has a value."""
    return max((s for s in run.slo if s.value_ms is not None), key=lambda s: s.excess, default=None)


def limits(run: Outcome) -> Limits:
    """See the module docstring."""
    tight = binding(run)
    found: list[Limit] = []
    for part in run.usage:
        name = f"pool {part['pool']}: " if part["pool"] else ""
        found += [Limit(x.name, x.share, f"{name}{x.text}") for x in _of_pool(part, run)]
    if (stage := bottleneck(run, None if tight is None else tight.name)) is not None:
        found.insert(0, Limit("stage", stage[1], stage[2]))
    found += _denoising(run) if run.metrics.get("diffusion") else _prompts_beside_decodes(run)
    return Limits(tight, _summary(run, tight), tuple(found))


def _of_pool(part: dict[str, Any], run: Outcome) -> Iterator[Limit]:
    waits = sorted(part["waits"].items(), key=lambda item: -item[1])
    yield from (_wait(name, share, part, run) for name, share in waits if share >= _LEAST)
    if (queued := sum(part["waits"].values())) < _LEAST:
        yield Limit("load", 1 - queued, "Nobody waits for a place, for tokens of a step or for KV memory: throughput "
                    f"is what arrives, {part['running']:.3g} requests in a step on average{_idle(part)}")  # fmt: skip
    resource, share = max(part["resources"].items(), key=lambda item: item[1], default=("", 0.0))
    if share >= _LEAST:
        yield Limit(resource, share, _resource(resource, share, part))


def _idle(part: dict[str, Any]) -> str:
    return f", and the GPUs stand still in {_per_cent(1 - part['busy'])} of the time" if part["busy"] < _IDLE else ""


def _wait(name: str, share: float, part: dict[str, Any], run: Outcome) -> Limit:
    if part.get("denoises"):
        return Limit(name, share, _denoise_wait(name, share, part, run))
    own = next((d for pool, d in run.deployment.engines() if pool == part["pool"]), run.deployment)
    most = {"seqs": own.max_num_seqs * own.data_parallel_size,
            "tokens": own.max_num_batched_tokens * own.data_parallel_size}  # fmt: skip
    why = {
        "seqs": f"{most['seqs']:,} requests run already",
        "tokens": f"the step is full with {most['tokens']:,} tokens",
        "kv": f"too few KV blocks are free ({run.metrics.get('preemptions') or 0} preemptions in all)",
        "policy": "the scheduler holds them back or their KV is on its way",
    }[name]
    return Limit(name, share, f"{_KNOB[name]}: in {_per_cent(share)} of the busy time requests wait because {why}")


def _denoise_wait(name: str, share: float, part: dict[str, Any], run: Outcome) -> str:
    """What the requests of a diffusion model wait for."""
    d, together = run.deployment, static_batches(run.deployment.scheduler)
    knob, why = {
        "seqs": ("max_num_seqs", f"{d.max_num_seqs:,} requests run already"
                 + (", a batch that runs to its end" if together else "")),
        "tokens": ("max_num_batched_tokens", "the step has no room for one more refresh, a pass over all of a request, "
                   f"in its {d.max_num_batched_tokens:,} query tokens"),
        "kv": ("Memory" if together else "KV memory", f"too few of the {run.num_gpu_blocks - 1:,} "
               f"{'slots of a batch' if together else 'KV pages'} are free for all that a request holds"),
        "policy": ("The scheduler", f"a batch, of {part['running']:.3g} requests on average, runs to its end before "
                   "the next one begins" if together else "query tokens for a refresh are still being gathered"),
    }[name]  # fmt: skip
    return f"{knob}: in {_per_cent(share)} of the busy time requests wait because {why}"


def _denoising(run: Outcome) -> Iterator[Limit]:
    """What a step of a diffusion model is made of."""
    found = run.metrics.get("diffusion")
    if found is None or not run.usage:
        return
    ridge, queries = run.usage[0]["ridge_tokens"], found["query_tokens_per_step"]
    side = "above" if queries > ridge else "below"
    share, running = found["refresh_tokens"], found["requests_per_step"]
    yield Limit("queries", share, f"The mean of all steps has {queries:,.0f} query tokens of {running:.3g} requests, "
                f"{_per_cent(share)} of them in refreshes: {side} the {ridge:,} from which computing outlasts reading "
                f"the weights; a pass commits {positions(found['tokens_per_step'])}")  # fmt: skip


def positions(count: float) -> str:
    """'1 position', '3.25 positions'."""
    text = f"{count:.3g}"
    return f"{text} position{'' if text == '1' else 's'}"


def _resource(name: str, share: float, part: dict[str, Any]) -> str:
    text = f"{_per_cent(share)} of the busy time goes to work that waits for the {RESOURCES[name]}"
    if name == "weights":
        below = f"below {part['ridge_tokens']:,} tokens a step"
        text += f" (a dense layer reads them longer than it computes with them {below}"
        experts = any("experts" in kinds for kinds in part["time"].values())
        text += "; an expert sees its share of these)" if experts else ")"
    return text


def _prompts_beside_decodes(run: Outcome) -> list[Limit]:
    """What prompts in the steps of decoding requests add to a token."""
    mean, usual = _stat(run, "tpot_ms", "mean"), _stat(run, "itl_ms", "p50")
    if not mean or usual is None or 1 - usual / mean < 0.1:
        return []
    share = 1 - usual / mean
    return [Limit("prompts", share, f"A token takes {_ms(usual)} at the median and {_ms(mean)} on average: steps "
                  f"with prompts, and waiting after a preemption, add {_per_cent(share)}")]  # fmt: skip


def _summary(run: Outcome, tight: SloValue | None) -> str:
    if run.turned_away:
        return f"It turned away {run.turned_away:,} requests that do not fit its KV cache or its max_model_len."
    if tight is None:
        return "No objective is set, so none binds."
    value = tight.value_ms or 0.0
    name = f"P{tight.percentile:g} {tight.name.upper()}"
    if value >= NEVER_MS:
        return f"{name} is never reached: too many requests do not finish."
    times = tight.excess + 1
    far = f"{times:,.0f} times" if times >= 100 else f"{times:.3g} times"
    side = f"{_per_cent(abs(tight.excess))} {'above' if tight.excess > 0 else 'below'}" if tight.excess < 1 else far
    word = "binds" if tight.excess > -_NEAR else "has the least room"
    return f"{name} {word}: {_ms(value)}, {side} its bound of {tight.bound_ms:g} ms{_made_of(run, tight.name)}."


def _made_of(run: Outcome, name: str) -> str:
    """What the mean of a latency is made of, as the end of a sentence."""
    ttft, queueing = _stat(run, "ttft_ms", "mean"), _stat(run, "queueing_ms", "mean")
    tpot, e2e = _stat(run, "tpot_ms", "mean"), _stat(run, "e2e_ms", "mean")
    if name == "ttft" and ttft and queueing is not None:
        rest = "first block" if run.metrics.get("diffusion") else "prompt"
        return f"; of {_ms(ttft)} on average {_ms(queueing)} are waiting for the first step, the rest is the {rest}"
    if name == "e2e" and e2e and run.metrics.get("diffusion") and queueing is not None:
        return f"; of {_ms(e2e)} on average {_ms(queueing)} are waiting for the first step"
    if name == "e2e" and e2e and ttft is not None:
        return f"; of {_ms(e2e)} on average {_ms(ttft)} come before the first token"
    if name == "tpot" and tpot and run.usage:  # of the pool whose steps make tokens
        decoding = [part for part in run.usage if part["pool"] != "prefill"] or run.usage
        prompts = sum(part["prompt_steps"] for part in decoding) / len(decoding)
        kind = "refreshes" if run.metrics.get("diffusion") else "prompts"
        return f"; steps with {kind} take {_per_cent(prompts)} of the busy time" if prompts else ""
    return ""


def _stat(run: Outcome, key: str, stat: str) -> float | None:
    found = (run.metrics.get(key) or {}).get(stat)
    return None if found is None else float(found)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"
