"""semi-PD: prefill and decode as two processes on the same GPU, with SMs of their own, weights and KV in common.

Source: "semi-PD: Towards Efficient LLM Serving via Phase-Wise Disaggregated Computation and Unified Storage",
https://github.com/infinigence/Semi-PD, by our digest (2.13), whose tags these are.
Claim: without interference between the phases, and without DistServe's two copies of the weights and split KV, 1.55
times the rate of vLLM with chunked prefill, 1.72 times vLLM's default and 1.62 times DistServe's per GPU, at 90 % of
requests within the SLO; 1.11 times semi-PD with static shares of 100 and 100 [paper].
Modelled: two asynchronous workers with x and y per cent of the SMs, whose sum may exceed 100, one KV pool, no transfer;
first come, first served, prompts in chunks [paper]. Work bound by compute scales with the share, work bound by memory
shares HBM (`simserve.sim.partition`). The controller: after a window, if TTFT misses and TPOT does not, x / (x + y)
grows in steps until the model TTFT = a1 / (x' - load) + b1 says that it suffices; in the same way for TPOT = a2 / y' +
b2; both or none: nothing [paper]. A switch counts from a worker's next step on, and costs nothing [paper].
Simplified [inferred]: the shape of both models is the published fit (.681, .022; .628, .382 [paper]), refitted by one
factor to the last window, for a window has one x; load is the prefill worker's busy share times its x'; the misses are
a percentile of the window's TTFT and of its decode gaps; first the share that is short grows to 100, then the other
shrinks; what a shortage of KV preempts is recomputed by the prefill worker; a new prompt leaves 1 % of the blocks free.
Knobs: shares, window, step and max_step; static without both targets. `max_num_batched_tokens` is the chunk.
Reproduces: studies/papers/semi_pd_a100.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from simserve.policies.batching import admit, continue_prompts, decode_running, elsewhere, fetch, promise, queue
from simserve.sim.plan import Plan, Pool, Role, View, knob
from simserve.sim.shares import Window
from simserve.systems import scheduler, system

TTFT_FIT = (0.681, 0.022)  # a1, b1
TPOT_FIT = (0.628, 0.382)  # a2, b2
NEAR = 0.01  # of x' to the load: the queue of the model has no end there


@system("semi_pd")
@dataclass
class SemiPd:
    """Pairs of workers; each pair is one engine of the pool."""

    prefill_share: int = knob(100, "per cent of the SMs for prefill, at the start", low=10, high=100)
    decode_share: int = knob(100, "per cent of the SMs for decode, at the start", low=10, high=100)
    ttft_ms: float = knob(0.0, "target of the controller; 0: the shares stay", low=0.0, high=1e6)
    tpot_ms: float = knob(0.0, "target of the controller; 0: the shares stay", low=0.0, high=1e6)
    percentile: float = knob(90.0, "of TTFT and of decode gaps that must meet their target", low=1.0, high=100.0)
    window_size: int = knob(200, "decode steps between two decisions", low=1, high=100_000)
    step: int = knob(5, "per cent of the SMs by which a share changes", low=1, high=50)
    max_step: int = knob(20, "per cent of the SMs by which one decision may change the shares", low=1, high=90)
    min_share: int = knob(10, "per cent of the SMs that each worker keeps", low=1, high=100)

    def pools(self) -> Sequence[Pool]:
        """One, of pairs."""
        return (Pool("workers", Role.SERVE, scheduler="semi_pd", router="least_loaded"),)

    def controller(self) -> SemiPdController:
        """A fresh one for each pair."""
        return SemiPdController(self)


@dataclass
class SemiPdController:
    """Moves SMs between the workers of one pair."""

    knobs: SemiPd
    shares: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.shares = self.knobs.prefill_share, self.knobs.decode_share

    @property
    def window_size(self) -> int:
        """Decode steps between two decisions; 0: the shares stay."""
        return self.knobs.window_size if self.knobs.ttft_ms and self.knobs.tpot_ms else 0

    def adjust(self, window: Window) -> tuple[int, int]:
        """The shares from now on."""
        known, own = self.knobs, normalised(self.shares)
        ttft_ms, tpot_ms = (quantile(times, known.percentile) / 1e6 for times in (window.ttft_ns, window.gaps_ns))
        late, slow = ttft_ms > known.ttft_ms, tpot_ms > known.tpot_ms
        load = window.prefill_busy * own
        if late and not slow:
            self._move(lambda x: ttft_ms * ttft_shape(x, load) / ttft_shape(own, load) <= known.ttft_ms, 0)
        elif slow and not late:
            self._move(lambda x: tpot_ms * tpot_shape(1 - x) / tpot_shape(1 - own) <= known.tpot_ms, 1)
        return self.shares

    def _move(self, enough: Callable[[float], bool], wants: int) -> None:
        """Steps for the worker that `wants`, until the model says that it is enough, or max_step."""
        moved = 0
        while moved + self.knobs.step <= self.knobs.max_step and not (moved and enough(normalised(self.shares))):
            after = shifted(self.shares, wants, self.knobs.step, self.knobs.min_share)
            if after == self.shares:
                return
            self.shares, moved = after, moved + self.knobs.step


def normalised(shares: tuple[int, int]) -> float:
    """x' = x / (x + y)."""
    return shares[0] / sum(shares)


def ttft_shape(x: float, load: float) -> float:
    """The published M/M/1 fit, without its scale."""
    return TTFT_FIT[0] / max(x - load, NEAR) + TTFT_FIT[1]


def tpot_shape(y: float) -> float:
    """The published fit, without its scale."""
    return TPOT_FIT[0] / y + TPOT_FIT[1]


def quantile(times: Sequence[int], percentile: float) -> int:
    """The least time that so many per cent do not exceed; 0 of none."""
    return sorted(times)[ceil(percentile / 100 * len(times)) - 1] if times else 0


def shifted(shares: tuple[int, int], wants: int, step: int, least: int) -> tuple[int, int]:
    """One step more for a worker: its own share up to 100, then the other one's down to the least."""
    own, other = shares[wants], shares[1 - wants]
    if own < 100:
        own = min(100, own + step)
    else:
        other = max(least, other - step)
    return (own, other) if wants == 0 else (other, own)


@scheduler("semi_pd")
@dataclass
class SemiPdWorker:
    """Both workers: which one acts follows from what requests have left to compute."""

    engine = "vllm"  # host time is its [guessed: semi-PD is built on SGLang, its baselines are vLLM's]

    max_num_batched_tokens: int = knob(2048, "tokens of a chunk of prompts", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests in a batch", low=1, high=4096)
    watermark: float = knob(0.01, "share of blocks kept free when admitting", low=0.0, high=0.5)

    def plan(self, view: View) -> Plan:
        """Chunks of prompts, or, where there are none, a decode step."""
        plan = Plan()
        left = continue_prompts(view, plan, self.max_num_batched_tokens)
        self._prompts(view, plan, left)
        if not plan.tokens:
            left = decode_running(view, plan, min(self.max_num_batched_tokens, self.max_num_seqs))
            if not plan.preempted:
                self._join(view, plan, min(left, self.max_num_seqs - len(view.running)))
        promise(view, plan)
        return plan

    def _prompts(self, view: View, plan: Plan, left: int) -> None:
        """Prompts in order, the last one cut; blocks for all of it and the first token, so that it can decode."""
        seats = self.max_num_seqs - len(view.running)
        for request in queue(view):
            new = request.num_tokens - view.blocks.cached_tokens(request)
            if request.blocks and new == 1:
                continue  # it joins the decodes
            if not left or not seats:
                return
            # a lone request needs no watermark, or a long one would wait forever
            headroom = int(self.watermark * view.blocks.total) if view.blocks.free < view.blocks.total else 0
            if elsewhere(view, request):
                if not fetch(view, plan, request, slots=request.num_tokens + 1, headroom=headroom):
                    return
                continue
            if not view.blocks.fits(request, request.num_tokens + 1, headroom):
                return
            admit(view, plan, request, min(new, left), request.num_tokens + 1)
            left -= min(new, left)
            seats -= 1

    def _join(self, view: View, plan: Plan, seats: int) -> None:
        """Requests whose prompt is done join the batch, in order."""
        for request in queue(view):
            if not seats:
                return
            if request.blocks and request.num_tokens - request.computed_tokens == 1 and request not in plan.fetched:
                admit(view, plan, request, 1)
                seats -= 1
