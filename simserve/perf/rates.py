"""What an offline system's layers consist of, and what its links, disk and processors reach.

FlexGen fitted these to its own runs on a Google Cloud T4: `experimental/cost_model.py` of FMInference/FlexLLMGen
(Apache-2.0), whose GB is 2^30 bytes [known]. Of another GPU the compute rates are its roofline with the efficiencies of
`simserve.perf.roofline` [derived], host-to-GPU copies reach what its PCIe does [known]; copies to the host, where
FlexGen's own software is the limit, and the disk stay as fitted [guessed].
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log2

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.errors import Infeasible
from simserve.perf import roofline
from simserve.perf.cpu_attention import kernels
from simserve.spec.hardware import GpuSpec, load_host, load_link
from simserve.spec.model import ModelSpec
from simserve.spec.tiers import TiersSpec
from simserve.units import GIB

FITTED_GPU = "t4"
# Bytes/s and FLOP/s [known]. Attention while decoding: one FLOP a byte of 16-bit KV.
FITTED = {
    "h2d": 12.89 * GIB, "d2h_kv": 0.97 * GIB, "d2h_hidden": 4.82 * GIB,
    "disk_read": 0.473 * GIB, "disk_write_kv": 0.746 * GIB, "disk_write_hidden": 2.015 * GIB,
    "disk_write_decode": 2.015 * GIB,
    "prefill_matmul": 21.24e12, "decode_matmul": 4.3e12, "prefill_attention": 9.97e12,
    "decode_attention": 0.079e12, "cpu_attention": 0.0123e12,
}  # fmt: skip
DISK = tuple(name for name in FITTED if name.startswith("disk_"))
CPU_KERNEL = "torch"


@dataclass(frozen=True)
class LayerShape:
    """A decoder layer in bytes of 16 bit: weights, KV of a token, a hidden row; as much FLOP a token as weight bytes.

    hidden: elements of a row; ffn: columns of the MLP; query: query heads times their size.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    query: int
    weight_bytes: int
    kv_bytes: int

    @property
    def hidden_bytes(self) -> int:
        """Of one token's hidden row."""
        return ACTIVATION_BYTES * self.hidden


@dataclass(frozen=True)
class Rates:
    """Bytes per second of links and disk, FLOP per second of processors, as `simserve.spec.tiers.RatesSpec` names them.

    weight_stream: at which the GPU reads the weights of a layer for a small batch, in bytes per second.
    """

    h2d: float
    d2h_kv: float
    d2h_hidden: float
    disk_read: float
    disk_write_kv: float
    disk_write_hidden: float
    disk_write_decode: float
    prefill_matmul: float
    decode_matmul: float
    prefill_attention: float
    decode_attention: float
    cpu_attention: float
    weight_stream: float


def layer_shape(model: ModelSpec) -> LayerShape:
    """A layer of a dense model with plain attention, 8 h^2 + 4 h h_ffn bytes in OPT; Infeasible for others."""
    if model.experts or model.latent or model.linear or model.sliding_layers:
        raise Infeasible(f"offline offload is modelled for dense models with plain attention, not {model.name}")
    query, kv = (heads * model.head_dim for heads in (model.num_attention_heads, model.num_key_value_heads))
    matrices = 2 * model.hidden_size * (query + kv) + model.mlp_matrices * model.hidden_size * model.intermediate_size
    return LayerShape(
        model.num_hidden_layers, model.hidden_size, model.intermediate_size, model.num_attention_heads, query,
        ACTIVATION_BYTES * matrices, 2 * ACTIVATION_BYTES * kv,
    )  # fmt: skip


def rates(tiers: TiersSpec, gpu: GpuSpec, dtype: str) -> Rates:
    """What the study says, else the disk's link and the host's CPU, else fitted or of the GPU's roofline."""
    found = dict(FITTED)
    if gpu.name.partition("/")[0] != FITTED_GPU:
        peak = roofline.peak_flops(gpu, dtype)
        found |= {
            "h2d": float(load_link(gpu.host_link).payload_bytes_per_s),
            "prefill_matmul": roofline.GEMM_FLOP_EFFICIENCY * peak,
            "decode_matmul": roofline.GEMM_FLOP_EFFICIENCY * peak,
            "prefill_attention": roofline.PREFILL_FLOP_EFFICIENCY * peak,
            "decode_attention": roofline.DECODE_BYTE_EFFICIENCY * gpu.memory_bandwidth_bytes_per_s,
        }
    if tiers.disk_link is not None:
        found |= dict.fromkeys(DISK, float(load_link(tiers.disk_link).payload_bytes_per_s))
    if tiers.host is not None:
        host = load_host(tiers.host)
        found["cpu_attention"] = kernels()[CPU_KERNEL].rate_bytes_per_s(host, host.cores, 1)
    for own in fields(Rates):
        for unit, scale in (("gb_per_s", 1e9), ("tflops", 1e12)):
            value = getattr(tiers.rates, f"{own.name}_{unit}", None)
            if value is not None:
                found[own.name] = value * scale
    return Rates(**found, weight_stream=roofline.GEMM_BYTE_EFFICIENCY * gpu.memory_bandwidth_bytes_per_s)


def small_batch_factor(gpu_batch_size: int, hidden: int) -> float:
    """What small GPU batches and models leave of the CPU's attention rate, FlexGen's fit [known]."""
    batch, width = (max(0.0, log2(most / size)) for most, size in ((64, gpu_batch_size), (4096, hidden)))
    return max(0.1, 1 + 0.0168 * batch * width - 0.0328 * batch - 0.0621 * width)
