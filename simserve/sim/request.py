"""What a policy may see of a request, what only the engine knows, and how a request ends.

`Seen` has no output length: a policy that wants one must predict it. `Request` adds what the engine knows
and is private to `sim`; after the run a request is one row of `Trace.requests`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from simserve.sim.denoise import Canvas

if TYPE_CHECKING:
    from simserve.sim.confidence import RequestConfidence
    from simserve.sim.images import Image


class Outcome(IntEnum):
    """How a request ended. Every request ends in exactly one, so conservation is one sum."""

    FINISHED = 0
    REJECTED = 1
    UNFINISHED = 2


class Seen:
    """The part of a request that schedulers and routers may read (and never write).

    num_tokens: prompt plus tokens generated so far; computed_tokens: those whose KV exists;
    blocks: KV blocks held. content: the prompt as (content id, tokens) pieces: two requests share a prefix as
    far as their pieces agree; output_content: the content id of what is generated;
    remote_tokens: tokens whose KV lies on another instance and must be fetched before the request can
    run here. A step gives a request tokens until computed catches up with known. canvas: of a diffusion request, None
    for one that decodes token by token. images: whose tokens are in the prompt.
    """

    __slots__ = (
        "arrival_ns",
        "blocks",
        "canvas",
        "computed_tokens",
        "content",
        "id",
        "images",
        "num_tokens",
        "output_content",
        "preemptions",
        "priority",
        "prompt_tokens",
        "remote_tokens",
        "session",
    )

    def __init__(
        self, id: int, arrival_ns: int, prompt_tokens: int, priority: int = 0,
        content: tuple[tuple[int, int], ...] | None = None, output_content: int | None = None, session: int = -1,
        images: tuple[Image, ...] = (),
    ) -> None:  # fmt: skip
        self.id = id
        self.arrival_ns = arrival_ns
        self.prompt_tokens = prompt_tokens
        self.priority = priority
        self.num_tokens = prompt_tokens
        self.computed_tokens = 0
        self.blocks = 0
        self.content = content if content is not None else ((-2 * id - 1, prompt_tokens),)
        self.output_content = -2 * id - 2 if output_content is None else output_content
        self.session = session
        self.preemptions = 0
        self.remote_tokens = 0
        self.canvas: Canvas | None = None
        self.images = images

    def __repr__(self) -> str:
        return f"<request {self.id}: {self.computed_tokens}/{self.num_tokens} tokens, {self.blocks} blocks>"


class Request(Seen):
    """A request with what only the engine knows: where it will end and when its tokens came.

    final_tokens: prompt plus output tokens; cached_tokens: prefix-cache hits at the first admission;
    kv_arrived_ns: when KV was last fetched for it; prefill_instance: which one handed it over, -1 for none; times
    are -1 until they happen; confidence: how sure the model is of a diffusion request's tokens.
    """

    __slots__ = (
        "cached_tokens",
        "confidence",
        "final_tokens",
        "first_scheduled_ns",
        "first_token_ns",
        "instance",
        "kv_arrived_ns",
        "last_token_ns",
        "prefill_instance",
    )

    def __init__(
        self, id: int, arrival_ns: int, prompt_tokens: int, output_tokens: int, priority: int = 0,
        content: tuple[tuple[int, int], ...] | None = None, output_content: int | None = None, session: int = -1,
        images: tuple[Image, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(id, arrival_ns, prompt_tokens, priority, content, output_content, session, images)
        self.cached_tokens = 0
        self.confidence: RequestConfidence | None = None
        self.final_tokens = prompt_tokens + output_tokens
        self.first_scheduled_ns = -1
        self.first_token_ns = -1
        self.last_token_ns = -1
        self.kv_arrived_ns = -1
        self.instance = -1
        self.prefill_instance = -1

    def successor(self, *, silent: bool = False) -> Request:
        """The same request on another instance: its tokens are known there, its KV is remote.

        silent: nobody has seen its first token, and the other instance computes it again, from the prompt's last.
        """
        other = Request(
            self.id, self.arrival_ns, self.prompt_tokens, self.final_tokens - self.prompt_tokens, self.priority,
            self.content, self.output_content, self.session,
        )  # fmt: skip
        other.num_tokens, other.remote_tokens = self.num_tokens, self.computed_tokens
        other.preemptions, other.cached_tokens = self.preemptions, self.cached_tokens
        other.first_scheduled_ns, other.first_token_ns = self.first_scheduled_ns, self.first_token_ns
        other.last_token_ns, other.prefill_instance = self.last_token_ns, self.instance
        if silent:
            other.num_tokens, other.remote_tokens = self.prompt_tokens, self.prompt_tokens - 1
            other.first_token_ns = other.last_token_ns = -1
        return other
