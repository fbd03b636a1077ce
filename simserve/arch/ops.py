"""The operations of one step of one rank, as shapes. A cost model turns them into time.

`m`, the number of tokens in the step, is left out everywhere: it alone changes between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Gemm:
    """[m, k] x [k, n], run `count` times a step; shapes per rank, after the tensor-parallel split.

    dtype: the format that the weights keep whatever the deployment's is; '' for the deployment's.
    """

    name: str
    n: int
    k: int
    count: int
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention of `heads` query heads over `kv_heads` key/value heads, `count` layers; per rank.

    window: keys that a query sees, itself included; 0 for all before it.
    """

    heads: int
    kv_heads: int
    head_dim: int
    count: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention of `heads` heads per rank, `count` layers; the cached vector is on every rank."""

    heads: int
    count: int


@dataclass(frozen=True, slots=True)
class SparseAttention:
    """A whole block of latent attention with DeepSeek's indexer, projections included, `count` layers; per rank.

    Priced as one module, as it was measured. hidden, q_lora_rank, kv_lora_rank, rope, nope, value: sizes of the model;
    index_heads, index_dim: of the indexer; topk: keys that a query sees; dtype: of the projections.
    """

    heads: int
    count: int
    hidden: int
    q_lora_rank: int
    kv_lora_rank: int
    rope: int
    nope: int
    value: int
    index_heads: int
    index_dim: int
    topk: int
    dtype: str = "bf16"

    @property
    def shared_weights(self) -> int:
        """Elements that every rank holds whole: projections down to the ranks, and the indexer's."""
        index = self.q_lora_rank * self.index_heads * self.index_dim + self.hidden * (self.index_dim + self.index_heads)
        return self.hidden * (self.q_lora_rank + self.kv_lora_rank + self.rope) + index

    @property
    def head_weights(self) -> int:
        """Elements of the projections of this rank's heads: queries, keys and values, output."""
        up = self.q_lora_rank * (self.nope + self.rope) + self.kv_lora_rank * (self.nope + self.value)
        return self.heads * (up + self.value * self.hidden)


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """A gated delta net without its projections: causal convolution of width `conv`, recurrence of the state; per rank.

    state_bytes: per element of the state [value_heads, key_dim, value_dim].
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv: int
    state_bytes: int
    count: int

    @property
    def channels(self) -> int:
        """Values a token that are convolved: queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class Experts:
    """An expert layer, `count` times a step: sizes of the model, split by `tp` inside experts and `ep` over them."""

    hidden: int
    inter: int
    experts: int
    topk: int
    tp: int
    ep: int
    count: int


@dataclass(frozen=True, slots=True)
class AllReduce:
    """A sum over `ranks` of `bytes_per_token` x m bytes, run `count` times a step."""

    bytes_per_token: int
    count: int
    ranks: int


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound pass: `bytes_per_token` x m bytes, reads and writes together, `count` times a step."""

    name: str
    bytes_per_token: int
    count: int


# Of `decoder_ops`, between a layer's norm and attention; rotary and kv_write are in TensorRT-LLM's kernel.
LATENT_PASSES = ("qkv_a_proj", "q_b_proj", "kv_b_proj", "latent_norm")

AnyAttention = Attention | LatentAttention | SparseAttention | LinearAttention


@dataclass(frozen=True, slots=True)
class StepOps:
    """Everything one rank does in a step. `lm_head` runs on the sampled rows only, the rest on all tokens.

    `all_reduces` is empty without tensor parallelism. The all-gather of the logits is not in the list: its
    size goes with the sampled rows, and at 2 x vocabulary / ranks bytes a row it is far below the others.
    attentions: one entry per kind of layer; prefill_gemms: over the tokens of prompts alone.
    """

    gemms: tuple[Gemm, ...]
    attentions: tuple[AnyAttention, ...]
    all_reduces: tuple[AllReduce, ...]
    elementwise: tuple[Elementwise, ...]
    lm_head: Gemm
    experts: Experts | None = None
    prefill_gemms: tuple[Gemm, ...] = ()

    def without(self, passes: str) -> StepOps:
        """The same but for the passes of these names, parted by blanks, where another kernel does their work."""
        gone = passes.split()
        return replace(self, elementwise=tuple(op for op in self.elementwise if op.name not in gone))

    def launches(self, expert_launches: int, linear_launches: int = 1, latent_launches: int = 1) -> int:
        """Operations that the host launches in a step with prompts, so many for an expert layer and for attention."""
        several = (self.gemms, self.all_reduces, self.elementwise, self.prefill_gemms)
        experts = expert_launches * self.experts.count if self.experts else 0
        attention = self.attention_launches(linear_launches, latent_launches)
        return 1 + experts + attention + sum(op.count for ops in several for op in ops)

    @property
    def layers(self) -> int:
        """Layers of the model, each with its attention."""
        return sum(op.count for op in self.attentions)

    def attention_launches(self, linear_launches: int = 1, latent_launches: int = 1) -> int:
        """Those of attention alone."""
        each = {LinearAttention: linear_launches, LatentAttention: latent_launches}
        return sum(each.get(type(op), 1) * op.count for op in self.attentions)

    def uncaptured_launches(self, linear_launches: int = 1, latent_launches: int = 1) -> int:
        """Those of attention as TensorRT-LLM leaves it out of captured pieces: latent attention from hidden states on.

        mla_custom_op_inplace takes the hidden states, so projections and norms of latent vectors, and their
        quantisation, are launched, too; elsewhere attn_custom_op_inplace is the kernel [known].
        """
        passes: tuple[Gemm | Elementwise, ...] = (*self.gemms, *self.prefill_gemms, *self.elementwise)
        within = sum(op.count for op in passes if op.name.startswith(LATENT_PASSES))
        return self.attention_launches(linear_launches, latent_launches) + within
