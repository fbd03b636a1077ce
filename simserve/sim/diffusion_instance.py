"""An instance whose requests are canvases that denoising steps fill in, block after block.

A step is one forward pass over the query tokens of its requests; `simserve.perf.denoise` prices it as a prompt of so
many tokens beside as many cached ones. KV is reserved whole at admission and never grows. The first token of a request
is its first block, for nothing is known of a block before all of it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from simserve.errors import LawBroken
from simserve.sim.confidence import Confidence
from simserve.sim.denoise import Canvas, DenoiseUse, Pass, commit
from simserve.sim.instance import Instance
from simserve.sim.plan import Denoiser
from simserve.sim.request import Request, Seen
from simserve.sim.step import Step


class DiffusionInstance(Instance):
    """An instance of a diffusion model; confidence: how sure the model is of its requests' tokens."""

    def __init__(self, *args: Any, confidence: Confidence, max_model_len: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_model_len = max_model_len or 1 << 62  # what a request holds is no count of its tokens
        self.use = DenoiseUse()
        self._confidence = confidence

    def submit(self, request: Request) -> bool:
        """Queue a request; False if its tokens, its largest pass or its KV are more than there can be."""
        scheduler = cast(Denoiser, self.scheduler)
        request.canvas = Canvas(request.final_tokens - request.prompt_tokens)
        request.confidence = self._confidence.of(request.id)
        if request.final_tokens > min(self.max_model_len, scheduler.max_num_batched_tokens):
            return False
        return self.ledger.count(scheduler.slots(request.final_tokens)) <= self.ledger.total and super().submit(request)

    def _advance(self, step: Step, tokens_of: Mapping[Seen, int], running: Mapping[int, Request]) -> None:
        """Check the passes, and gather what the price depends on."""
        passes, use = step.plan.denoise or {}, self.use
        step.prefill, step.batch = [], []
        rows = total = 0
        for seen, tokens in tokens_of.items():
            request, work = running.get(seen.id), passes.get(seen)
            if request is None or work is None:
                raise LawBroken("running", "a request that does not run, or has no pass, got tokens",
                                time_ns=step.start_ns, request=seen.id)  # fmt: skip
            self._check(request, work, tokens, step.start_ns)
            step.batch.append(request)
            step.prefill.append((tokens, work.cached_tokens))
            rows += work.logit_rows
            total += tokens
            use.passes[work.kind] += 1
            use.query_tokens[work.kind] += tokens
        if total > self.scheduler.max_num_batched_tokens:
            raise LawBroken("budget", f"{total} tokens in one step", time_ns=step.start_ns)
        use.steps += 1
        step.decode = step.context = step.regular = step.left = 0
        step.sampled, step.tokens = rows, total

    def _check(self, request: Request, work: Pass, tokens: int, now: int) -> None:
        """LawBroken unless the pass is one that this request can make now."""
        canvas = request.canvas
        assert canvas is not None
        held = request.blocks * self.ledger.block_size
        masked = canvas.masked(work.block_length, work.canvas_tokens)
        if tokens < 1 or work.cached_tokens > held or not 0 <= work.masked <= masked:
            raise LawBroken("tokens", f"{tokens} query tokens and {work} do not fit {request}", time_ns=now,
                            request=request.id)  # fmt: skip
        if not min(work.masked, 1) <= work.least <= work.masked:
            raise LawBroken("progress", f"{work} commits nothing, or more than is masked", time_ns=now,
                            request=request.id)  # fmt: skip

    def _commit_one(self, step: Step, end: int) -> list[Request]:
        """Commit what each pass found; a request ends with its canvas, in lockstep with the last of its batch."""
        passes = step.plan.denoise or {}
        complete = []
        together = False
        for request in step.batch:
            work, canvas = passes[request], request.canvas
            assert canvas is not None
            whole = max(work.canvas_tokens, canvas.tokens)
            self._commit_pass(request, work, whole, end)
            together |= work.together
            if canvas.committed == whole:
                complete.append(request)
        if together and len(complete) < len(step.batch):
            return []
        for request in complete:
            request.last_token_ns = end
        return complete

    def _commit_pass(self, request: Request, work: Pass, whole: int, end: int) -> None:
        """What one pass adds to its request's canvas of `whole` positions."""
        canvas, confidence = request.canvas, request.confidence
        assert canvas is not None
        assert confidence is not None
        taken, ends_block = commit(canvas, work, confidence, whole)
        if not taken:
            return
        self.use.committed += taken
        if ends_block:
            if request.first_token_ns < 0:
                request.first_token_ns = end
            else:
                self.itl_gaps.append(end - request.last_token_ns)
            request.last_token_ns = end
        request.num_tokens = request.prompt_tokens + min(canvas.committed, canvas.tokens)
