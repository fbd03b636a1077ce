"""The KV block ledger of one instance: who holds how many blocks of the paged KV cache.

Rules after vLLM V1: a request holds ceil(tokens with slots / block_size) blocks, and one block of
`num_gpu_blocks` is a null block that is never handed out.
"""

from __future__ import annotations

from collections.abc import Sequence

from simserve.errors import SimserveError
from simserve.sim.request import Seen


class BlockLedger:
    """Counts blocks; implements `sim.plan.Blocks`."""

    __slots__ = ("block_size", "free", "total")

    def __init__(self, num_gpu_blocks: int, block_size: int) -> None:
        if num_gpu_blocks < 2 or block_size < 1:
            raise SimserveError(f"a KV cache needs 2 blocks of 1 token, not {num_gpu_blocks} of {block_size}")
        self.block_size = block_size
        self.total = num_gpu_blocks - 1
        self.free = self.total

    @property
    def used(self) -> int:
        """Blocks held by requests."""
        return self.total - self.free

    def count(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def reserve(self, request: Seen, tokens: int, *, delay_cache: bool = False) -> bool:
        """Give `request` slots for its first `tokens` tokens; False (and no change) if they are not free."""
        more = -(-tokens // self.block_size) - request.blocks
        if more > self.free:
            return False
        if more > 0:
            self.free -= more
            request.blocks += more
        return True

    def cached_tokens(self, request: Seen) -> int:
        """Tokens that need not be computed: what was fetched into blocks that the request holds."""
        return request.computed_tokens if request.blocks else 0

    def fits(self, request: Seen, tokens: int, headroom: int) -> bool:
        """Whether a waiting request's first `tokens` tokens fit beside `headroom` blocks; see `sim.plan.Blocks`."""
        if request.blocks:
            return self.count(tokens) - request.blocks <= self.free
        return self.count(tokens) + headroom <= self.free

    def attach(self, request: Seen) -> int:
        """Give `request` its cached prefix, of which there is none; returns its `cached_tokens`."""
        return self.cached_tokens(request)

    def advance(self, requests: Sequence[Seen], steps: int) -> bool:
        """Blocks for the `steps` decode steps that a batch has taken; False if they are not free."""
        size = self.block_size
        for request in requests:
            if request.computed_tokens > request.blocks * size:
                more = -(-request.computed_tokens // size) - request.blocks
                if more > self.free:
                    return False
                self.free -= more
                request.blocks += more
        return True

    def forget(self, request: Seen) -> None:
        """The request has ended."""

    def release(self, request: Seen) -> None:
        """Take all blocks from `request`."""
        self.free += request.blocks
        request.blocks = 0
