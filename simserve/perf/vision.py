"""What a pass of an encoder of images or of audio takes on one device, or split over the ranks of one node.

    encode = GEMMs(rows) + attention(groups of rows) + passes(rows) + projector(tokens), at least the host's launches

from the tables of GEMMs and of encoder attention (the roofline where there is none), at 16 bits, which quantised
checkpoints leave encoders in. Groups of different lengths share a launch, priced as equal ones with as many pairs
(`simserve.perf.prefill.equivalent`); windows are taken as full ones, so many of them as the rows fill, and more of them
than were measured in one launch as more launches of as many. Nothing of an encoder is cached, and a large image fills
a device on its own: that a batch gains nothing (ModServe, arXiv 2502.00937) comes out of the tables.
Left out: resizing and copying of pixels, and tiles that some engines pad an image with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simserve.arch.bidirectional import Rows
from simserve.arch.encoder import AnyEncoder, encoded_tokens, encoder_ops
from simserve.arch.ops import AllReduce, Attention, Elementwise, Gemm
from simserve.perf import store
from simserve.perf.compile import Formats, Tables, priced
from simserve.perf.elementwise import elementwise_ns
from simserve.perf.prefill import Equivalent, PrefillTable, equivalent
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec

Explained = list[tuple[str, Priced]]
Kernel = tuple[Attention, PrefillTable, str]


class EncoderCost:
    """Prices of an encoder. dtype: bf16 or fp16; eager_ns_per_op: host time to launch an operation, which a pass cannot
    undercut, for encoders run outside CUDA graphs (`EngineProfile.eager_ns_per_op`).

    Raises Infeasible where the encoder does not split over `tensor_parallel_size` ranks.
    """

    def __init__(
        self, gpu: GpuSpec, encoder: AnyEncoder, *, dtype: str = "bf16", tensor_parallel_size: int = 1,
        eager_ns_per_op: int = 0,
    ) -> None:  # fmt: skip
        self.gpu, self.encoder, self.dtype = gpu, encoder, dtype
        self.ops = encoder_ops(encoder, tensor_parallel_size)
        self._tables = Tables(gpu, Formats(dtype, "auto", 1, 1))
        self._attention: list[Kernel] = [(op, *self._tables.encoder(op)) for op in self.ops.attentions]
        self._launching_ns = float(self.ops.launches * eager_ns_per_op)
        self._on_rows: dict[int, tuple[Explained, float]] = {}
        self._on_tokens: dict[int, tuple[Explained, float]] = {}

    def encode_ns(self, images: Sequence[Rows]) -> int:
        """One pass over the rows of some images or sounds (`image_rows`, `audio_rows`) together; 0 for none."""
        if not images:
            return 0
        rows, tokens = self._of_rows(sum(map(sum, images))), self._of_tokens(encoded_tokens(self.encoder, images))
        groups = [length for image in images for length in image]
        kernels = rows[1] + tokens[1] + sum(self._attend(a, groups)[0] * a[0].count for a in self._attention)
        return round(max(kernels, self._launching_ns))

    def explain(self, images: Sequence[Rows]) -> Explained:
        """Every operation of a pass with its price; they add up to `encode_ns` but for rounding."""
        if not images:
            return []
        groups = [length for image in images for length in image]
        found = [*self._of_rows(sum(map(sum, images)))[0], *self._of_tokens(encoded_tokens(self.encoder, images))[0]]
        for a in self._attention:
            op, table, name = a
            ns, work = self._attend(a, groups)
            label = "window_attention" if op.window else "attention"
            found.append((label, priced(ns * op.count, table.source_at(work), name, table.note)))
        waits = self._launching_ns - sum(price.ns for _, price in found)
        if waits > 0:
            found.append(("launching", Priced(waits, "modelled", "engines/eager", "host launches")))
        return found

    def provenance(self) -> dict[str, Any]:
        """The tables behind the prices, with what their provenance says."""
        price = [*self._of_rows(1)[0], *self._of_tokens(1)[0]]
        names = sorted({p.table for _, p in price} | {name for _, _, name in self._attention})
        return {name: store.provenance(*name.rsplit("/", 1)) for name in names}

    def _of_rows(self, rows: int) -> tuple[Explained, float]:
        if rows not in self._on_rows:
            ops = self.ops
            self._on_rows[rows] = self._priced(rows, ops.rows, ops.row_passes, ops.row_reduces)
        return self._on_rows[rows]

    def _of_tokens(self, tokens: int) -> tuple[Explained, float]:
        if tokens not in self._on_tokens:
            self._on_tokens[tokens] = self._priced(tokens, self.ops.tokens, (), self.ops.token_reduces)
        return self._on_tokens[tokens]

    def _priced(
        self, m: int, gemms: Sequence[Gemm], passes: Sequence[Elementwise], reduces: Sequence[AllReduce]
    ) -> tuple[Explained, float]:
        """What runs on `m` rows, and the sum of it."""
        found: Explained = []
        at = np.array([float(m)])
        for gemm in gemms:
            curve, name = self._tables.gemm_curve(gemm, self.dtype, at)
            ns = float(curve.ns[0]) * gemm.count
            found.append((gemm.name, priced(ns, curve.source_at(m), name, curve.note)))
        for step in passes:
            ns = float(elementwise_ns(self.gpu, at * step.bytes_per_token)[0]) * step.count
            found.append((step.name, Priced(ns, "modelled", "roofline/elementwise", "bytes and launch floor")))
        for op in reduces:
            whole = replace(op, bytes_per_token=op.bytes_per_token * m)
            found.append(("all_reduce", self._tables.all_reduce(whole).price(1)))
        return found, sum(price.ns for _, price in found)

    def _attend(self, attention: Kernel, groups: Sequence[int]) -> tuple[float, Equivalent]:
        """(ns of one layer, what it was priced as)."""
        op, table, _ = attention
        if op.window:
            batch = sum(groups) / op.window
            work = Equivalent(batch, float(op.window), exact=False)
        else:
            work = equivalent([(length, 0) for length in groups])
        most = min(work.batch, table.most_batch)
        return table.time_ns(most, work.tokens) * work.batch / most, work
