"""Denoising steps that several diffusion systems share: phases of a block, a queue and batches in lockstep.

A block of b positions is decoded in steps; in a refresh (FULL, BUILD) all of prompt and canvas are queries, in a reuse
the block alone is, beside cached keys and values. S = prompt + canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from simserve.arch.diffusion import Traits
from simserve.sim.denoise import Canvas, Pass, PassKind
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen

Work = tuple[int, Pass]  # query tokens, and what they do


def canvas_of(request: Seen) -> Canvas:
    """The canvas of a diffusion request."""
    assert request.canvas is not None
    return request.canvas


def length(request: Seen) -> int:
    """S, fixed from the start."""
    return request.prompt_tokens + canvas_of(request).tokens


def block_of(request: Seen, block_length: int) -> int:
    """Positions of the block that is being decoded; the last one may be short."""
    canvas = canvas_of(request)
    return min(block_length, canvas.tokens - canvas.committed // block_length * block_length)


def phase(step_in_block: int, delay_step: int) -> PassKind:
    """Steps before `delay_step` see everything and keep nothing, that one keeps, later ones reuse (dLLM-Serve)."""
    if step_in_block == delay_step:
        return PassKind.BUILD
    return PassKind.FULL if step_in_block < delay_step else PassKind.REUSE


def kept(tokens: int, block: int, retention_ratio: float) -> int:
    """Tokens outside the block whose KV is kept: max(1, floor(r (S - b))) [C]."""
    return max(1, int(retention_ratio * (tokens - block)))


def add(plan: Plan, request: Seen, work: Work) -> int:
    """Give a request its pass; returns the query tokens."""
    assert isinstance(plan.denoise, dict)
    plan.tokens[request], plan.denoise[request] = work
    return work[0]


@dataclass
class Limits:
    """What every diffusion system has: limits of a step, and KV of prompt and canvas."""

    max_num_batched_tokens: int = knob(16384, "query tokens of a step", low=256, high=65536)
    max_num_seqs: int = knob(512, "requests that may run at once", low=1, high=4096)
    block_length: int = knob(32, "positions decoded together", low=4, high=512)

    @property
    def step_tokens(self) -> int:
        """The whole budget."""
        return self.max_num_batched_tokens

    def slots(self, tokens: int) -> int:
        """All of them."""
        return tokens


@dataclass
class Phased(Limits):
    """dLLM-Serve's queue and states: strictly first come, first served on a budget of query tokens; defaults are the
    released ones [C].

    Who runs comes before who waits, and nobody is skipped; a refresh and a reuse share the step, which is the phase
    multiplexing. A request that is passed over keeps its place. KV is paged and reserved at admission.
    """

    engine = "dllm_serve"

    delay_step: int = knob(1, "steps of a block before its KV is kept", low=0, high=512)
    retention_ratio: float = knob(0.5, "share of the tokens whose KV is kept", low=0.05, high=1.0)
    max_num_logits: int = knob(1024, "rows of logits at a time; 0: all at once", low=0, high=65536)
    kv_moves: float = knob(5.0, "times cached KV crosses the memory bus in a reuse", low=1.0, high=10.0)

    def plan(self, view: View) -> Plan:
        """Running requests in order, then waiting ones, until one does not fit."""
        plan = Plan(denoise={})
        left = self.max_num_batched_tokens
        for request in view.running.values():
            work = self.next_pass(request)
            if work[0] > left:
                break
            left -= add(plan, request, work)
        for request in view.waiting.values():
            work = self.next_pass(request)
            if len(view.running) + len(plan.admitted) == self.max_num_seqs or work[0] > left:
                break
            if not view.blocks.reserve(request, self.slots(length(request))):
                break
            plan.admitted.append(request)
            left -= add(plan, request, work)
        return plan

    def next_pass(self, request: Seen) -> Work:
        """One position of the block, beside the share of the rest that is kept."""
        canvas, block, whole = canvas_of(request), block_of(request, self.block_length), length(request)
        kind, masked = phase(canvas.block_steps, self.delay_step), canvas.masked(self.block_length)
        if kind is not PassKind.REUSE:
            return whole, Pass(kind, 0, block, masked, 1, self.block_length)
        cached = min(kept(whole, block, self.retention_ratio), whole - block)
        return block, Pass(kind, cached, block, masked, 1, self.block_length)

    def slots(self, tokens: int) -> int:
        """ceil(r S), all reserved at admission [C]."""
        return ceil(self.retention_ratio * tokens)

    @property
    def traits(self) -> Traits:
        """Logits and probabilities of the block in bf16, so many rows at a time; pages of 256 tokens [C]."""
        return Traits(block_length=self.block_length, page_tokens=256, pooled=True, kv_moves=self.kv_moves,
                      max_num_logits=self.max_num_logits)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch in lockstep, padded to its longest: `start` and `block` positions of the block that is decoded, `steps`
    done in it, steps_done in all."""

    prompt: int
    canvas: int
    start: int
    block: int
    steps: int
    steps_done: int

    @property
    def length(self) -> int:
        """S of every row."""
        return self.prompt + self.canvas


@dataclass
class Lockstep(Limits):
    """Static batches of a reference implementation, padded, that run to completion.

    All rows are in the same phase; a row whose block is done waits, with its queries, for the slowest; answers come
    when all are done. As many requests as memory and the limits allow. Logits of all query tokens, in bf16 from the
    model, a float64 copy and its softmax: 18 bytes live, 40 moved [C, of the sampler that these repositories share].
    """

    engine = "reference_dllm"
    tokens_per_step = 1
    threshold = 0.0

    max_num_seqs: int = knob(1, "requests in a batch", low=1, high=512)
    block_length: int = knob(32, "positions decoded together", low=4, high=4096)

    def plan(self, view: View) -> Plan:
        """The batch's next step; a new batch, of the first that wait and fit, when the last one has ended."""
        plan = Plan(denoise={})
        seats, budget = self.max_num_seqs, self.max_num_batched_tokens
        members = list(view.running.values()) or _form(view, plan, budget, seats)
        if not members:
            return plan
        batch, behind = _batch(members, self.block_length)
        kind, queries, cached = self.work(batch)
        for request in members:
            own = canvas_of(request)
            masked = own.masked(self.block_length, batch.canvas) if own in behind else 0
            add(plan, request, (queries, Pass(
                kind, cached, queries, masked, min(masked, self.tokens_per_step), self.block_length, self.threshold,
                canvas_tokens=batch.canvas, together=True,
            )))  # fmt: skip
        return plan

    def work(self, batch: Batch) -> tuple[PassKind, int, int]:
        """What every row does: query tokens, cached tokens. A full pass."""
        return PassKind.FULL, batch.length, 0

    def with_cache(self, kv_share: float, kv_moves: float = 1.0) -> Traits:
        """Its traits, with so much kept of a token."""
        return Traits(block_length=self.block_length, kv_share=kv_share, kv_moves=kv_moves, logit_rows="all",
                      logit_copy_bytes=18, sampler_bytes=40)  # fmt: skip


def _batch(members: list[Seen], block_length: int) -> tuple[Batch, list[Canvas]]:
    """Where a batch is, and the canvases that are not done with its block."""
    canvas = max(canvas_of(r).tokens for r in members)
    index = min(canvas_of(r).committed // block_length for r in members)
    behind = [canvas_of(r) for r in members if canvas_of(r).committed // block_length == index]
    start = index * block_length
    return Batch(
        max(r.prompt_tokens for r in members), canvas, start, min(block_length, canvas - start),
        max(c.block_steps for c in behind), max(canvas_of(r).steps for r in members),
    ), behind  # fmt: skip


def _form(view: View, plan: Plan, budget: int, seats: int) -> list[Seen]:
    """The first requests that fit together, each padded to the longest prompt and the longest canvas."""
    prompt = canvas = 0
    members: list[Seen] = []
    for request in view.waiting.values():
        longer = max(prompt, request.prompt_tokens), max(canvas, canvas_of(request).tokens)
        count = len(members) + 1
        fits = count * view.blocks.count(sum(longer)) <= view.blocks.free and count * sum(longer) <= budget
        if count > seats or not fits:
            break
        members.append(request)
        prompt, canvas = longer
    for request in members:
        view.blocks.reserve(request, prompt + canvas)
    plan.admitted.extend(members)
    return members
