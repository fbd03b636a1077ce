"""What serving a masked-diffusion model holds in memory beside its weights, and how a system goes about it.

Source: dLLM-Serve, arXiv 2512.17077, released code as in the digest, A1.3 [C]. A step's transient memory is

    max(Q (2 d + (H + 2 H_kv) head_dim + 3 ffn) 2 B kappa, rows V e)

with Q query tokens, kappa the allocator's slack, `rows` rows of logits at a time and e the bytes that all live copies
of a logit take together [I]. dLLM-Serve profiles it once, for a full step, and makes KV pages of the rest; reference
implementations have no pool: what a request needs grows with it, so here it is all in the price of a token's slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simserve.arch.dtypes import ACTIVATION_BYTES, check_dtype
from simserve.arch.memory import kv_bytes_per_token, runtime_bytes, weight_bytes
from simserve.errors import Infeasible
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec
from simserve.units import format_bytes

SLACK = 1.2  # of the allocator [I]
KV_DTYPE = "auto"
BATCH = "batch"  # what a system without a KV pool has for KV, activations and logits of its requests
LogitRows = Literal["block", "all"]


@dataclass(frozen=True)
class Traits:
    """What a diffusion system does beside scheduling.

    block_length: positions that are decoded together; page_tokens: KV tokens of a page, 1 without pages; pooled: KV
    pages are what a full step leaves, else KV, activations and logits come with each request; kv_share: bytes kept of
    a cached token, against its keys and values (0: nothing is cached); kept_rows: as wide as the model, kept beside of
    each token and layer; kv_moves: how often cached keys and values that a pass reads cross the memory bus (1:
    attention reads them in place);
    logit_rows: positions whose logits are computed: those of the current block, or of all query tokens;
    max_num_logits: rows at a time, 0 for all at once; logit_copy_bytes: of a logit, all live copies together;
    sampler_bytes: that the sampler reads and writes for a logit.
    """

    block_length: int = 32
    page_tokens: int = 1
    pooled: bool = False
    kv_share: float = 1.0
    kept_rows: int = 0
    kv_moves: float = 1.0
    logit_rows: LogitRows = "block"
    max_num_logits: int = 0
    logit_copy_bytes: int = 4
    sampler_bytes: int = 8

    def launches(self, requests: int, rows: int) -> int:
        """Passes through the LM head for so many rows of so many requests: in order, a request is never split."""
        if not self.max_num_logits or rows <= self.max_num_logits:
            return 1
        each = -(-rows // max(requests, 1))
        return -(-requests // max(1, self.max_num_logits // each))


def logit_bytes(model: ModelSpec, rows: int, copy_bytes: int) -> int:
    """Logits of so many rows: rows x vocabulary x bytes of all live copies of one; 3.86 GiB for 16,384 rows of LLaDA in
    one bf16 copy [D]."""
    return rows * model.vocab_size * copy_bytes


def body_bytes(model: ModelSpec, query_tokens: int) -> int:
    """Transient activations of a pass over so many query tokens: residual and hidden row, q, k and v, three rows of the
    MLP, with the allocator's slack [I]; 138 kB a token for LLaDA (115 without the slack; the digest has about 120)."""
    heads = (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    row = 2 * model.hidden_size + heads + model.mlp_matrices * model.intermediate_size
    return round(query_tokens * row * ACTIVATION_BYTES * SLACK)


def peak_bytes(model: ModelSpec, traits: Traits, query_tokens: int, rows: int) -> int:
    """Transient memory of a step with so many query tokens and rows of logits; a block's rows are never split."""
    held = min(rows, max(traits.max_num_logits, traits.block_length)) if traits.max_num_logits else rows
    return max(body_bytes(model, query_tokens), logit_bytes(model, held, traits.logit_copy_bytes))


def full_step_rows(traits: Traits, max_num_batched_tokens: int, max_num_seqs: int) -> int:
    """Rows of logits in the largest step: all of its tokens, or a block for each request."""
    if traits.logit_rows == "all":
        return max_num_batched_tokens
    return min(max_num_batched_tokens, max_num_seqs * traits.block_length)


def slot_bytes(model: ModelSpec, traits: Traits) -> int:
    """What a page holds: cached keys and values; without a pool also what the token's row takes in a full pass."""
    rows = traits.kept_rows * model.num_hidden_layers * model.hidden_size * ACTIVATION_BYTES
    kv = round(traits.page_tokens * (traits.kv_share * kv_bytes_per_token(model, KV_DTYPE, 1) + rows))
    if traits.pooled:
        return kv
    rows = traits.page_tokens if traits.logit_rows == "all" else 0
    return kv + peak_bytes(model, traits, traits.page_tokens, rows)


def placed(
    model: ModelSpec, gpu: GpuSpec, traits: Traits, dtype: str, max_num_batched_tokens: int, max_num_seqs: int
) -> dict[str, int]:
    """Bytes of weights, activations (of a full step, for systems with a pool) and libraries, by name."""
    check_dtype(gpu, dtype)
    rows = full_step_rows(traits, max_num_batched_tokens, max_num_seqs)
    step = peak_bytes(model, traits, max_num_batched_tokens, rows) if traits.pooled else 0
    return {"weights": weight_bytes(model, dtype, 1), "activations": step, "libraries": runtime_bytes(1)}


def num_slots(
    model: ModelSpec, gpu: GpuSpec, traits: Traits, *, dtype: str, gpu_memory_utilization: float,
    max_num_batched_tokens: int, max_num_seqs: int,
) -> int:  # fmt: skip
    """Pages (of `page_tokens`) that the memory leaves; Infeasible in bytes if there is none."""
    held = placed(model, gpu, traits, dtype, max_num_batched_tokens, max_num_seqs)
    budget = int(gpu.memory_bytes * gpu_memory_utilization)
    left = budget - sum(held.values())
    slots = left // slot_bytes(model, traits)
    if slots < 1:
        parts = " and ".join(f"{format_bytes(size)} of {name}" for name, size in held.items() if size)
        raise Infeasible(
            f"{model.name} in {dtype} on {gpu.name} does not fit: {parts} against {format_bytes(budget)} "
            f"({gpu_memory_utilization:g} of {format_bytes(gpu.memory_bytes)}) leave no page for KV"
        )
    return slots
