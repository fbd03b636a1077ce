"""APEX: decode attention on the CPU beside a GPU that does not wait for it.

Source: "Parallel CPU-GPU Execution for LLM Inference on Constrained GPUs", arXiv 2506.03296 (v2, v4), IPDPS 2026. Its
full text was not at hand: abstract [P], a reading note of v4 [N], notes that quote its formulae [H, L]; what fills gaps
is [I].
Claim: a batch split in two (NEO) makes the GPU stream its weights twice; one batch whose CPU requests take their
results a layer late keeps the GPU as fast as alone: +84 to +96 % over vLLM on T4, +11 to +89 % on A10.
Modelled: GPU-first placement; the gate (6) for decodes and its extension to batches with prompts, or the explicit
estimator [I]; cohorts of at least min_cohort requests that go one layer per step, taken when ready, without a stall; a
thread of its own for CPU attention (launch 0); asymmetric pipelining as in NEO where the gate asks for it, with
requests that are in no cohort.
Simplified: placement thresholds are NEO's, which APEX extends [I]; min_cohort's value is unknown [guessed]; a cohort is
no larger than the CPU can attend in most of a step of decodes [I]; prompts go to the host up to host_depth such cohorts
[guessed]; cohorts rest during pipelined steps [I]; what only fits the host is not pipelined with cohorts in flight.
Reproduces: the closed forms, the static table of the digest, hand-made timelines; published gains by paper studies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simserve.policies.gates import decode_bound, mixed_bound
from simserve.policies.subbatches import SubBatch, fill
from simserve.policies.tiers import Placement, choose_prompts, chunks, host_of, settle, start_prompts, with_slots
from simserve.sim.hybrid import HybridStep, Predictor, Strategy
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler

Batches = tuple[SubBatch, SubBatch]


@scheduler("apex")
@dataclass
class Apex:
    """APEX's scheduler; limits are NEO's [I]."""

    max_num_batched_tokens: int = knob(20480, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(1024, "requests that may run at once, in both tiers", low=1, high=4096)
    decision: str = knob("estimator", "how a strategy is chosen; the last two: always that one",
                         choices=("inequality", "estimator", "overlap", "pipeline"))  # fmt: skip
    min_cohort: int = knob(8, "requests below which no cohort is started [guessed]", low=1, high=1024)
    n_cohorts: int = knob(1, "cohorts on their way at once", low=1, high=64)
    window_share: float = knob(0.9, "of a step that a cohort's attention may take: later ones are shorter [guessed]",
                               low=0.1, high=1.0)  # fmt: skip
    host_depth: float = knob(2.0, "prompts go to the host up to so many cohorts' KV [guessed]", low=0.1, high=1000.0)
    launch_ms: float = knob(0.0, "launch of a stage with CPU attention; a thread of its own needs none [N]",
                            low=0.0, high=10.0)  # fmt: skip
    swap_in: float = knob(0.95, "share of GPU blocks up to which requests come back [I]", low=0.1, high=1.0)
    predictor: Predictor = field(init=False, repr=False)
    cpu_kernel = "llamafile"
    staging_layers = 1

    def plan(self, view: View) -> Plan:
        """Place, admit prompts, and let the CPU do what pays."""
        plan = Plan()
        waiting = bool(view.waiting or view.preempted)
        at = settle(view, plan, self.max_num_batched_tokens, swap_in=self.swap_in)
        window = self._window_ns(at)
        if not plan.preempted:
            bound = host_of(view).total - view.blocks.total
            choose_prompts(view, at, self.max_num_seqs, self.max_num_batched_tokens, host_blocks=bound)
            at.host_prompts = self._within_depth(view, at, window)
        for request in at.decodes:
            plan.tokens[request] = 1
        prompts = chunks([*at.long, *at.gpu_prompts, *at.host_prompts], at.budget)
        start_prompts(view, plan, at, at.gpu_prompts, at.host_prompts)
        step = self._with_cpu(view, plan, at, prompts, window)
        if step is None and (plan.to_host or plan.to_gpu or plan.admitted_host):
            step = HybridStep(Strategy.GPU)
        plan.hybrid = step
        idle = step is None and not view.hosted
        plan.repeats = idle and not waiting and not plan.preempted and len(plan.tokens) == len(view.running)
        return plan

    def _window_ns(self, at: Placement) -> float:
        """Time for one layer of a cohort: a step of the GPU's decodes less the linear work of the layer [I]."""
        p, context = self.predictor, _context(at.decodes)
        linear, attention = p.linear_ns(len(at.decodes)), p.attention_ns((), len(at.decodes), context)
        return p.layers * (linear + attention) + p.head_ns(len(at.decodes)) + p.host_ns(len(at.decodes)) - linear

    def _within_depth(self, view: View, at: Placement, window: float) -> list[Seen]:
        """The first prompts for the host beside which the CPU could attend all that is there in host_depth windows."""
        seqs, context = len(view.hosted), _context(view.hosted.values())
        for index, request in enumerate(at.host_prompts):
            seqs, context = seqs + 1, context + request.num_tokens
            if self.predictor.cpu_attention_ns(seqs, context) > self.host_depth * self.n_cohorts * window:
                return at.host_prompts[:index]
        return at.host_prompts

    def _with_cpu(
        self, view: View, plan: Plan, at: Placement, prompts: Sequence[tuple[int, int]], window: float
    ) -> HybridStep | None:
        """The CPU's part of the step, None where it has none; gives hosted requests their tokens."""
        cohort: list[Seen] = []
        if len(view.cohorts) < self.n_cohorts and len(at.hosted) >= self.min_cohort:
            cohort = self._fitting(at.hosted, window)
        ready = tuple(key for key, c in view.cohorts.items() if c.ready_ns <= view.now_ns)
        if not plan.tokens and not ready and not cohort:
            ready = tuple(sorted(view.cohorts, key=lambda key: view.cohorts[key].ready_ns)[:1])
        if not at.hosted and not view.cohorts:
            return None
        batches = None
        if prompts or len(ready) == len(view.cohorts):  # else the CPU attends for a cohort still
            batches = self._pipelined(view, at, prompts, window)
        if batches is not None:
            return self._pipeline_step(plan, batches)
        return self._overlap_step(view, plan, at, cohort, ready)

    def _overlap_step(
        self, view: View, plan: Plan, at: Placement, cohort: list[Seen], ready: tuple[int, ...]
    ) -> HybridStep | None:
        """Ready cohorts go on, as far as the budget reaches, and a new one begins."""
        joined: list[int] = []
        for key in ready:
            requests = view.cohorts[key].requests
            if len(requests) > at.budget:
                continue
            at.budget -= len(requests)
            joined.append(key)
            if view.cohorts[key].layer == self.predictor.layers:
                plan.tokens.update(dict.fromkeys(requests, 1))
        started = tuple(with_slots(view, cohort[: at.budget]))
        if not joined and not started:
            return None
        return HybridStep(Strategy.OVERLAP, started=started, joined=tuple(joined))

    def _pipeline_step(self, plan: Plan, batches: Batches) -> HybridStep:
        first, second = (tuple(batch.cpu) for batch in batches)
        plan.tokens.update(dict.fromkeys((*first, *second), 1))
        return HybridStep(Strategy.PIPELINE, first, second, launch_ns=self._launch_ns)

    @property
    def _launch_ns(self) -> int:
        return round(self.launch_ms * 1e6)

    def _fitting(self, hosted: Iterable[Seen], window: float) -> list[Seen]:
        """As many as the CPU attends in a window, at least one."""
        found: list[Seen] = []
        context = 0
        for request in hosted:
            context += request.num_tokens
            seqs = len(found) + 1
            taken = self.predictor.cpu_attention_ns(seqs, context) + sum(self.predictor.copies_ns(seqs))
            if found and taken > self.window_share * window:
                break
            found.append(request)
        return found

    def _pipelined(
        self, view: View, at: Placement, prompts: Sequence[tuple[int, int]], window: float
    ) -> Batches | None:
        """Two sub-batches if the decision is to pipeline and a second one comes about."""
        if self.decision == "overlap" or not at.hosted:
            return None
        if self.decision == "inequality" and not self._gate(view, at, prompts):
            return None
        batches = SubBatch(self.predictor, at.decodes, prompts), SubBatch(self.predictor)
        fill(batches, with_slots(view, at.hosted), at.budget, self._launch_ns)
        if not batches[1].cpu:
            return None
        if self.decision == "estimator":
            # a cohort under way may be smaller than the next one, which must not keep it from going on
            overlapped = min(len(self._fitting(view.hosted.values(), window)), at.budget)
            if self._pipelined_rate(batches) <= self._overlapped_rate(batches, overlapped):
                return None
        return batches

    def _gate(self, view: View, at: Placement, prompts: Sequence[tuple[int, int]]) -> bool:
        """Eq. (6), or with prompts its extension; without GPU decodes there is nothing to slow down."""
        p, context, hosted = self.predictor, _context(at.decodes), at.hosted
        if not at.decodes:
            return bool(prompts)
        linear, attention = p.linear_ns(len(at.decodes)), p.attention_ns((), len(at.decodes), context)
        overlap = linear + attention + p.linear_ns(sum(n for n, _ in prompts)) + p.attention_ns(prompts, 0, 0)
        on_cpu = _context(hosted) / p.cpu_attention_ns(len(hosted), _context(hosted))
        bound = mixed_bound(overlap, linear, attention) if prompts else decode_bound(linear, attention)
        return context / attention / on_cpu < bound

    def _pipelined_rate(self, batches: Batches) -> float:
        """Tokens per ns of an asymmetric step [I]."""
        p, (first, second), launch = self.predictor, batches, self._launch_ns
        layer = max(first.linear_ns, second.cpu_ns + launch)
        layer += max(second.linear_ns + first.attention_ns, first.cpu_ns + launch if first.cpu else 0.0)
        tokens = len(first) + len(second)
        return tokens / (p.layers * layer + p.head_ns(tokens))

    def _overlapped_rate(self, batches: Batches, requests: int) -> float:
        """Tokens per ns of an overlapped step (the GPU's own for no requests), each worth 1/L token [I]."""
        p, first = self.predictor, batches[0]
        own, rows = len(first) - len(first.cpu), first.tokens - len(first.cpu)
        more = p.linear_ns(rows + requests) - p.linear_ns(rows)
        ns = p.layers * (p.linear_ns(rows) + first.attention_ns) + more + p.head_ns(own)
        return (own + requests / p.layers) / ns


def _context(requests: Iterable[Seen]) -> int:
    """Tokens that they attend together."""
    return sum(request.num_tokens for request in requests)
