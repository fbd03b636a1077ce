"""DeepSeek sparse attention (DeepSeek-V3.2, GLM-5): latent attention whose keys an indexer picks, as one module.

The indexer's projections are on every rank; its keys are cached beside the latent vector, 8 bits each with a scale of
four bytes per 128 [known: vLLM, SGLang]. With an fp8 cache the rotated part of the latent vector stays in 16 bits and
every 128 of its other values have a scale: 512 + 16 + 128 bytes [known: fp8_ds_mla].
"""

from __future__ import annotations

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.ops import SparseAttention
from simserve.arch.shard import Shard
from simserve.spec.model import LatentSpec, ModelSpec, SparseSpec

_SCALED, _SCALE_BYTES = 128, 4


def sparse_attention(model: ModelSpec, part: Shard, dtype: str) -> SparseAttention | None:
    """The attention blocks of one rank, None for a model without an indexer; dtype: of the deployment's weights."""
    latent, sparse = model.latent, model.sparse
    if latent is None or sparse is None:
        return None
    kept = dtype == "nvfp4" and "attention" in model.nvfp4_keeps
    return SparseAttention(
        part.heads, model.num_hidden_layers, model.hidden_size, latent.q_lora_rank, latent.kv_lora_rank,
        latent.qk_rope_head_dim, latent.qk_nope_head_dim, latent.v_head_dim, sparse.index_n_heads,
        sparse.index_head_dim, sparse.index_topk, "bf16" if kept else dtype,
    )  # fmt: skip


def index_parameters(model: ModelSpec, latent: LatentSpec, sparse: SparseSpec) -> int:
    """Weights of one layer's indexer: queries out of the query rank, a key and head weights out of the hidden row."""
    wide = sparse.index_n_heads * sparse.index_head_dim
    return latent.q_lora_rank * wide + model.hidden_size * (sparse.index_head_dim + sparse.index_n_heads)


def index_small_parameters(model: ModelSpec) -> int:
    """Weight and bias of the norm over a layer's index key; 0 without an indexer."""
    return 2 * model.sparse.index_head_dim if model.sparse else 0


def sparse_bytes_per_token(latent: LatentSpec, sparse: SparseSpec, kv_cache_dtype: str) -> int:
    """Bytes that one layer caches per token: the latent vector and the index key."""
    index = sparse.index_head_dim + sparse.index_head_dim // _SCALED * _SCALE_BYTES
    if kv_cache_dtype != "fp8":
        return ACTIVATION_BYTES * (latent.kv_lora_rank + latent.qk_rope_head_dim) + index
    scales = latent.kv_lora_rank // _SCALED * _SCALE_BYTES
    return latent.kv_lora_rank + scales + ACTIVATION_BYTES * latent.qk_rope_head_dim + index
