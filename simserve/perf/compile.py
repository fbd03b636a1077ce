"""One (model split, device, formats) into dense arrays: everything a step needs, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simserve.arch.dtypes import QUANTISED
from simserve.arch.ops import (
    AllReduce,
    AnyAttention,
    Attention,
    Elementwise,
    Experts,
    Gemm,
    LatentAttention,
    LinearAttention,
    SparseAttention,
    StepOps,
)
from simserve.perf import dsa, gdn, roofline, store
from simserve.perf.collective import (
    measured_all_reduce,
    measured_collective,
    roofline_all_reduce,
    roofline_collective,
)
from simserve.perf.decode import DecodeTable, measured_decode, roofline_decode, within_window
from simserve.perf.elementwise import elementwise_ns
from simserve.perf.encoder import measured_encoder, roofline_encoder
from simserve.perf.gemm import Curve, GemmTable, roofline_curve
from simserve.perf.internode import across
from simserve.perf.mla import (
    measured_bmm,
    measured_mla_decode,
    measured_mla_prefill,
    roofline_mla_decode,
    roofline_mla_prefill,
)
from simserve.perf.moe import MoeShape, MoeTable, measured_models, roofline_moe
from simserve.perf.prefill import PrefillTable, measured_prefill, roofline_prefill
from simserve.perf.priced import Priced, Source
from simserve.perf.relatives import gemm_table, has_rows, rated, source_for
from simserve.perf.roofline import Floats
from simserve.perf.scattered import ScatteredGemms
from simserve.spec.hardware import GpuSpec, LinkSpec, load_gpu, load_link

Prompts = PrefillTable | dsa.SparsePrefill


@dataclass(frozen=True)
class TokenOp:
    """An operation priced by a number of tokens alone: ns[m] for m = 0..M, all its runs together."""

    name: str
    ns: Floats
    source_at: Callable[[int], Source]
    table: str
    note: str

    def times(self, factor: float) -> TokenOp:
        """The same, so many times as long."""
        return self if factor == 1.0 else replace(self, ns=self.ns * factor)

    def price(self, m: int) -> Priced:
        """The price at m tokens."""
        source = self.source_at(m)
        error = self._error if source == "interpolated" else None
        return Priced(float(self.ns[m]), source, self.table, self.note, error)

    @cached_property
    def _error(self) -> float | None:
        return _left_out_error(self.table)


@dataclass(frozen=True)
class Formats:
    """Number formats and limits that tables are compiled for."""

    dtype: str
    kv_cache_dtype: str
    max_tokens: int
    max_num_seqs: int
    moe_dtype: str = ""
    inter_node_link: str = ""  # '' for the GPU's own
    kernel_tables: str = ""  # of the engine: `EngineProfile.kernel_tables`

    @property
    def experts(self) -> str:
        """The format of the experts' weights."""
        return self.moe_dtype or self.dtype

    @property
    def kv_dtype(self) -> str:
        """bf16 or fp8: 'auto' and fp16 hold two bytes."""
        return "fp8" if self.kv_cache_dtype == "fp8" else "bf16"


class Tables:
    """Chooses, per family, between a device's own tables, those of its relative, and the roofline."""

    def __init__(self, gpu: GpuSpec, formats: Formats) -> None:
        self.gpu, self.formats = gpu, formats
        self._gemms: dict[str, GemmTable | ScatteredGemms | None] = {}

    def origin(
        self, family: str, key: str = "", value: str = "", holds: Callable[[str], bool] = lambda name: True
    ) -> tuple[GpuSpec, GpuSpec] | None:
        """(this device as its prices see it, the one whose table of `family` answers); None for the roofline.

        Rows where key = value are asked for: of the engine's own tables, of the device's, of a relative's, which comes
        with peaks that publications support. holds: whether a table of the engine's, by its name, has the rest.
        """
        folders = self.formats.kernel_tables.split()
        for own in (f"{self.gpu.name}/{folder}" for folder in folders):
            if has_rows(own, family, key, value) and holds(own):
                gpu = self.gpu.model_copy(update={"name": own})
                return gpu, gpu
        if has_rows(self.gpu.name, family, key, value):
            return self.gpu, self.gpu
        name = source_for(self.gpu, family, key, value, folders, holds)
        if name is None:
            return None
        source = load_gpu(name)
        return rated(self.gpu, source), source

    def gemm(self, op: Gemm, dtype: str) -> TokenOp:
        """One GEMM over 1..max_tokens rows."""
        curve, name = self.gemm_curve(op, dtype, np.arange(1, self.formats.max_tokens + 1, dtype=np.float64))
        return TokenOp(op.name, _from_zero(curve.ns * op.count), curve.source_at, name, curve.note)

    def gemm_curve(self, op: Gemm, dtype: str, m: Floats) -> tuple[Curve, str]:
        """One run of a GEMM over each of `m` rows, ascending, and the table's name."""
        twin = "bf16" if dtype == "fp16" else dtype
        if twin not in self._gemms:
            pair = self.origin("gemm", "dtype", twin) if roofline.computes(self.gpu, dtype) else None
            self._gemms[twin] = gemm_table(*pair, dtype) if pair else None
        table = self._gemms[twin]
        curve = table.curve(op.n, op.k, m) if table else roofline_curve(self.gpu, dtype, op.n, op.k, m)
        return curve, f"{table.source.name}/gemm" if table else "roofline/gemm"

    def all_reduce(self, op: AllReduce) -> TokenOp:
        """One all-reduce over 1..max_tokens rows."""
        size = op.bytes_per_token * np.arange(1, self.formats.max_tokens + 1, dtype=np.float64)
        if op.ranks > self.gpu.domain_gpus:
            return self.collective("all_reduce", "all_reduce", row_bytes=op.bytes_per_token, count=op.count,
                                   ranks=op.ranks)  # fmt: skip
        pair = self.origin("all_reduce")
        curve = measured_all_reduce(*pair, op.ranks, size) if pair else roofline_all_reduce(self.gpu, op.ranks, size)
        row = op.bytes_per_token
        name = f"{pair[1].name}/all_reduce" if pair else "roofline/all_reduce"
        ns = _from_zero(curve.ns * op.count)
        return TokenOp("all_reduce", ns, lambda m: curve.source_at(m * row), name, curve.note)

    def collective(self, name: str, op: str, *, row_bytes: int, count: int, ranks: int, stride: int = 1) -> TokenOp:
        """A collective of messages of row_bytes x m bytes among `ranks`, every `stride`-th GPU one of them."""
        size = row_bytes * np.arange(1, self.formats.max_tokens + 1, dtype=np.float64)
        pair = self.origin("collective", "op", "all_gather" if op == "all_reduce" else op)
        near = min(ranks, max(1, self.gpu.domain_gpus // stride))
        if near < ranks:
            curve = across(op, self.gpu, pair, self.link(), ranks, near, size)
        else:
            curve = measured_collective(*pair, op, ranks, size) if pair else roofline_collective(self.gpu, ranks, size)
        table = f"{pair[1].name if pair else 'roofline'}/collective"
        return TokenOp(name, _from_zero(curve.ns * count), lambda m: curve.source_at(m * row_bytes), table, curve.note)

    def link(self) -> LinkSpec:
        """The link of one GPU to other nodes."""
        return load_link(self.formats.inter_node_link or self.gpu.inter_node_link)

    def elementwise(self, op: Elementwise) -> TokenOp:
        """One pass over 1..max_tokens rows."""
        size = op.bytes_per_token * np.arange(1, self.formats.max_tokens + 1, dtype=np.float64)
        ns = _from_zero(elementwise_ns(self.gpu, size) * op.count)
        return TokenOp(op.name, ns, lambda m: "modelled", "roofline/elementwise", "bytes and launch floor")

    def decode(self, a: AnyAttention) -> tuple[DecodeTable, str]:
        """Decode attention of one layer, and the table's name."""
        if isinstance(a, LatentAttention):
            return self._latent_decode(a)
        if isinstance(a, SparseAttention | LinearAttention):
            return self._module_decode(a)
        batch, kv = self.formats.max_num_seqs, self.formats.kv_dtype
        pair = self.origin("decode_attention", "kv_dtype", kv)
        if pair is None:
            element = 1 if kv == "fp8" else 2
            table = roofline_decode(self.gpu, element, a.kv_heads, a.head_dim, batch)
            return within_window(table, a.window), "roofline/decode_attention"
        name = f"{pair[1].name}/decode_attention"
        if a.window and has_rows(pair[1].name, "decode_attention", "window", str(a.window)):
            return measured_decode(*pair, kv, a.heads, a.kv_heads, a.head_dim, batch, a.window), name
        return within_window(measured_decode(*pair, kv, a.heads, a.kv_heads, a.head_dim, batch), a.window), name

    def prefill(self, a: AnyAttention) -> tuple[Prompts, str]:
        """Prefill attention of one layer, and the table's name."""
        kv = self.formats.kv_dtype
        if isinstance(a, SparseAttention | LinearAttention):
            return self._module_prefill(a)
        if isinstance(a, LatentAttention):
            pair = self.origin("mla_prefill", "kv_dtype", kv)
            latent = measured_mla_prefill(*pair, kv, a.heads) if pair else roofline_mla_prefill(self.gpu, a.heads)
            return latent, f"{pair[1].name if pair else 'roofline'}/mla_prefill"
        pair = self.origin("prefill_attention", "kv_dtype", kv)
        if pair is None:
            return roofline_prefill(self.gpu, a.heads, a.head_dim), "roofline/prefill_attention"
        known = a.window and has_rows(pair[1].name, "prefill_attention", "window", str(a.window))
        table = measured_prefill(*pair, kv, a.heads, a.kv_heads, a.head_dim, a.window if known else 0)
        return table, f"{pair[1].name}/prefill_attention"

    def _latent_decode(self, a: LatentAttention) -> tuple[DecodeTable, str]:
        """The kernel in the latent space, and the two batched GEMMs around it, one row per request."""
        batch, kv = self.formats.max_num_seqs, self.formats.kv_dtype
        pair, around = self.origin("mla_decode", "kv_dtype", kv), self.origin("mla_bmm")
        table = (measured_mla_decode(*pair, kv, a.heads, batch) if pair
                 else roofline_mla_decode(self.gpu, kv, a.heads, batch))  # fmt: skip
        if around is not None:
            rows = np.arange(1, batch + 1, dtype=np.float64)
            both = sum((measured_bmm(*around, op, a.heads, rows).ns for op in ("pre", "post")), np.zeros(batch))
            table = replace(table, ns=table.ns + _from_zero(both)[:, None])
        return table, f"{pair[1].name if pair else 'roofline'}/mla_decode"

    def _module_decode(self, a: SparseAttention | LinearAttention) -> tuple[DecodeTable, str]:
        """Blocks of sparse attention and gated delta nets."""
        batch, kv = self.formats.max_num_seqs, self.formats.kv_dtype
        if isinstance(a, LinearAttention):
            pair = self.origin("gdn", "op", "recurrence")
            net = gdn.measured_decode(*pair, a, batch) if pair else gdn.roofline_decode(self.gpu, a, batch)
            return net, f"{pair[1].name if pair else 'roofline'}/gdn"
        pair = self.origin("dsa_decode", "kv_dtype", kv)
        block = dsa.measured_decode(*pair, kv, a, batch) if pair else dsa.roofline_decode(self.gpu, kv, a, batch)
        return block, f"{pair[1].name if pair else 'roofline'}/dsa_decode"

    def _module_prefill(self, a: SparseAttention | LinearAttention) -> tuple[Prompts, str]:
        """Blocks of sparse attention and gated delta nets."""
        if isinstance(a, LinearAttention):
            pair = self.origin("gdn", "op", "scan")
            net = gdn.measured_prefill(*pair, a) if pair else gdn.roofline_prefill(self.gpu, a)
            return net, f"{pair[1].name if pair else 'roofline'}/gdn"
        kv = self.formats.kv_dtype
        pair = self.origin("dsa_prefill", "kv_dtype", kv)
        block = dsa.measured_prefill(*pair, kv, a) if pair else dsa.RooflinePrefill(self.gpu, a)
        return block, f"{pair[1].name if pair else 'roofline'}/dsa_prefill"

    def encoder(self, a: Attention) -> tuple[PrefillTable, str]:
        """Bidirectional attention of one layer of an encoder, and the table's name."""
        pair = self.origin("encoder_attention")
        if pair is None:
            return roofline_encoder(self.gpu, a.heads, a.head_dim), "roofline/encoder_attention"
        return measured_encoder(*pair, a.heads, a.head_dim), f"{pair[1].name}/encoder_attention"

    def experts(self, op: Experts) -> TokenOp:
        """One expert layer over 1..max_tokens rows."""
        shape = MoeShape(op.hidden, op.inter, op.experts, op.topk, tp=op.tp, ep=op.ep)
        tokens = np.arange(1, self.formats.max_tokens + 1, dtype=np.float64)
        dtype = self.formats.experts
        twin = "bf16" if dtype == "fp16" else dtype
        pair = self.origin("moe", "dtype", twin, lambda name: shape.model in measured_models(name, twin))
        curve = MoeTable(*pair, dtype).curve(shape, tokens) if pair else roofline_moe(self.gpu, dtype, shape, tokens)
        name = f"{pair[1].name if pair else 'roofline'}/moe"
        return TokenOp("experts", _from_zero(curve.ns * op.count), curve.source_at, name, curve.note)


def priced(ns: float, source: Source, table: str, note: str) -> Priced:
    """A price with the left-out error of its table, where the table was measured and interpolated."""
    return Priced(ns, source, table, note, _left_out_error(table) if source == "interpolated" else None)


def _left_out_error(table: str) -> float | None:
    device, _, family = table.rpartition("/")
    return store.left_out_error(device, family)


def token_ops(ops: StepOps, tables: Tables) -> list[TokenOp]:
    """Everything that depends on the tokens of the step alone, in the order of the layer."""
    return [
        *(tables.gemm(op, _format(op, tables)) for op in ops.gemms),
        *([tables.experts(ops.experts)] if ops.experts else []),
        *(tables.all_reduce(op) for op in ops.all_reduces),
        *(tables.elementwise(op) for op in ops.elementwise),
    ]


def prompt_ops(ops: StepOps, tables: Tables) -> list[TokenOp]:
    """What depends on the tokens of prompts alone."""
    return [tables.gemm(op, _format(op, tables)) for op in ops.prefill_gemms]


def head_op(ops: StepOps, tables: Tables) -> TokenOp:
    """The LM head over the sampled rows; it stays in 16 bits when the other weights are quantised."""
    dtype = tables.formats.dtype
    return tables.gemm(ops.lm_head, "bf16" if dtype in QUANTISED else dtype)


def _format(op: Gemm, tables: Tables) -> str:
    """The deployment's format, or the one that the weights keep; where that is 16 bit, the deployment's 16-bit one."""
    dtype = tables.formats.dtype
    return op.dtype if op.dtype and dtype != "fp16" else dtype


def _from_zero(ns: Floats) -> Floats:
    return np.concatenate([[0.0], ns])
