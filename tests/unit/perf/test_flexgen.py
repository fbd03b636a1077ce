"""FlexGen's layer times by hand on two layers, its linear programme against a grid, and what the tiers hold."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from simserve.errors import Infeasible
from simserve.perf import flexgen_policy
from simserve.perf.compile import Formats
from simserve.perf.flexgen import FlexGenCost, Policy, with_shares
from simserve.perf.flexgen_policy import Plan, best_placement, best_policy, block_seconds, fits, given_policy, kv_tokens
from simserve.perf.host import load_profile
from simserve.perf.rates import LayerShape, Rates, layer_shape, rates, small_batch_factor
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.tiers import PolicySpec, RatesSpec, TiersSpec
from simserve.units import GIB, NS_PER_S

U = 8192  # bytes of a hidden row; as many of a token's KV, four times as many of a layer's weights
TOY = LayerShape(layers=2, hidden=4096, ffn=1024, heads=1, query=4096, weight_bytes=4 * U, kv_bytes=U)
SLOW = Rates(
    h2d=2 * U, d2h_kv=2 * U, d2h_hidden=3 * U, disk_read=U, disk_write_kv=U, disk_write_hidden=U,
    disk_write_decode=U, prefill_matmul=4 * U, decode_matmul=4 * U, prefill_attention=24 * 4096,
    decode_attention=9 * U, cpu_attention=4.5 * U, weight_stream=4 * U,
)  # fmt: skip
HALF = Policy(64, 1, (0.0, 0.5, 0.5), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0))
T4 = load_gpu("t4")


def cost(policy: Policy, shape: LayerShape = TOY, reached: Rates = SLOW) -> FlexGenCost:
    """On a T4 that is as slow as the toy's rates."""
    formats = Formats("fp16", "auto", 8, 8)
    return FlexGenCost(shape, reached, policy, T4, load_profile("vllm", calibrated=False), formats)


@pytest.mark.parametrize(
    ("policy", "prefill_s", "decode_s"),
    [
        # Two prompts of three tokens: hidden 6 U, KV 6 + 2 rows. H2D (4 + 6) / 2 and reading 2 / 1: 7; D2H
        # 8 / 2 + 6 / 3: 6; compute 6 x 4 / 4 and 4 x 18 / 24: 9. Decode, contexts of 9: H2D (4 + 2) / 2 = 3, compute
        # 2 + 9 / 4.5 = 4.
        (HALF, 2 * 9, 2 * (3 + 4)),
        # KV on the GPU: 9 / 9 instead of 9 / 4.5.
        (replace(HALF, kv=(1.0, 0.0, 0.0)), 2 * 9, 2 * (3 + 3)),
        # KV on disk: D2H 6 and writing 8 is 14; decode reads 9 of KV and 2 of weights at 0.95 of the rate.
        (replace(HALF, kv=(0.0, 0.0, 1.0)), 2 * 14, 2 * (3 + 9 + 2 / 0.95)),
        # All on the GPU: nothing is copied.
        (Policy(64, 1, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0)), 2 * 9, 2 * 3),
    ],
)
def test_a_layer_takes_its_slowest_lane(policy: Policy, prefill_s: float, decode_s: float) -> None:
    """T_pre and T_gen of the paper, in integers of ns."""
    priced = cost(policy)

    assert priced.step_ns([(3, 0), (3, 0)], 0, 0, 2) == round(prefill_s * NS_PER_S)
    assert priced.step_ns([], 2, 9, 2) == round(decode_s * NS_PER_S)
    assert priced.step_ns([(3, 0), (3, 0)], 2, 9, 4) == round(prefill_s * NS_PER_S) + round(decode_s * NS_PER_S)


def test_matrices_take_no_less_than_reading_their_weights() -> None:
    """One sequence: 4 / 4 by FLOP, 4 / 2 by reading."""
    policy = Policy(64, 1, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))

    assert cost(policy, reached=replace(SLOW, weight_stream=2 * U)).step_ns([], 1, 9, 1) == 2 * 3 * NS_PER_S
    assert cost(policy).step_ns([], 1, 9, 1) == 2 * 2 * NS_PER_S


def test_a_run_of_steps_is_the_steps() -> None:
    """Bit for bit, and the parts add up to the step."""
    priced = cost(replace(HALF, kv=(0.3, 0.3, 0.4)))
    run = priced.decode_run_ns(5, 77, 9)

    assert [priced.step_ns([], 5, 77 + 5 * i, 5) for i in range(9)] == run.tolist()
    for call in (((3, 0), (4, 2)), 0, 0, 2), ((), 5, 77, 5), (((3, 0),), 5, 77, 6):
        assert sum(p.ns for _, p in priced.explain(*call)) == pytest.approx(priced.step_ns(*call), abs=2)


def test_small_gpu_batches_slow_the_cpu_down() -> None:
    """By hand from the fit: log2(64 / 16) = 2 and log2(4096 / 1024) = 2; never below a tenth."""
    assert small_batch_factor(64, 4096) == small_batch_factor(999, 9999) == 1.0
    assert small_batch_factor(16, 1024) == pytest.approx(1 + 0.0168 * 4 - 0.0328 * 2 - 0.0621 * 2)
    assert small_batch_factor(16, 4096) == pytest.approx(1 - 0.0656)


def test_opt_layers_have_the_papers_bytes() -> None:
    """8 h^2 + 4 h h_ffn of weights, 4 h of KV."""
    h = 12288
    shape = layer_shape(load_model("facebook/opt-175b"))

    assert (shape.weight_bytes, shape.kv_bytes) == (8 * h * h + 4 * h * 4 * h, 4 * h)
    with pytest.raises(Infeasible, match="dense models with plain attention"):
        layer_shape(load_model("mistralai/Mixtral-8x7B-v0.1"))


def test_rates_are_what_the_study_says_else_fitted_else_of_the_roofline() -> None:
    """On a T4 FlexGen's constants; on another GPU its own; a link's or the study's in place of either."""
    fitted = rates(TiersSpec(host_memory_gib=1), T4, "fp16")
    other = rates(
        TiersSpec(host_memory_gib=1, disk_link="nvme4_x4", rates=RatesSpec(disk_read_gb_per_s=3.0)),
        load_gpu("rtx_a6000"), "fp16",
    )  # fmt: skip

    assert (fitted.disk_read, fitted.cpu_attention) == (0.473 * GIB, 0.0123e12)
    assert (other.disk_read, other.disk_write_kv, other.d2h_kv) == (3e9, 7.88e9, 0.97 * GIB)
    assert (other.prefill_matmul, other.weight_stream) == (0.7 * 154.8e12, 0.75 * 768e9)


def plan(gpu: float, cpu: float, disk: float) -> Plan:
    """The toy with so many U of memory; prompts of 4 tokens, outputs of 4."""
    return Plan(TOY, SLOW, 4, 4, (round(gpu * U), round(cpu * U), round(disk * U)))


def grid() -> list[np.ndarray]:
    """All placements in quarters without hidden states on disk."""
    thirds = [(a / 4, b / 4, (4 - a - b) / 4) for a in range(5) for b in range(5 - a)]
    return [np.array([*w, *c, *h]) for w, c, h in itertools.product(thirds, thirds, [t for t in thirds if not t[2]])]


@pytest.mark.parametrize("memory", [(1000, 1000, 1000), (220, 60, 1000), (160, 100, 60), (130, 90, 200), (120, 300, 0)])
@pytest.mark.parametrize("batches", [(1, 1), (1, 4), (2, 2)])
def test_the_programme_is_never_behind_a_grid(memory: tuple[float, float, float], batches: tuple[int, int]) -> None:
    """It is feasible, at least as fast as any placement in quarters that is, and feasible wherever one of them is."""
    own = plan(*memory)
    block = Policy(*batches, HALF.weights, HALF.kv, HALF.hidden)
    tried = [with_shares(block, shares) for shares in grid()]
    times = [block_seconds(own, policy) for policy in tried if fits(own, policy, flexgen_policy.SAFETY)]
    found = best_placement(own, *batches)

    assert (found is not None) or not times
    if found is not None:
        assert fits(own, found, flexgen_policy.SAFETY * (1 + 1e-9))
        assert all(sum(part) == pytest.approx(1) for part in (found.weights, found.kv, found.hidden))
        assert block_seconds(own, found) <= min(times, default=np.inf) * (1 + 1e-9)


def test_with_memory_for_all_the_programme_finds_the_grids_best() -> None:
    """Nothing is copied: the corner of the grid."""
    own = plan(10_000, 1000, 1000)
    found = best_placement(own, 1, 4)

    assert found is not None
    assert block_seconds(own, found) == pytest.approx(block_seconds(own, with_shares(found, np.array([1, 0, 0] * 3))))


def test_no_memory_is_one_line() -> None:
    """What is needed and what there is."""
    with pytest.raises(Infeasible, match=r"no block fits: 64.0 KiB of weights.* of host memory, .* of disk"):
        best_policy(plan(10, 1, 0), 8)


def test_a_given_placement_puts_matrices_whole() -> None:
    """OPT-30B with 20 % on the GPU: the middle of the output projection alone lies there, a twelfth of a layer."""
    own = Plan(layer_shape(load_model("facebook/opt-30b")), rates(TiersSpec(host_memory_gib=1), T4, "fp16"), 512, 32,
               (T4.memory_bytes, 208 * GIB, 1500 * GIB))  # fmt: skip
    asked = PolicySpec(gpu_batch_size=48, num_gpu_batches=3, weights=(20, 80), kv=(0, 100), hidden=(0, 100))
    policy = given_policy(own, asked, 256)

    assert policy.weights == pytest.approx((1 / 12, 11 / 12, 0))
    assert kv_tokens(own, policy, 1.0) >= 144 * 544
    with pytest.raises(Infeasible, match=r"a block of 64 x 3 sequences needs .* of GPU, which has 14.6 GiB"):
        given_policy(own, asked.model_copy(update={"gpu_batch_size": None}), 192)


def test_tiers_hold_the_kv_that_is_left() -> None:
    """All KV on disk with 100 U: weights half there (4 of 8 U), a token takes 2 U."""
    own = plan(1000, 1000, 100)
    policy = Policy(1, 4, (0.5, 0.0, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))

    assert kv_tokens(own, policy, 1.0) == (100 - 4) // 2
