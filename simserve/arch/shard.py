"""What one rank of a tensor-parallel group holds: vLLM's splitting rules."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.errors import Infeasible
from simserve.spec.model import ModelSpec

# vLLM pads the vocabulary to a multiple of 64 before it splits it (DEFAULT_VOCAB_PADDING_SIZE).
VOCAB_PADDING = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """Sizes of one rank: query heads, key/value heads, MLP columns, vocabulary rows, columns of the shared experts.

    moe_tp, moe_ep: ranks that split each expert, and ranks that share the experts out.
    """

    ranks: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_rows: int
    shared_size: int = 0
    moe_tp: int = 1
    moe_ep: int = 1


def shard(model: ModelSpec, tensor_parallel_size: int, expert_parallel: bool = False) -> Shard:
    """The share of one of `tensor_parallel_size` ranks.

    Query heads and MLP columns must divide evenly. Fewer key/value heads than ranks are replicated, so that
    each rank holds one. expert_parallel: whole experts on each rank instead of a part of every one. Raises Infeasible
    naming the divisor.
    """
    ranks = tensor_parallel_size
    if ranks < 1:
        raise Infeasible(f"tensor_parallel_size must be at least 1, not {ranks}")
    _divides(ranks, model.num_attention_heads, "attention heads", model.name)
    if model.dense_layers:
        _divides(ranks, model.intermediate_size, "MLP columns", model.name)
    experts = model.experts
    if experts is not None and expert_parallel:
        _divides(ranks, experts.num_experts, "experts", model.name)
    elif experts is not None:
        _divides(ranks, experts.moe_intermediate_size, "columns of an expert", model.name)
    return Shard(
        ranks=ranks,
        heads=model.num_attention_heads // ranks,
        kv_heads=_kv_heads(model, ranks),
        intermediate_size=model.intermediate_size // ranks,
        vocab_rows=-(-_padded(model.vocab_size) // ranks),
        shared_size=-(-experts.shared_intermediate_size // ranks) if experts else 0,
        moe_tp=1 if expert_parallel or experts is None else ranks,
        moe_ep=ranks if expert_parallel and experts is not None else 1,
    )


def _divides(ranks: int, amount: int, what: str, name: str) -> None:
    if amount % ranks:
        raise Infeasible(f"tensor_parallel_size {ranks} does not divide the {amount} {what} of {name}")


def _kv_heads(model: ModelSpec, ranks: int) -> int:
    total = model.num_key_value_heads
    if total >= ranks:
        _divides(ranks, total, "key/value heads", model.name)
        return total // ranks
    if ranks % total:
        raise Infeasible(
            f"tensor_parallel_size {ranks} is not a multiple of the {total} key/value heads of {model.name}"
        )
    return 1


def _padded(vocab_size: int) -> int:
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING
