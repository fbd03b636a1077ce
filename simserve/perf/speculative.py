"""Decoding with drafted tokens, as the price of one token.

k tokens are drafted, each by one layer and the LM head, and verified together with the one that is due: the token
operations of the step see k + 1 rows a request, its attention reads the cache once [derived]. With acceptance rate p a
step yields 1 + p + ... + p^k tokens on average [known: Leviathan et al., 2023], so a token costs the step's time over
that. Simplified: every token takes the mean time; beside prompts a decode counts one row, and drafting there takes
launches (`EngineProfile.launching_ns`), no kernels; drafts take no memory, and what all requests verify is one step,
whatever the token budget.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drafts:
    """num_speculative_tokens a step, each accepted with `acceptance_rate` if all before it were; none: no drafts."""

    num_speculative_tokens: int = 0
    acceptance_rate: float = 0.0

    @property
    def rows(self) -> int:
        """Rows that a request has in a step."""
        return self.num_speculative_tokens + 1

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that a request gains in a step."""
        return sum(self.acceptance_rate**i for i in range(self.rows))
