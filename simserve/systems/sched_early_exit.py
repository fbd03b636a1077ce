"""SchED: a diffusion request ends as soon as its logits are far enough apart.

Source: SchED, notes in the digest of other systems, 2.21.
Claim: a threshold on the mean margin between the first and the second logit of the answer, which falls as the steps go
on, ends decoding 3.8 to 4.0 times earlier for instruct models, at 99.8 to 100 % of the score.
Modelled: at share p of the steps a request ends if its margin has reached tau(p), from `margin_high` down to
`margin_low`: linear, cosine or exponential in p; what is masked then is filled in the same step; steps as in
dLLM-Serve, on whose engine it runs here, so that seats and KV come free early. The margin is the request's own
(`workload.confidence`).
Simplified: one position a step until then; the margin is computed over the canvas, whose logits the price holds for the
block alone; `delay_step` as large as a block makes every step a full pass, as in the paper's own runs.
Reproduces: no figure of its own; the speed-up of instruct models is what the margins are fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, exp, pi

from simserve.policies.denoising import Phased, Work, canvas_of
from simserve.sim.plan import knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("sched_early_exit")
@dataclass
class SchedEarlyExit(Phased):
    """dLLM-Serve's queue with requests that may end early."""

    schedule: str = knob("linear", "how the margin that is asked for falls", choices=("linear", "cosine", "exp"))
    margin_high: float = knob(7.5, "margin asked for at the start", low=0.1, high=20.0)
    margin_low: float = knob(0.0, "margin asked for at the end", low=0.0, high=20.0)
    rate: float = knob(4.0, "k of the exponential schedule", low=2.0, high=16.0)

    def margin(self, progress: float) -> float:
        """tau at this share of the steps."""
        falls = {"linear": 1 - progress, "cosine": (1 + cos(pi * progress)) / 2, "exp": exp(-self.rate * progress)}
        return self.margin_low + (self.margin_high - self.margin_low) * falls[self.schedule]

    def next_pass(self, request: Seen) -> Work:
        """dLLM-Serve's, which may be the last."""
        tokens, work = super().next_pass(request)
        canvas = canvas_of(request)
        progress = (canvas.steps + 1) / canvas.tokens
        return tokens, replace(work, progress=progress, exit_margin=self.margin(progress))
