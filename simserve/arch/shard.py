"""What one rank of a tensor-parallel group holds: vLLM's splitting rules."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.errors import Infeasible
from simserve.spec.model import ModelSpec

# vLLM pads the vocabulary to a multiple of 64 before it splits it (DEFAULT_VOCAB_PADDING_SIZE).
VOCAB_PADDING = 64
TP = "tensor_parallel_size"


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


def shard(
    model: ModelSpec, tensor_parallel_size: int, expert_parallel: bool = False, *,
    expert_ranks: int = 0, moe_tp: int = 0,
) -> Shard:  # fmt: skip
    """The share of one of `tensor_parallel_size` ranks.

    Query heads and MLP columns must divide evenly. Fewer key/value heads than ranks are replicated, so that
    each rank holds one. expert_parallel: whole experts on each rank instead of a part of every one. expert_ranks: those
    over which the experts are spread, 0 for the tensor-parallel ones; moe_tp: how many of them split each expert, 0 for
    1 with expert_parallel and for all without. Raises Infeasible naming the divisor.
    """
    ranks = tensor_parallel_size
    if ranks < 1:
        raise Infeasible(f"tensor_parallel_size must be at least 1, not {ranks}")
    _divides(ranks, model.num_attention_heads, "attention heads", model.name)
    if model.dense_layers:
        _divides(ranks, model.intermediate_size, "MLP columns", model.name)
    experts, spread = model.experts, expert_ranks or ranks
    inside = moe_tp or (1 if expert_parallel else spread)
    if experts is not None:
        size = "the number of expert-parallel ranks" if expert_ranks else TP
        _divides(spread // inside, experts.num_experts, "experts", model.name, size)
        _divides(inside, experts.moe_intermediate_size, "columns of an expert", model.name, size)
    return Shard(
        ranks=ranks,
        heads=model.num_attention_heads // ranks,
        kv_heads=_kv_heads(model, ranks),
        intermediate_size=model.intermediate_size // ranks,
        vocab_rows=-(-_padded(model.vocab_size) // ranks),
        shared_size=-(-experts.shared_intermediate_size // ranks) if experts else 0,
        moe_tp=1 if experts is None else inside,
        moe_ep=1 if experts is None else spread // inside,
    )


def _divides(ranks: int, amount: int, what: str, name: str, size: str = TP) -> None:
    if amount % ranks:
        raise Infeasible(f"{size} {ranks} does not divide the {amount} {what} of {name}")


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
