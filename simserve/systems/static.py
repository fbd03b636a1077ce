"""Static (request-level) batching: a batch runs until its last request is finished.

Source: the baseline of G.-I. Yu et al., "Orca", OSDI 2022, section 2, as in NVIDIA FasterTransformer; also the
`faster_transformer` scheduler of https://github.com/microsoft/sarathi-serve (Apache-2.0) [known].
Claim: requests that finish early leave their seats empty and arrivals wait for the slowest of the batch.
Modelled: batches of at most `max_num_seqs` requests in order of arrival; all prompts, then all decodes; nobody joins
a batch that runs; memory for prompt and `max_new_tokens` is held from the start [known].
Simplified: a request answers when it is finished, not when its batch is; no padding of prompts or finished seats
(the step costs what it computes); prompts beyond `max_num_batched_tokens` take several steps; a request that
outlives `max_new_tokens` grows by blocks, and the last of the batch gives way if there are none.
Knobs: `max_num_seqs` is the engine's max batch size; `max_num_batched_tokens` has no counterpart there;
`max_new_tokens` stands for the limit that clients declare [guessed].
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import closed_batch
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("static")
@dataclass
class Static:
    """Batches that nobody joins."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=65536)
    max_num_seqs: int = knob(8, "requests in a batch", low=1, high=4096)
    max_new_tokens: int = knob(1024, "output tokens to hold memory for; 0: the whole cache", low=0, high=65536)

    def plan(self, view: View) -> Plan:
        """A new batch if none runs; else its prompts; else its decodes."""
        return closed_batch(
            view, budget=self.max_num_batched_tokens, seats=self.max_num_seqs, max_new_tokens=self.max_new_tokens
        )
