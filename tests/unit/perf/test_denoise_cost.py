"""What a denoising step takes: it adds up, grows with its work, and its parts are what they say."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from simserve.arch.memory import kv_bytes_per_token
from simserve.build import deployment_cost
from simserve.errors import OutOfRange, SimserveError
from simserve.perf.denoise import DenoiseCost, _causal
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

LLADA = load_model("GSAI-ML/LLaDA-8B-Instruct")
BANDWIDTH = 864e9 * 0.85  # of an L40S, as copies reach it


@lru_cache(maxsize=16)
def cost(
    scheduler: str = "dllm_serve", options: tuple[tuple[str, Any], ...] = (), efficiency: float = 1.0, gpu: str = "l40s"
) -> DenoiseCost:
    """LLaDA on a GPU."""
    d = DeploymentSpec(gpu=gpu, scheduler=scheduler, scheduler_options=options, kernel_efficiency=efficiency,
                       max_num_batched_tokens=16_384, max_num_seqs=64)  # fmt: skip
    found = deployment_cost(LLADA, d, load_gpu(d.gpu))
    assert isinstance(found, DenoiseCost)
    return found


STEPS = [
    ([(32, 384)], 32), ([(768, 0)], 32), ([(768, 0), *[(32, 368)] * 40], 41 * 32), ([(32, 368)] * 64, 64 * 32),
    ([(4096, 0)] * 4, 4 * 32), ([(768, 0)], 768), ([(7, 3), (33, 12)], 40),
]  # fmt: skip


@pytest.mark.parametrize("scheduler", ["dllm_serve", "vanilla_dllm", "fast_dllm", "sangam"])
@pytest.mark.parametrize(("passes", "rows"), STEPS)
def test_its_parts_add_up(scheduler: str, passes: list[tuple[int, int]], rows: int) -> None:
    """To the step, but for rounding, whether kernels or launches take longer, in one launch of the LM head or more."""
    own = cost(scheduler)

    assert own.step_ns(passes, 0, 0, rows) == pytest.approx(
        sum(price.ns for _, price in own.explain(passes, 0, 0, rows)), abs=2
    )


def test_steps_that_wait_for_launches_are_among_them() -> None:
    """With a host three times as slow a small pass waits for it, 323 operations of LLaDA; a large one does not."""
    slow = cost().under(cost().profile.times({"eager_ns_per_op": 3.0}))
    small, large = slow.explain([(32, 384)], 0, 0, 32), slow.explain([(4096, 0)] * 4, 0, 0, 128)

    assert "launches" in dict(small)
    assert "launches" not in dict(large)
    beside = sum(price.ns for name, price in small if name != "host")
    assert 323 * slow.profile.eager_ns_per_op == pytest.approx(beside)
    assert slow.step_ns([(32, 384)], 0, 0, 32) == pytest.approx(sum(price.ns for _, price in small), abs=2)


@pytest.mark.parametrize("scheduler", ["dllm_serve", "vanilla_dllm", "sangam"])
def test_more_work_takes_no_less_time(scheduler: str) -> None:
    """More query tokens, cached tokens, rows of logits, requests."""
    own = cost(scheduler)
    for steps in (
        [([(n, 256)], 32) for n in (32, 64, 128, 256, 512, 1024, 2048, 4096)],
        [([(32, n)] * 16, 512) for n in (0, 1, 64, 256, 1024, 2048, 4000)],
        [([(768, 0)] * 16, n) for n in (1, 32, 512, 1024, 1025, 2048, 4096, 12_288)],
        [([(32, 384)] * n, 32 * n) for n in (1, 2, 4, 8, 16, 32, 64)],
    ):
        times = [own.step_ns(passes, 0, 0, rows) for passes, rows in steps]
        assert times == sorted(times)
        assert times[-1] > times[0]


@pytest.mark.parametrize(("queries", "cached"), [(1, 0), (2, 0), (32, 384), (33, 384), (768, 0), (769, 1), (4096, 0)])
def test_a_pass_has_the_pairs_of_a_causal_chunk(queries: int, cached: int) -> None:
    """q queries that each see past + q keys; the chunk has q (q + 1) / 2 + q past': up to q / 2 more, for even q."""
    ((chunk, before),) = _causal([(queries, cached)])
    pairs, causal = queries * (cached + queries), chunk * before + chunk * (chunk + 1) // 2

    assert chunk == queries
    assert 0 <= causal - pairs <= queries / 2


def test_each_launch_reads_the_lm_head() -> None:
    """64 blocks of 32 rows are 2 launches of 1,024: the LM head of half the rows twice; all at once is one."""
    passes = [(32, 368)] * 64
    halves, whole = (dict(c.explain(passes, 0, 0, 2048)) for c in (cost(), cost(options=(("max_num_logits", 0),))))
    inner = cost().inner

    assert 2 * inner.ends_ns(1024, 0)[0] == pytest.approx(halves["lm_head"].ns)
    assert inner.ends_ns(2048, 0)[0] == pytest.approx(whole["lm_head"].ns)


def test_moves_of_cached_keys_and_values() -> None:
    """5 times over the bus are 4 beside those of attention; an ideal kernel has none, and no row for it."""
    passes = [(32, 368)] * 64
    moved, ideal = (dict(c.explain(passes, 0, 0, 2048)) for c in (cost(), cost(options=(("kv_moves", 1.0),))))

    by_hand = 4 * 64 * 368 * 524_288 / BANDWIDTH * 1e9
    assert 524_288 == kv_bytes_per_token(LLADA, "auto", 1)
    assert by_hand == pytest.approx(moved["kv moves"].ns)
    assert "kv moves" not in ideal
    own = cost().step_ns(passes, 0, 0, 2048) - cost(options=(("kv_moves", 1.0),)).step_ns(passes, 0, 0, 2048)
    assert by_hand == pytest.approx(own, abs=2)


def test_the_sampler_moves_its_logits() -> None:
    """8 bytes of each in dLLM-Serve, 40 in reference implementations."""
    for scheduler, size in (("dllm_serve", 8), ("vanilla_dllm", 40)):
        found = dict(cost(scheduler).explain([(768, 0)], 0, 0, 768))
        assert 768 * 126_464 * size / BANDWIDTH * 1e9 == pytest.approx(found["sampler"].ns)


def test_kernel_efficiency_is_that_of_kernels() -> None:
    """At one half every kernel takes twice as long, copies and sampler too; the host does not."""
    passes, rows = [(768, 0), *[(32, 368)] * 40], 41 * 32
    full, half = (dict(cost(efficiency=e).explain(passes, 0, 0, rows)) for e in (1.0, 0.5))

    assert {"host", "sampler", "kv moves", "lm_head", "prefill_attention", "qkv_proj", "silu_and_mul"} < set(full)
    for name, price in full.items():
        assert (1 if name == "host" else 2) * price.ns == pytest.approx(half[name].ns), name


def test_another_profile_keeps_the_rest() -> None:
    """`under` changes host and kernels, and neither traits nor efficiency."""
    own = cost(efficiency=0.5)
    slower = own.under(own.profile.times({"host_ns_per_step": 3.0}))

    passes = [(768, 0)] * 8
    more = slower.step_ns(passes, 0, 0, 256) - own.step_ns(passes, 0, 0, 256)
    assert 2 * own.profile.host_ns_per_step == pytest.approx(more, abs=1)


def test_what_it_was_not_made_for() -> None:
    """A step beyond the budget, and a decode step."""
    with pytest.raises(OutOfRange, match="16385 tokens"):
        cost().step_ns([(16_385, 0)], 0, 0, 32)
    with pytest.raises(SimserveError, match="no decode steps"):
        cost().decode_run_ns(1, 10, 5)
    assert cost().provenance()["diffusion"]["page_tokens"] == 256


@pytest.mark.parametrize("gpu", ["rtx_4090", "l40s", "a100_sxm", "h100_sxm"])
@pytest.mark.parametrize("requests", [1, 10, 64])
def test_a_pass_reads_its_cache_from_memory(gpu: str, requests: int) -> None:
    """No attention over cached keys and values is faster than memory gives them."""
    priced = dict(cost(gpu=gpu).explain([(32, 1000)] * requests, 0, 0, 32 * requests))["prefill_attention"].ns
    assert priced >= requests * 1000 * 524_288 / load_gpu(gpu).memory_bandwidth_bytes_per_s * 1e9
