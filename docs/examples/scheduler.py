r"""A scheduler of one's own: decodes first, then the shortest prompts, whole.

    python docs/examples/scheduler.py simulate --model meta-llama/Llama-3.1-8B --gpu h100_sxm --rate 20 \
        --isl 1000 --osl 100 --requests 300 --scheduler shortest_first

Claim: with prompts of very different length, short ones do not wait behind long ones.
Modelled: whole prompts within the budget, shortest first; on a shortage of blocks the last request is recomputed.
Simplified: no prefix cache, no chunks; long prompts starve as long as short ones come.
"""

import sys
from dataclasses import dataclass

from simserve.cli.main import main
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("shortest_first")
@dataclass
class ShortestFirst:
    """Its dataclass fields are its knobs: YAML checking, help and search space come from here."""

    max_num_batched_tokens: int = knob(8192, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)

    def plan(self, view: View) -> Plan:
        """One token for everyone who decodes; then prompts by length while blocks and budget last."""
        plan = Plan()
        for request in list(view.running.values()):
            if not view.blocks.reserve(request, request.num_tokens):
                view.blocks.release(request)
                plan.preempted.append(request)
                continue
            plan.tokens[request] = request.num_tokens - request.computed_tokens
        if plan.preempted:
            return plan
        left = self.max_num_batched_tokens - sum(plan.tokens.values())
        waiting = [*view.preempted.values(), *view.waiting.values()]
        for request in sorted(waiting, key=lambda r: (r.num_tokens, r.arrival_ns, r.id)):
            new = request.num_tokens
            alone = not plan.tokens
            if len(plan.tokens) >= self.max_num_seqs or (new > left and not alone):
                break
            if not view.blocks.reserve(request, new):
                break
            plan.admitted.append(request)
            plan.tokens[request] = new
            left -= new
        return plan


if __name__ == "__main__":
    sys.exit(main())
