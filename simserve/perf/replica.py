"""The cost model of one replica of any layout, put together from those of its parts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from simserve.arch.decoder import decoder_ops
from simserve.arch.dtypes import check_dtype
from simserve.arch.layout import Layout, stage_layers, stage_model
from simserve.arch.ops import AllReduce, StepOps
from simserve.errors import Infeasible
from simserve.perf import attention_dp, context, pipeline
from simserve.perf.compile import Formats, Tables
from simserve.perf.cost import PricedCost
from simserve.perf.host import EngineProfile, load_profile
from simserve.perf.model import NO_DRAFTS, TableCost, build_cost, most_tokens
from simserve.perf.speculative import Drafts
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec


@lru_cache(maxsize=128)
def build_replica(
    model: ModelSpec, gpu: GpuSpec, layout: Layout, *, dtype: str = "bf16", moe_dtype: str = "",
    kv_cache_dtype: str = "auto", max_num_batched_tokens: int = 8192, max_num_seqs: int = 256,
    all2all_backend: str = "allgather_reducescatter", inter_node_link: str = "",
    profile: EngineProfile | None = None, drafts: Drafts = NO_DRAFTS,
) -> PricedCost:  # fmt: skip
    """The compiled cost model of a replica; max_num_batched_tokens and max_num_seqs are those of one rank.

    Raises Infeasible for what cannot be spread in this way or a dtype that the device lacks.
    """
    layout.check(model)
    if layout.plain:
        return build_cost(
            model, gpu, tensor_parallel_size=layout.tp, dtype=dtype, moe_dtype=moe_dtype,
            expert_parallel=layout.expert_parallel, kv_cache_dtype=kv_cache_dtype,
            max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs,
            inter_node_link=inter_node_link, profile=profile, drafts=drafts,
        )  # fmt: skip
    check_dtype(gpu, dtype)
    check_dtype(gpu, moe_dtype or dtype)
    if drafts.num_speculative_tokens and (layout.pp > 1 or layout.kv_ranks > 1):
        raise Infeasible("num_speculative_tokens is not modelled with pipeline or context parallelism")
    engine = profile or load_profile("vllm", calibrated=False)
    largest = most_tokens(engine, max_num_batched_tokens, max_num_seqs, drafts)
    # a prompt alone may take the budget of all ranks
    rows = max_num_seqs * drafts.rows
    most = layout.dp * largest
    formats = Formats(dtype, kv_cache_dtype, most, rows, moe_dtype, inter_node_link, engine.kernel_tables)
    ends = stage_layers(model.num_hidden_layers, layout.pp)
    stages = [
        _stage(stage_model(model, *pair), gpu, layout, formats, engine, drafts, all2all_backend,
               first=pair[0] == 0, last=pair[1] == model.num_hidden_layers)
        for pair in ends
    ]  # fmt: skip
    if layout.pp == 1:
        return stages[0]
    return pipeline.PipelineCost(stages, pipeline.sends(model.hidden_size, layout, Tables(gpu, formats)), layout.dp)


def _stage(
    model: ModelSpec, gpu: GpuSpec, layout: Layout, formats: Formats, engine: EngineProfile, drafts: Drafts,
    all2all_backend: str, *, first: bool, last: bool,
) -> PricedCost:  # fmt: skip
    """One stage: its ranks' attention and dense layers, the experts that they share, and the exchange of context."""
    ops = decoder_ops(
        model, layout.tp, formats.dtype, expert_parallel=layout.expert_parallel, expert_ranks=layout.expert_ranks,
        moe_tp=layout.moe_tp,
    )  # fmt: skip
    ops = _without_ends(ops, first, last).without(engine.fused_passes)
    own = engine if first else pipeline.without_host(engine)
    experts = ops.experts
    if experts is None or layout.dp * layout.pcp == 1:
        return _rank(model, gpu, layout, formats, own, drafts, ops)
    rank = _rank(model, gpu, layout, formats, own, drafts, replace(ops, experts=None))
    shared = attention_dp.shared_ops(experts, layout, Tables(gpu, formats), all2all_backend)
    return attention_dp.AttentionDpCost(rank, shared, layout.dp, own, ops, drafts, model.num_hidden_layers)


def _rank(
    model: ModelSpec, gpu: GpuSpec, layout: Layout, formats: Formats, engine: EngineProfile, drafts: Drafts,
    ops: StepOps,
) -> PricedCost:  # fmt: skip
    if layout.kv_ranks == 1:
        return TableCost(ops, gpu, formats, engine, drafts)
    tables = context.ContextTables(gpu, formats, layout.dcp)
    gather, combine = context.exchanges(model, layout, tables)
    return context.ContextCost(TableCost(ops, gpu, formats, engine, tables=tables), layout, gather, combine)


def _without_ends(ops: StepOps, first: bool, last: bool) -> StepOps:
    """Without embedding (and its all-reduce) but in the first stage, without final norm and LM head but in the last."""
    passes = ops.elementwise
    if not first:
        passes = tuple(op for op in passes if op.name != "embedding")
    if not last:
        passes = tuple(replace(op, count=op.count - 1) if op.name == "add_rms_norm" else op for op in passes)
    reduces: tuple[AllReduce, ...] = ops.all_reduces
    if not first:  # the embedding's is one of the first kind
        reduces = tuple(replace(op, count=op.count - (i == 0)) for i, op in enumerate(reduces))
    return replace(ops, elementwise=passes, all_reduces=reduces,
                   lm_head=ops.lm_head if last else replace(ops.lm_head, count=0))  # fmt: skip
