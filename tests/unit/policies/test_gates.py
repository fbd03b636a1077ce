"""APEX's inequality, its extension, the closed forms, and the static table of the digest (arXiv 2506.03296)."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.perf.hybrid import HybridCost, PipelinedStep
from simserve.policies.gates import decode_bound, mixed_bound, overlap_gain, pipeline_gain
from simserve.policies.subbatches import SubBatch, fill
from simserve.sim.request import Seen
from simserve.units import GB

times = st.floats(0.01, 100)


@given(linear=times, attention=times)
def test_the_mixed_gate_collapses_to_the_published_one(linear: float, attention: float) -> None:
    """Where T_overlap = 2 l + a."""
    whole = 2 * linear + attention
    assert mixed_bound(whole, linear, attention) == pytest.approx(decode_bound(linear, attention))


@given(linear=times, attention=times, ratio=st.floats(1.1, 100))
def test_the_gate_is_where_pipelining_equals_the_gpu_alone(linear: float, attention: float, ratio: float) -> None:
    """a N_G + (2 l + a) N_C tokens in 2 l + a, against a N_G in l + a."""
    split = (attention + (2 * linear + attention) / ratio) / (2 * linear + attention)
    alone = attention / (linear + attention)
    assert (split > alone) == (ratio < decode_bound(linear, attention)) or split == pytest.approx(alone)


def test_published_threshold() -> None:
    """a/l from 0.5 to 1.5: at most about 7.5, so the CPU needs 13 % of the GPU's speed [H]."""
    bounds = [decode_bound(1.0, share) for share in (0.5, 1.0, 1.5)]
    assert max(bounds) == pytest.approx(7.5)
    assert 1 / max(bounds) == pytest.approx(0.133, abs=0.001)


@given(linear=times, attention=times, ratio=st.floats(0, 1))
def test_overlapping_gains_more_while_the_cpu_never_starves(linear: float, attention: float, ratio: float) -> None:
    """By l / (2 l + a), whatever the CPU."""
    more = overlap_gain(linear, attention, ratio) - pipeline_gain(linear, attention, ratio)
    assert more == pytest.approx(linear / (2 * linear + attention))


@dataclass(frozen=True)
class StaticLayers:
    """80 % of the GPU's bandwidth for weights and KV, no LM head: the model of the digest's table."""

    weights: float
    kv: float
    gpu_rate: float
    cpu_rate: float
    layers: int = 32

    def linear_ns(self, tokens: int) -> float:
        return self.weights / self.gpu_rate * 1e9 if tokens else 0.0

    def attention_ns(self, prefill: object, decode_seqs: int, context_tokens: int) -> float:
        return context_tokens * self.kv / self.gpu_rate * 1e9

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        return context_tokens * self.kv / self.cpu_rate * 1e9

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        return 0.0, 0.0

    def head_ns(self, sampled: int) -> float:
        return 0.0

    def host_ns(self, requests: int) -> float:
        return 0.0


def box(gpu: str, cpu_gb: float) -> StaticLayers:
    """Llama-2-7B (16 KiB of KV a token and layer) on T4, Llama-3.1-8B (4 KiB) on A10; linear weights of a layer."""
    if gpu == "t4":
        return StaticLayers(202.4e6 * 2, 16384, 0.8 * 320 * GB, cpu_gb * GB)
    return StaticLayers(218.1e6 * 2, 4096, 0.8 * 600 * GB, cpu_gb * GB)


def requests(count: int, tokens: int) -> list[Seen]:
    """So many decoding requests of a length."""
    return [Seen(i, 0, tokens) for i in range(count)]


# GPU, KV tokens on it, CPU GB/s, tokens per request: APEX over the GPU alone and over NEO in %, cohort, GB, s per token
TABLE = [
    ("t4", 1500, 15, 400, 99, 92, 119, 25, 1.7),
    ("t4", 2500, 15, 400, 62, 62, 124, 26, 1.8),
    ("t4", 2500, 22, 400, 91, 89, 182, 38, 1.8),
    ("t4", 4000, 15, 400, 41, 41, 131, None, 1.9),
    ("a10", 35000, 20, 1400, 16, 16, 132, 24, 1.2),
    ("a10", 35000, 30, 1400, 25, 25, None, None, 1.2),
    ("a10", 35000, 40, 1400, 33, 33, 263, 48, 1.2),
    ("a10", 35000, 60, 1400, 49, 49, 395, 72, 1.2),
    ("a10", 35000, 90, 1400, 74, 74, 592, 109, 1.2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gpu", "kv_tokens", "cpu_gb", "length", "alone", "neo", "cohort", "memory_gb", "seconds"), TABLE
)
def test_static_table(
    gpu: str, kv_tokens: int, cpu_gb: float, length: int, alone: float, neo: float, cohort: int | None,
    memory_gb: float | None, seconds: float,
) -> None:  # fmt: skip
    """Decode only, as many CPU requests as the window takes: gains within 4 points of the digest's, the cohort within
    10 %, its memory within 12 %, seconds per token within 0.1. The length of requests follows from cohort and memory.
    """
    layers = box(gpu, cpu_gb)
    cost, on_gpu = HybridCost(layers), kv_tokens / length
    step = layers.layers * (layers.linear_ns(1) + layers.attention_ns((), 1, kv_tokens)) + layers.head_ns(1)
    window = step - layers.linear_ns(1)
    found = int(window / layers.cpu_attention_ns(1, length))
    fits, late = (cost.cohort(1, n, n * length).whole_ns for n in (found, found + 1))
    assert fits <= step < late
    overlapped = (on_gpu + found / layers.layers) / step

    whole = requests(round(on_gpu * 4), length // 4)  # in quarters, so that the GPU's requests are a whole number
    batches = SubBatch(layers, whole), SubBatch(layers)
    fill(batches, requests(4000, length // 4), 4000, 800_000)
    parts = [(len(b.cpu), sum(r.num_tokens for r in b.cpu)) for b in batches]
    work = PipelinedStep((), (len(whole), sum(r.num_tokens for r in whole)), parts[0], parts[1], 1, 800_000)
    pipelined = (len(whole) + parts[0][0] + parts[1][0]) / 4 / cost.pipelined_ns(work)[0]

    assert 100 * (overlapped * step / on_gpu - 1) == pytest.approx(alone, abs=4)
    assert 100 * (overlapped / max(pipelined, on_gpu / step) - 1) == pytest.approx(neo, abs=4)
    assert layers.layers * step / 1e9 == pytest.approx(seconds, abs=0.1)
    if cohort is not None:
        assert found == pytest.approx(cohort, rel=0.1)
    if memory_gb is not None:
        assert found * length * layers.kv * layers.layers / GB == pytest.approx(memory_gb, rel=0.12)
