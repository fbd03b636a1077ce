"""Steps of FlexGen: a block of sequences goes through one layer before the next layer's weights are loaded (zig-zag).

Source: Y. Sheng et al., "FlexGen", ICML 2023, section 4, and `experimental/cost_model.py` of FMInference/FlexLLMGen
[known]. A layer takes, over a block,

    prefill   max(H2D + disk read, D2H + disk write, compute)
    decode    H2D + max(D2H, disk read, disk write, compute)

for copies and compute run side by side, and a step takes as many of these as there are layers. H2D: weights and hidden
states that are not on the GPU; disk read: weights and, decoding, KV on disk; D2H, disk write: new KV and hidden states;
compute: matrices, attention on the GPU for its share of the KV, on the CPU for the rest. Each lane is linear in the
nine shares of a placement, which is what the linear programme of `simserve.perf.flexgen_policy` rests on.

Ours: a step is priced by the lengths of its requests, where FlexGen takes s + n / 2 for all; a layer's matrices take no
less than reading its weights on the GPU [derived], which FlexGen's FLOP rates leave out. Left out, as there: embedding
and LM head, compression; a prompt in several steps does not load its earlier KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.perf.compile import Formats
from simserve.perf.host import EngineProfile
from simserve.perf.priced import Priced
from simserve.perf.rates import LayerShape, Rates, small_batch_factor
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec

Prompts = Sequence[tuple[int, int]]
DISK_WEIGHTS = 0.95  # of the disk's read rate for weights while KV is read as well [known]


@dataclass(frozen=True)
class Policy:
    """A placement: gpu_batch_size x num_gpu_batches sequences a block; shares on (GPU, host, disk) that add to 1."""

    gpu_batch_size: int
    num_gpu_batches: int
    weights: tuple[float, float, float]
    kv: tuple[float, float, float]
    hidden: tuple[float, float, float]

    @property
    def block(self) -> int:
        """Sequences of a block."""
        return self.gpu_batch_size * self.num_gpu_batches

    @property
    def shares(self) -> Floats:
        """All nine, in the order of the fields."""
        return np.array([*self.weights, *self.kv, *self.hidden])


@dataclass(frozen=True)
class Lanes:
    """Seconds of one layer by lane, for arrays or numbers; compute by kind."""

    h2d: Any
    d2h: Any
    disk_read: Any
    disk_write: Any
    matmul: Any
    gpu_attention: Any
    cpu_attention: Any

    @property
    def compute(self) -> Any:
        """GPU and CPU, one after the other."""
        return self.matmul + self.gpu_attention + self.cpu_attention

    def prefill(self) -> list[Any]:
        """The sums of which a prefill takes the largest."""
        return [self.h2d + self.disk_read, self.d2h + self.disk_write, self.compute]

    def decode(self) -> list[Any]:
        """The sums of which a decode step takes the largest."""
        return [self.h2d + other for other in (self.d2h, self.disk_read, self.disk_write, self.compute)]


def prefill_lanes(shape: LayerShape, rates: Rates, shares: Floats, prompts: int, tokens: int, pairs: int) -> Lanes:
    """One layer over `tokens` prompt tokens of `prompts` sequences; pairs: queries times keys, masked ones included."""
    _, wc, wd, _, cc, cd, _, hc, hd = shares
    hidden, kv = tokens * shape.hidden_bytes, (tokens + prompts) * shape.kv_bytes
    return Lanes(
        h2d=((wc + wd) * shape.weight_bytes + (hc + hd) * hidden) / rates.h2d,
        d2h=(cc + cd) * kv / rates.d2h_kv + (hc + hd) * hidden / rates.d2h_hidden,
        disk_read=(wd * shape.weight_bytes + hd * hidden) / rates.disk_read,
        disk_write=cd * kv / rates.disk_write_kv + hd * hidden / rates.disk_write_hidden,
        matmul=max(tokens * shape.weight_bytes / rates.prefill_matmul, shape.weight_bytes / rates.weight_stream),
        gpu_attention=4 * shape.query * pairs / rates.prefill_attention,
        cpu_attention=0.0,
    )


def decode_lanes(
    shape: LayerShape, rates: Rates, shares: Floats, gpu_batch_size: int, seqs: int, context: Any
) -> Lanes:  # fmt: skip
    """One layer over one token each of `seqs` sequences that attend to `context` tokens in all."""
    _, wc, wd, cg, cc, cd, _, hc, hd = shares
    hidden, kv = seqs * shape.hidden_bytes, context * shape.kv_bytes
    loaded = wd * shape.weight_bytes / (DISK_WEIGHTS * rates.disk_read)
    cpu = rates.cpu_attention * small_batch_factor(gpu_batch_size, shape.hidden)
    return Lanes(
        h2d=((wc + wd) * shape.weight_bytes + (hc + hd) * hidden) / rates.h2d,
        d2h=(hc + hd) * hidden / rates.d2h_hidden,
        disk_read=(cd * kv + hd * hidden) / rates.disk_read + loaded,
        disk_write=(cd * seqs * shape.kv_bytes + hd * hidden) / rates.disk_write_decode,
        matmul=max(seqs * shape.weight_bytes / rates.decode_matmul, shape.weight_bytes / rates.weight_stream),
        gpu_attention=cg * kv / rates.decode_attention,
        cpu_attention=(cc + cd) * kv / cpu,
    )


class FlexGenCost:
    """A `simserve.perf.cost.PricedCost` of a placement."""

    def __init__(
        self, shape: LayerShape, rates: Rates, policy: Policy, gpu: GpuSpec, profile: EngineProfile, formats: Formats
    ) -> None:
        self.shape, self.rates, self.policy = shape, rates, policy
        self.gpu, self.profile, self.formats = gpu, profile, formats

    def step_ns(self, prefill: Prompts, decode_seqs: int, decode_context_tokens: int, sampled: int) -> int:
        """See `simserve.perf.cost.CostModel`."""
        ns = self._whole_ns(np.maximum.reduce(self._prefill(prefill).prefill())) if prefill else 0
        if decode_seqs:
            ns += int(self.decode_run_ns(decode_seqs, decode_context_tokens, 1)[0])
        return max(1, ns)

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        context = decode_context_tokens + decode_seqs * np.arange(steps, dtype=np.float64)
        seconds = np.maximum.reduce(np.broadcast_arrays(*self._decode(decode_seqs, context).decode()))
        return np.asarray(np.maximum(1, self.shape.layers * NS * seconds + 0.5), dtype=np.int64)

    def explain(
        self, prefill: Prompts, decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """What each step waits for: loads of weights that nothing hides, then the slowest lane's parts."""
        rows: list[tuple[str, Priced]] = []
        if prefill:
            lanes = self._prefill(prefill)
            names = ("h2d and disk read", "d2h and disk write", "")
            rows += self._bound(lanes, lanes.prefill(), names, "prefill_attention")
        if decode_seqs:
            lanes = self._decode(decode_seqs, float(decode_context_tokens))
            rows.append(("h2d of weights", self._priced(lanes.h2d, "transfer")))
            others = [lanes.d2h, lanes.disk_read, lanes.disk_write, lanes.compute]
            rows += self._bound(lanes, others, ("d2h", "disk read", "disk write", ""), "decode_attention")
        return rows

    def under(self, profile: EngineProfile) -> FlexGenCost:
        """The same; no number of the profile is in the times."""
        return FlexGenCost(self.shape, self.rates, self.policy, self.gpu, profile, self.formats)

    def provenance(self) -> dict[str, Any]:
        """Placement and rates."""
        p = self.policy
        placed = {"gpu_batch_size": p.gpu_batch_size, "num_gpu_batches": p.num_gpu_batches}
        shares = {name: [round(share, 4) for share in getattr(p, name)] for name in ("weights", "kv", "hidden")}
        return {"model": "flexgen", "policy": placed | shares, "rates": vars(self.rates)}

    def _prefill(self, prompts: Prompts) -> Lanes:
        tokens = sum(chunk for chunk, _ in prompts)
        pairs = sum(chunk * (before + chunk) for chunk, before in prompts)
        return prefill_lanes(self.shape, self.rates, self.policy.shares, len(prompts), tokens, pairs)

    def _decode(self, seqs: int, context: Any) -> Lanes:
        p = self.policy
        return decode_lanes(self.shape, self.rates, p.shares, p.gpu_batch_size, seqs, context)

    def _bound(
        self, lanes: Lanes, sums: list[float], names: Sequence[str], attention: str
    ) -> list[tuple[str, Priced]]:
        """The slowest lane; compute, the last one, by its kinds."""
        slowest = int(np.argmax(sums))
        if names[slowest]:
            return [(names[slowest], self._priced(sums[slowest], "transfer"))]
        kinds = ("gemms", lanes.matmul, "gemm"), (attention, lanes.gpu_attention, attention)
        cpu = f"cpu {attention}", lanes.cpu_attention, attention
        return [(name, self._priced(seconds, family)) for name, seconds, family in (*kinds, cpu) if seconds]

    def _priced(self, seconds: float, family: str) -> Priced:
        fitted = self.gpu.name.partition("/")[0] == "t4"
        note = "FlexGen's fit of a T4" if fitted else "roofline"
        return Priced(float(self.shape.layers * NS * seconds), "modelled", f"roofline/{family}", note)

    def _whole_ns(self, seconds: float) -> int:
        return int(self.shape.layers * NS * seconds + 0.5)


def at_lengths(policy: Policy, prompt_tokens: int, output_tokens: int) -> tuple[int, int, float]:
    """(tokens, pairs, context while decoding) of a block with these padded lengths, as FlexGen plans with them."""
    block = policy.block
    return block * prompt_tokens, block * prompt_tokens**2, block * (prompt_tokens + output_tokens / 2)


def with_shares(policy: Policy, shares: Floats) -> Policy:
    """The same block otherwise placed."""
    w, c, h = (tuple(float(x) for x in shares[i : i + 3]) for i in (0, 3, 6))
    return replace(policy, weights=(w[0], w[1], w[2]), kv=(c[0], c[1], c[2]), hidden=(h[0], h[1], h[2]))
