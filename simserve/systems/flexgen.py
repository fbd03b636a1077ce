"""FlexGen: offline generation with weights, KV and hidden states on GPU, host memory and disk.

Source: Y. Sheng et al., "FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU",
ICML 2023; FMInference/FlexLLMGen (Apache-2.0) for the cost model and the runtime's placement [known].
Claim: a block of gbs x n sequences that goes through a layer before the next layer's weights are loaded hides and
amortises their I/O; where everything lies is a linear programme.
Modelled: static blocks that run to completion, one step for all prompts of a block, one for each further token; time by
the zig-zag schedule (`simserve/perf/flexgen.py`), placement by `scipy.optimize.linprog` under peak memory
(`simserve/perf/flexgen_policy.py`) or as the study gives it; CPU attention where KV is off the GPU; KV capacity of the
tiers. A deployment needs `tiers`.
Simplified: no compression; no padding (a step costs what its requests have); embedding and LM head are left out, as in
FlexGen's cost model; finished requests leave their place in the block empty.
Knobs: `gpu_batch_size`, `num_gpu_batches` come from the placement; `max_num_seqs` bounds the block that the programme
may choose; `max_new_tokens` is `--gen-len`; `max_num_batched_tokens` has no counterpart.
Reproduces: OPT-6.7B, 30B and 175B on a T4, `simserve reproduce flexgen_t4`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import closed_batch
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("flexgen")
@dataclass
class FlexGen:
    """Blocks that nobody joins."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=1 << 30)
    max_num_seqs: int = knob(256, "requests in a block at most", low=1, high=65536)
    gpu_batch_size: int = knob(4, "sequences that the GPU computes at a time", low=1, high=65536)
    num_gpu_batches: int = knob(2, "GPU batches in a block", low=1, high=65536)
    max_new_tokens: int = knob(32, "output tokens to hold memory for; 0: the whole cache", low=0, high=65536)

    def plan(self, view: View) -> Plan:
        """A new block if none runs; else its prompts; else its decodes."""
        block = min(self.max_num_seqs, self.gpu_batch_size * self.num_gpu_batches)
        return closed_batch(view, budget=self.max_num_batched_tokens, seats=block, max_new_tokens=self.max_new_tokens)
