"""InstInfer's times by hand on two layers, what SparF reads, what the drives hold."""

from dataclasses import replace

import pytest

from simserve.build import tiered
from simserve.errors import Infeasible
from simserve.perf.compile import Formats
from simserve.perf.host import load_profile
from simserve.perf.instinfer import Drives, InstInferCost, drives
from simserve.perf.rates import LayerShape, Rates
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.tiers import CsdSpec, SparfSpec, TiersSpec
from simserve.units import NS_PER_S

U = 8192
TOY = LayerShape(layers=3, hidden=4096, ffn=1024, heads=1, query=1024, weight_bytes=4 * U, kv_bytes=U)
RATES = Rates(
    h2d=U, d2h_kv=U, d2h_hidden=U, disk_read=U, disk_write_kv=U, disk_write_hidden=U, disk_write_decode=U,
    prefill_matmul=4 * U, decode_matmul=4 * U, prefill_attention=12 * 1024, decode_attention=U, cpu_attention=U,
    weight_stream=4 * U,
)  # fmt: skip
DRIVE = Drives(
    capacity=100 * U, read=2 * U, write=4 * U, link=3 * U, engine=9 * U, latency_s=0.25, copies=1.0, flash_share=1.0,
    flop_share=1.0,
)  # fmt: skip
GPU = load_gpu("rtx_a6000")


def cost(own: Drives = DRIVE, gpu_batch_size: int = 2) -> InstInferCost:
    """Three layers on drives."""
    profile = load_profile("vllm", calibrated=False)
    return InstInferCost(TOY, RATES, own, gpu_batch_size, GPU, profile, Formats("fp16", "auto", 8, 8))


def test_attention_waits_for_flash_and_engine() -> None:
    """Contexts of 18: matrices 2, q, k, v and output 2 (4 x 1024 + U) / 3 U = 1, twice 0.25, flash 9, engine 2."""
    per_layer = 2 + 1 + 0.5 + 9 + 2

    assert cost().step_ns([], 2, 18, 2) == 3 * per_layer * NS_PER_S
    slow = replace(DRIVE, engine=U)
    assert cost(slow).step_ns([], 2, 18, 2) == 3 * (2 + 1 + 0.5 + 9 + 18) * NS_PER_S


def test_prompts_are_shipped_behind_the_next_layer() -> None:
    """Six tokens: compute 6 + 6 = 12, shipping 6 / 3 + 0.25, which shows after the last layer alone."""
    prompts = [(3, 0), (3, 0)]

    assert cost().step_ns(prompts, 0, 0, 2) == (3 * 12 + 2.25) * NS_PER_S
    slow = replace(DRIVE, link=U / 4)
    assert cost(slow).step_ns(prompts, 0, 0, 2) == (12 + 2 * 24.25 + 24.25) * NS_PER_S
    twice = replace(DRIVE, write=U / 2, copies=1.5)
    assert cost(twice).step_ns(prompts, 0, 0, 2) == (12 + 3 * 18.25) * NS_PER_S


def test_each_gpu_batch_reads_the_weights() -> None:
    """Six single-token prompts in batches of 1: 6 passes, as long as the 6 tokens' matrices; at half the rate twice."""
    prompts = [(2, 0)] * 3
    half = replace(RATES, weight_stream=U)
    slow = InstInferCost(TOY, half, DRIVE, 1, GPU, load_profile("vllm", calibrated=False), cost().formats)

    assert slow.step_ns(prompts, 0, 0, 3) - cost().step_ns(prompts, 0, 0, 3) == 3 * (12 - 6) * NS_PER_S


def test_a_run_of_steps_is_the_steps() -> None:
    """Bit for bit, and the parts add up to the step."""
    priced = cost()
    run = priced.decode_run_ns(5, 77, 9)

    assert [priced.step_ns([], 5, 77 + 5 * i, 5) for i in range(9)] == run.tolist()
    for call in (((3, 0), (4, 2)), 0, 0, 2), ((), 5, 77, 5), (((3, 0),), 5, 77, 6):
        assert sum(p.ns for _, p in priced.explain(*call)) == pytest.approx(priced.step_ns(*call), abs=2)


def test_sparf_reads_pages_and_stores_keys_twice() -> None:
    """An eighth of the channels, two a page: 15/64 of the keys; half of the pages of keys and values."""
    dense = drives(CsdSpec(), 40, 26e9)
    sparse = drives(CsdSpec(sparf=SparfSpec()), 40, 26e9)

    assert (dense.flash_share, dense.copies, dense.read, dense.link) == (1.0, 1.0, 8 * 1.4e9, 7e9)
    assert (sparse.flash_share, sparse.copies) == (pytest.approx(15 / 128 + 1 / 2), 1.5)
    assert sparse.flop_share == pytest.approx(1 / 16 + 1 / 8)


def test_heads_are_striped_and_the_gpus_link_is_a_limit() -> None:
    """40 heads on 3 drives: the busiest has 14; 8 links of 7 GB/s meet one of 26."""
    assert drives(CsdSpec(count=3), 40, 26e9).read == pytest.approx(40 / 14 * 11.2e9)
    assert drives(CsdSpec(count=8), 40, 26e9).link == 26e9


def test_what_drives_do_not_change_is_what_they_cannot_speed_up() -> None:
    """Flash 9 and engine 2 halve with a second drive, matrices 2 and latency 0.5 stay; the link's 1 halves as well."""
    two = replace(DRIVE, read=4 * U, engine=18 * U, link=6 * U)

    assert cost(two).step_ns([], 2, 18, 2) == 3 * (2 + 0.5 + 0.5 + 4.5 + 1) * NS_PER_S


def asked(**tiers: object) -> DeploymentSpec:
    """OPT-13B's deployment."""
    own = TiersSpec.model_validate({"prompt_tokens": 1024, "output_tokens": 1024, **tiers})
    return DeploymentSpec(gpu="rtx_a6000", dtype="fp16", scheduler="instinfer", tiers=own, max_num_seqs=256)


def test_drives_hold_the_kv_and_the_gpu_what_is_left() -> None:
    """2 TB over 819,200 bytes a token, two thirds of it with SparF; prompts in a power of two of sequences."""
    model = load_model("facebook/opt-13b")
    dense = tiered(model, asked(csd={}), GPU)
    sparse = tiered(model, asked(csd={"sparf": {}}), GPU)

    assert dense is not None
    assert sparse is not None
    assert (dense.kv_tokens, sparse.kv_tokens) == (2_000_000_000_000 // 819_200, 2_000_000_000_000 * 2 // 3 // 819_200)
    assert dense.gpu_batch_size == 256
    assert dense.placed_bytes["weights"] + dense.placed_bytes["activations"] <= GPU.memory_bytes
    assert dense.placed_bytes["disk_kv_cache"] == pytest.approx(2e12, rel=1e-5)
    with pytest.raises(Infeasible, match=r"the prompts of 1 sequences do not fit into the 47\.4 GiB of rtx_a6000"):
        tiered(load_model("facebook/opt-30b"), asked(csd={}), GPU)


def test_tiers_are_for_the_offline_schedulers() -> None:
    """A study says so at once; another scheduler of its search leaves them alone."""
    model, own = load_model("facebook/opt-13b"), asked(csd={})

    assert tiered(model, own.model_copy(update={"scheduler": "vllm"}), GPU) is None
    for wrong, problem in (
        ({"scheduler": "vllm"}, "tiers are for flexgen and instinfer"),
        ({"scheduler": "flexgen"}, r"tiers\.csd is for scheduler instinfer"),
        ({"tiers": {"host_memory_gib": 1}}, r"scheduler instinfer needs tiers\.csd"),
        ({"tensor_parallel_size": 2}, "tiers are modelled beside one GPU a replica"),
    ):
        with pytest.raises(ValueError, match=problem):
            DeploymentSpec.model_validate({**own.model_dump(exclude_unset=True), **wrong})
    with pytest.raises(Infeasible, match="kv_cache_dtype fp8 would need its compression"):
        tiered(model, own.model_copy(update={"kv_cache_dtype": "fp8"}), GPU)
