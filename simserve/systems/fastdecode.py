"""FastDecode: all decode attention on CPUs.

Source: J. He, J. Zhai, "FastDecode: High-Throughput GPU-Efficient LLM Serving using Heterogeneous Pipelines", arXiv
2403.11421; as modelled it is NEO's FastDecode+ (`--disable-partial-offl`) [N]: the same two sub-batches and runtime, no
KV on the GPU.
Claim: with the KV of all requests in host memory the GPU's batch is as large as its linear layers like it, and CPUs
together have the bandwidth to attend: 1.88 to 5.04 times vLLM on an A10 and four remote dual-EPYC nodes.
Modelled: prompts on the GPU, their KV to the host layer by layer; decodes in two equal sub-batches that alternate
between GPU and CPU; launch in the thread that attends.
Simplified: one host beside the GPU instead of remote nodes; a prompt longer than a step is cut on the GPU and leaves
when it is done; what the host cannot hold is recomputed, a request alone beyond it stays on the GPU [I].
Reproduces: NEO's remark that it drops below the GPU alone where outputs grow and the CPU is weak, as a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from simserve.policies.batching import in_prompt, preempt
from simserve.policies.tiers import Placement, choose_prompts, host_of, start_prompts, to_gpu, to_host
from simserve.sim.hybrid import HybridStep, Predictor, Strategy
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("fastdecode")
@dataclass
class FastDecode:
    """Everything decodes on the CPU."""

    max_num_batched_tokens: int = knob(20480, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(1024, "requests that may run at once", low=1, high=4096)
    launch_ms: float = knob(0.8, "launch of a stage with CPU attention [N]", low=0.0, high=10.0)
    predictor: Predictor = field(init=False, repr=False)
    cpu_kernel = "ispc"
    staging_layers = 1

    def plan(self, view: View) -> Plan:
        """Hosted requests decode, then prompts are admitted to the host as long as it holds them."""
        plan = Plan()
        host = host_of(view)
        at = Placement(long=[r for r in view.running.values() if in_prompt(r)])
        cpu = self._on_host(view, plan)
        for request in view.running.values():
            if in_prompt(request) or request in plan.preempted:
                continue
            if host.count(request.num_tokens) <= host.free:
                to_host(view, plan, request)
                cpu.append(request)
            elif view.blocks.reserve(request, request.num_tokens):
                at.decodes.append(request)
            else:
                preempt(view, plan, request)
        at.decodes += plan.to_gpu
        cpu = cpu[: self.max_num_batched_tokens - len(at.decodes)]
        at.budget = self.max_num_batched_tokens - len(at.decodes) - len(cpu)
        if not plan.preempted:
            self._choose(view, at)
        plan.tokens.update(dict.fromkeys((*at.decodes, *cpu), 1))
        start_prompts(view, plan, at, at.gpu_prompts, at.host_prompts)
        if cpu:
            plan.hybrid = HybridStep(Strategy.PIPELINE, tuple(cpu[1::2]), tuple(cpu[::2]),
                                     launch_ns=round(self.launch_ms * 1e6))  # fmt: skip
        elif plan.to_gpu or plan.admitted_host:
            plan.hybrid = HybridStep(Strategy.GPU)
        return plan

    def _choose(self, view: View, at: Placement) -> None:
        """Prompts for the host; one that is longer than a step, or than all of the host, for the GPU."""
        choose_prompts(view, at, self.max_num_seqs, self.max_num_batched_tokens, host_blocks=host_of(view).total,
                       prefer_host=True)  # fmt: skip

    def _on_host(self, view: View, plan: Plan) -> list[Seen]:
        """Hosted requests with a slot for their newest token; the last ones make room."""
        host, order, index = host_of(view), list(view.hosted.values()), 0
        while index < len(order):
            request = order[index]
            if host.reserve(request, request.num_tokens):
                index += 1
                continue
            victim = order.pop()
            if victim is request and not order and view.blocks.count(request.num_tokens) <= view.blocks.free:
                to_gpu(view, plan, request)
            else:
                host.release(victim)
                plan.preempted.append(victim)
        return order
