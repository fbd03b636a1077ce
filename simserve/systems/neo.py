"""NEO: decode attention of some requests on the host's CPU, hidden by two sub-batches.

Source: X. Jiang et al., "NEO: Saving GPU Memory Crisis with CPU Offloading for Online LLM Inference", MLSys 2025, arXiv
2411.01142; rules and constants from its repository, `swiftllm/server/scheduler.py` and predictor, commit b55aaab,
Apache-2.0, in own words [N]; times from page-citing reading notes of the paper.
Claim: a GPU short of KV memory serves larger batches if host memory holds some requests' KV and the CPU attends to it
while the GPU computes the linear layers of another sub-batch: +12 to +79 % on A10G, up to 7.5 times on T4.
Modelled: whole-request placement, swap-out at 100 % and swap-in at 95 % of GPU blocks, prompts to the host up to its
blocks less the GPU's through one staging layer (1/(L+1) of the GPU's blocks), batch-0 with prompts, GPU decodes and
some CPU decodes beside batch-1, windows with 0.8 ms of launch per stage, 128-token rule, the GPU-only batch where it is
predicted to be faster, a join at each stage; always_gpu: the SwiftLLM base mode, in which the host only keeps KV.
Simplified: the scheduler's own 3 ms are in the engine's host time; a victim for which the host has no room is
recomputed, an empty GPU takes a request above 95 %, and prompts longer than a step are cut [I]; one GPU.
Reproduces: closed forms and hand-made timelines here; the published gains by paper studies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from simserve.policies.subbatches import SubBatch, fill, windows_ns
from simserve.policies.tiers import Placement, choose_prompts, chunks, host_of, settle, start_prompts, with_slots
from simserve.sim.hybrid import HybridStep, Predictor, Strategy
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("neo")
@dataclass
class Neo:
    """NEO's scheduler; defaults are those of its repository [N]."""

    max_num_batched_tokens: int = knob(20480, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(1024, "requests that may run at once, in both tiers", low=1, high=4096)
    launch_ms: float = knob(0.8, "launch of a stage with CPU attention [N]", low=0.0, high=10.0)
    swap_in: float = knob(0.95, "share of GPU blocks up to which requests come back [N]", low=0.1, high=1.0)
    linear_threshold: int = knob(128, "tokens that a step keeps when it drops prompts for the host [N]",
                                 low=0, high=4096)  # fmt: skip
    always_gpu: bool = knob(False, "SwiftLLM's base mode: the host keeps KV, the CPU attends to none",
                            choices=(True, False))  # fmt: skip
    predictor: Predictor = field(init=False, repr=False)
    cpu_kernel = "ispc"
    staging_layers = 1

    def plan(self, view: View) -> Plan:
        """Place, choose prompts, and take the better of the GPU-only batch and two sub-batches."""
        plan = Plan()
        waiting = bool(view.waiting or view.preempted)
        swap_in = 1.0 if self.always_gpu else self.swap_in  # the base mode is a path of its own [N]
        at = settle(view, plan, self.max_num_batched_tokens, swap_in=swap_in)
        swapped = self.always_gpu and (at.hosted or plan.to_host or plan.to_gpu)
        if not plan.preempted and not swapped:
            bound = 0 if self.always_gpu else host_of(view).total - view.blocks.total
            choose_prompts(view, at, self.max_num_seqs, self.max_num_batched_tokens, host_blocks=bound)
        for request in at.decodes:
            plan.tokens[request] = 1
        step = None if self.always_gpu or not at.hosted else self._pipelined(view, plan, at)
        if step is None:
            kept = self._kept(at)
            start_prompts(view, plan, at, at.gpu_prompts, at.host_prompts[:kept])
        if step is None and (plan.to_host or plan.to_gpu or plan.admitted_host):
            step = HybridStep(Strategy.GPU)
        plan.hybrid = step
        plan.repeats = not waiting and not at.hosted and step is None and len(plan.tokens) == len(view.running)
        return plan

    def _kept(self, at: Placement) -> int:
        """Prompts for the host that the GPU-only batch keeps: the last ones go while enough tokens stay."""
        kept = len(at.host_prompts)
        tokens = len(at.decodes) + sum(n for n, _ in chunks([*at.long, *at.gpu_prompts, *at.host_prompts], at.budget))
        while kept and tokens - at.host_prompts[kept - 1].num_tokens >= self.linear_threshold:
            kept -= 1
            tokens -= at.host_prompts[kept].num_tokens
        return kept

    def _pipelined(self, view: View, plan: Plan, at: Placement) -> HybridStep | None:
        """Two sub-batches with their prompts admitted, or None if the GPU alone is predicted to be faster."""
        launch_ns = round(self.launch_ms * 1e6)
        fixed = [*at.long, *at.gpu_prompts]
        kept = self._kept(at)
        alone = SubBatch(self.predictor, at.decodes, chunks([*fixed, *at.host_prompts[:kept]], at.budget))
        whole = chunks([*fixed, *at.host_prompts], at.budget)
        batches = SubBatch(self.predictor, at.decodes, whole), SubBatch(self.predictor)
        ready = with_slots(view, at.hosted)
        fill(batches, ready, at.budget - sum(n for n, _ in whole), launch_ns)
        if not batches[1].cpu:
            return None
        host_prompts = self._trimmed(batches, len(fixed), at, launch_ns)
        both = sum(batch.gpu_ns for batch in batches)
        if len(alone) and len(alone) / alone.gpu_ns >= (len(batches[0]) + len(batches[1])) / both:
            return None
        start_prompts(view, plan, at, at.gpu_prompts, at.host_prompts[:host_prompts])
        for request in (*batches[0].cpu, *batches[1].cpu):
            plan.tokens[request] = 1
        return HybridStep(Strategy.PIPELINE, tuple(batches[0].cpu), tuple(batches[1].cpu), launch_ns=launch_ns)

    def _trimmed(self, batches: tuple[SubBatch, SubBatch], fixed: int, at: Placement, launch_ns: int) -> int:
        """Drop the last prompts for the host from batch-0 while windows and enough tokens stay; how many are left."""
        first = batches[0]
        while len(first.chunks) > fixed:
            last = first.drop_prompt()
            if first.tokens < self.linear_threshold or min(windows_ns(batches, launch_ns)) < 0:
                first.add_prompt(last)
                break
        return len(first.chunks) - fixed
