"""Shared steps of batch rules on a real ledger."""

from simserve.policies.batching import hold
from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Request


def test_a_piece_of_a_prompt_enters_the_cache_though_its_blocks_are_held() -> None:
    """60 tokens in blocks of 4, all reserved for a fetch: each piece that is computed can be found by another."""
    ledger, content = PrefixLedger(30, 4), ((7, 60),)
    first, second = (Request(i, 0, 60, 5, content=content) for i in range(2))
    ledger.reserve(first, 60, delay_cache=True)

    found = []
    for computed, target in ((4, 35), (35, 59), (59, 60)):
        first.computed_tokens = computed
        assert hold(ledger, first, target)
        found.append(ledger.cached_tokens(second))
    assert [32, 56, 56] == found  # at most all tokens but one
