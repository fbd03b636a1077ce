"""Deployments of stages: what they consist of, hold, cost, and how their runs differ from one another."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from simserve.arch.encoder import encoder_weight_bytes
from simserve.errors import Infeasible, SimserveError
from simserve.explore.evaluate import reduce
from simserve.explore.objective import steady_window_ns
from simserve.explore.runner import play, prepare
from simserve.metrics.energy import encoder_watts, idle_watts, mean_watts
from simserve.perf.host import load_profile
from simserve.run import RunResult, simulate
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.units import NS_PER_MS

QWEN = "Qwen/Qwen3-VL-8B-Instruct"
HD = {"size": {"kind": "fixed", "height": 720, "width": 1280}}


def study(stages: str, *, rate: float = 1, requests: int = 20, images: Any = HD, **deployment: Any) -> StudySpec:
    return parse(StudySpec, {
        "model": QWEN,
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": rate}, "requests": requests,
            "prompt_tokens": {"kind": "fixed", "value": 63}, "output_tokens": {"kind": "fixed", "value": 64},
            **({"images": images} if images else {}),
        },
        "deployment": {"gpu": "a100_sxm", "system": "epd_serve", "stages": stages, **deployment},
    })  # fmt: skip


def run(stages: str, **asked: Any) -> RunResult:
    """Played; all laws hold but work conservation, for stages wait for one another."""
    result = play(prepare(study(stages, **asked), base_dir=None))
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(result.trace)
    return result


@pytest.mark.parametrize(("stages", "engines", "encoders", "gpus"), [
    ("E-P-D", [("P", 1, 1), ("D", 1, 1)], [("E", 1)], 3),
    ("(E-P)-D", [("P", 1, 1), ("D", 1, 1)], [("E", 1)], 2),
    ("(E-PD)x3", [("PD", 3, 1)], [("E", 3)], 3),
    ("TP2x2", [("EPD", 2, 2)], [], 4),
    ("6E1P1D", [("P", 1, 1), ("D", 1, 1)], [("E", 6)], 8),
    ("(E-P)-2P-D", [("P", 1, 1), ("P2", 2, 1), ("D", 1, 1)], [("E", 1)], 4),
])  # fmt: skip
def test_what_a_layout_consists_of(stages: str, engines: list[Any], encoders: list[Any], gpus: int) -> None:
    """(name, replicas, GPUs of one) of engines, (name, replicas) of encoders."""
    d = DeploymentSpec(system="epd_serve", stages=stages)
    assert [(name, e.replicas, e.tensor_parallel_size) for name, e in d.engines()] == engines
    assert [(placed.name, e.replicas) for placed, e in d.encoders()] == encoders
    assert d.num_gpus == gpus


def test_parallelism_of_processes() -> None:
    """The deployment's for those with the model, one GPU for an encoder of its own; pools say otherwise."""
    d = parse(DeploymentSpec, {
        "system": "epd_serve", "stages": "2E-3PD", "tensor_parallel_size": 4, "pools": {"E": {"gpu": "l40s"}}
    })  # fmt: skip
    assert d.gpus == [("l40s", 2), ("h100_sxm", 12)]
    shared = parse(DeploymentSpec, {"system": "epd_serve", "stages": "(E-P)-D", "pools": {"P": {"gpu": "a100_sxm"}}})
    assert [(p.name, e.gpu, e.tensor_parallel_size) for p, e in shared.encoders()] == [("E", "a100_sxm", 1)]


@pytest.mark.parametrize(("stages", "pools", "problem"), [
    ("E-P-D", {"PD": {}}, "pool 'PD' is not in stages E-P-D, which has E, P, D"),
    ("(E-P)-D", {"E": {"gpu": "l40s"}, "P": {"gpu": "h20"}}, "pools E and P share GPUs: give them the same gpu"),
    ("(P-D)", {}, "pools P and D share the memory of a GPU"),
    ("ED-P", {}, "one process that encodes and decodes but does not prefill is not modelled"),
    ("E-P", {}, "nobody does D in 'E-P'"),
])  # fmt: skip
def test_layouts_that_are_refused(stages: str, pools: Any, problem: str) -> None:
    with pytest.raises(SimserveError, match=re.escape(problem)):
        parse(StudySpec, {**study("E-P-D").model_dump(exclude_unset=True), "deployment": {
            "system": "epd_serve", "stages": stages, "pools": pools
        }})  # fmt: skip


def test_who_holds_an_encoder() -> None:
    """Whoever encodes or may have to; twice where an encoder shares the GPU of a prompt; not where one only decodes."""
    size = encoder_weight_bytes(*load_model(QWEN).encoders.values())
    apart, together = run("E-P-D", requests=1), run("(E-P)-D", requests=1)

    assert [engine.memory_bytes.get("encoder", 0) for engine in apart.engines] == [size, 0]
    assert [engine.memory_bytes.get("encoder", 0) for engine in together.engines] == [2 * size, 0]
    assert apart.engines[1].num_gpu_blocks > apart.engines[0].num_gpu_blocks > together.engines[0].num_gpu_blocks


def test_encoders_cost_money_and_energy() -> None:
    """Three GPUs are paid for; an encoder at work draws more than one that stands still."""
    asked = study("E-P-D")
    shown = play(prepare(asked, base_dir=None))
    text = play(prepare(study("E-P-D", images=None), base_dir=None))
    outcomes = [reduce(result, load_model(QWEN), asked.deployment, None) for result in (shown, text)]

    assert outcomes[0].usd_per_hour == pytest.approx(3 * load_gpu("a100_sxm").price_usd_per_hour)
    watts = [outcome.energy.watts_per_gpu for outcome in outcomes if outcome.energy is not None]
    assert watts[0] > watts[1] > 0


BOTH = {"pools": {"P": {"gpu_memory_utilization": 0.45}, "D": {"gpu_memory_utilization": 0.45}}}


@pytest.mark.parametrize(("stages", "full", "deployment"), [
    ("(P-D)", True, BOTH), ("(P-D)x2", True, BOTH), ("(E-PD)", False, {}), ("(E-P)-D", False, {}),
])  # fmt: skip
def test_gpus_that_are_shared_draw_what_one_may(stages: str, full: bool, deployment: Any) -> None:
    """At most the TDP of each GPU, which one that prefills and decodes at once draws."""
    asked = study(stages, rate=30, requests=100, **deployment)
    energy = reduce(play(prepare(asked, base_dir=None)), load_model(QWEN), asked.deployment, None).energy
    gpu = load_gpu("a100_sxm")

    assert energy is not None
    assert idle_watts(gpu) < energy.watts_per_gpu <= gpu.tdp_watts
    assert (energy.watts_per_gpu == pytest.approx(gpu.tdp_watts)) is full


SWITCHING = {"role_switching": True, "switch_interval_s": 0.5, "switch_delay_s": 1.2}


@pytest.mark.parametrize(("stages", "asked"), [
    ("3E-P-D", {"rate": 20, "max_num_seqs": 16, "images": None}),  # encoders come to compute prompts, and to decode
    ("E-P-3D", {"rate": 6, "images": {**HD, "per_request": {"kind": "fixed", "value": 4}}}),  # decoders come to encode
])  # fmt: skip
def test_energy_of_gpus_that_change_their_stage(stages: str, asked: Any) -> None:
    """All steps and passes count, whichever stage their GPU began with."""
    asked = {"requests": 120, "system_options": SWITCHING, **asked}
    result, gpu = run(stages, **asked), load_gpu("a100_sxm")
    trace, window = result.trace, steady_window_ns(result.trace)
    assert window is not None
    assert trace.transfers is not None
    above = mean_watts(trace, gpu, range(5), window) * 5 - 5 * idle_watts(gpu)
    above += encoder_watts(trace, gpu, range(trace.transfers.encoders), window)
    energy = reduce(result, load_model(QWEN), study(stages, **asked).deployment, None).energy

    assert result.metrics.rejected == 0
    assert trace.transfers.switches
    assert energy is not None
    assert energy.watts_per_gpu == pytest.approx(idle_watts(gpu) + above / 5)


def test_encoders_are_as_busy_where_nothing_switches() -> None:
    """The idle encoders of GPUs that could encode, and do not, are none."""
    never = {"role_switching": True, "switch_interval_s": 1e6}
    still, able = (run("E-3P-2D", rate=3, system_options=options).metrics.stages for options in ({}, never))

    assert still is not None
    assert able is not None
    assert 0.05 < still.encoder_busy == able.encoder_busy


def test_text_needs_no_encoder() -> None:
    """Text alone takes the same time with an encoder beside and without."""
    with_one, without = run("E-P-D", images=None), run("P-D", images=None)
    assert with_one.metrics.ttft_ms == without.metrics.ttft_ms
    assert with_one.metrics.stages is not None
    assert with_one.metrics.stages.encoder_busy == 0


def test_what_prefetching_and_groups_save() -> None:
    """Features on the way while the prompt is scheduled, KV while it is computed."""
    options = {"prefetch": False, "kv_transfer": "synchronous"}
    plain = run("E-P-D", system_options=options)
    fetched = run("E-P-D", system_options={**options, "prefetch": True})
    grouped = run("E-P-D", system_options={"prefetch": False})

    assert plain.metrics.stages is not None
    assert grouped.metrics.stages is not None
    assert (plain.metrics.stages.kv_overlap, plain.metrics.stages.feature_overlap) == (0, 0)
    assert grouped.metrics.stages.kv_overlap == pytest.approx(1, abs=0.01)
    assert plain.metrics.ttft_ms.mean - fetched.metrics.ttft_ms.mean > 40  # of 122 ms; 68 of scheduling hide the rest
    assert plain.metrics.ttft_ms.mean > grouped.metrics.ttft_ms.mean + 5


def test_features_that_are_lost_are_encoded_by_the_prompt() -> None:
    """A store of a tenth of an image: nothing to fetch, and TTFT has the encoder's pass twice, but not the wait for
    features."""
    kept, lost = run("E-P-D", requests=1), run("E-P-D", requests=1, system_options={"store_gib": 0.003})
    assert kept.trace.transfers is not None
    assert lost.trace.transfers is not None
    waited_ns, pass_ns = kept.trace.transfers.features_exposed_ns, kept.trace.transfers.encode_ns
    (before, after), (prompt, longer) = (
        [int((r.trace.requests[end] - r.trace.requests[start])[0]) for r in (kept, lost)]
        for start, end in (("arrival_ns", "first_scheduled_ns"), ("first_scheduled_ns", "first_token_ns"))
    )

    assert waited_ns > 0 < pass_ns
    assert lost.trace.transfers.features_exposed_ns == 0
    assert after == before - waited_ns
    assert longer == prompt + pass_ns


def test_one_picture_is_encoded_once() -> None:
    """Shown to all: the store has it for all but those who came while it was encoded."""
    result = run("E-P-D", images={**HD, "distinct": 1})
    assert result.metrics.stages is not None
    assert result.metrics.stages.store_hit_rate is not None
    assert result.metrics.stages.store_hit_rate > 0.8


def test_sharing_a_gpu_slows_down() -> None:
    """E and P on one GPU: fewer GPUs, more time to the first token, as the slowdowns say."""
    near = {"feature_latency_ms": 0.0, "feature_gb_per_s": 0.0}
    free = {**near, "encode_beside_prefill": 1.0, "prefill_beside_encode": 1.0}
    apart, together, unhindered = (
        run(stages, rate=8, requests=60, system_options=options)
        for stages, options in (("E-P-D", near), ("(E-P)-D", near), ("(E-P)-D", free))
    )

    assert (apart.num_gpus, together.num_gpus) == (3, 2)
    assert together.metrics.ttft_ms.mean > apart.metrics.ttft_ms.mean
    assert unhindered.metrics.ttft_ms.mean == pytest.approx(apart.metrics.ttft_ms.mean, rel=1e-6)


def test_tiles_are_spread_over_encoders() -> None:
    """Six images on six encoders are encoded in about a sixth of the time, and each host's part once."""
    many = {**HD, "per_request": {"kind": "fixed", "value": 6}}
    spread, whole = (
        run("6E1P1D", requests=4, rate=0.2, images=many, system_options={"spread": on}) for on in (True, False)
    )
    sixth_ns, whole_ns = _encoding_ns(spread), _encoding_ns(whole)
    assert sixth_ns == pytest.approx(whole_ns / 6, rel=0.1)
    saved_ms = whole.metrics.ttft_ms.mean - spread.metrics.ttft_ms.mean
    assert saved_ms == pytest.approx((whole_ns - sixth_ns) / NS_PER_MS)


def _encoding_ns(result: RunResult) -> int:
    """From the start of a request's first pass to the end of its last, the longest of all."""
    names, spans = result.trace.resources, result.trace.spans
    own = np.array([names[which].startswith("encoder") for which in spans["resource"]])
    start, end, request = (spans[name][own] for name in ("start_ns", "end_ns", "request"))
    return max(int(end[request == i].max() - start[request == i].min()) for i in set(request.tolist()))


def test_gpus_change_their_stage() -> None:
    """Two of three encoders have nothing to do when only text comes, and decoding gets them."""
    options = {"role_switching": True, "switch_interval_s": 0.5}
    few = {"max_num_seqs": 16, "requests": 300, "rate": 20, "images": None}
    still, moving = run("3E-P-D", **few), run("3E-P-D", system_options=options, **few)

    assert moving.metrics.stages is not None
    assert moving.metrics.stages.role_switches >= 1
    assert moving.metrics.e2e_ms.mean < 0.95 * still.metrics.e2e_ms.mean


@pytest.mark.parametrize(("stages", "problem"), [
    ("(E-P)-D", "role switching needs a GPU for each stage"), ("E-PD", "role switching needs a GPU for each stage"),
])  # fmt: skip
def test_switching_needs_stages_apart(stages: str, problem: str) -> None:
    with pytest.raises(Infeasible, match=problem):
        run(stages, system_options={"role_switching": True})


@pytest.mark.parametrize(("fields", "problem"), [
    ({"stages": "P-D", "data_parallel_size": 2}, "tensor parallelism alone, not TP1 DP2"),
    ({"stages": "P-D", "pools": {"P": {"pipeline_parallel_size": 2}}}, "tensor parallelism alone, not TP1 PP2"),
    ({"stages": "P-D", "prefill_context_parallel_size": 2}, "tensor parallelism alone, not TP1 PCP2"),
    ({"stages": "E-P-D", "pools": {"P": {"replicas": 3}}}, "pool P: replicas do not go with stages"),
    ({"stages": "TP2", "pools": {"EPD": {"tensor_parallel_size": 4}}}, "TP2 says tensor_parallel_size already"),
    ({"stages": "E-P-D", "num_encoders": 3}, "num_encoders above 1 does not go with stages"),
])  # fmt: skip
def test_what_the_layout_says_is_not_said_again(fields: dict[str, Any], problem: str) -> None:
    """And GPUs that nobody would count are refused."""
    with pytest.raises(SimserveError, match=re.escape(problem)):
        parse(DeploymentSpec, {"system": "epd_serve", **fields})


def test_a_fetch_is_no_faster_for_more_processes_that_prefill() -> None:
    """Each has a link of its own."""
    one, many = run("E-P-D", requests=1), run("E-4P-D", requests=1)
    assert one.metrics.stages is not None
    assert many.metrics.stages is not None
    assert one.metrics.stages.feature_ms == many.metrics.stages.feature_ms
    assert one.metrics.ttft_ms == many.metrics.ttft_ms


def test_kv_does_not_leave_while_images_are_encoded() -> None:
    """On a slow link as much is exposed behind a process that encodes first as behind one that has features."""
    options = {"kv_gib_per_s": 1.0, "feature_gb_per_s": 0.0, "feature_latency_ms": 0.0}
    apart, glued = (run(stages, requests=2, rate=0.1, system_options=options) for stages in ("E-P-D", "EP-D"))
    assert apart.metrics.stages is not None
    assert glued.metrics.stages is not None
    assert glued.metrics.stages.kv_overlap == pytest.approx(apart.metrics.stages.kv_overlap, abs=1e-6)
    assert apart.metrics.stages.kv_overlap is not None
    assert apart.metrics.stages.kv_overlap < 0.9


def test_the_same_image_twice_is_encoded_and_fetched_once() -> None:
    """In one request."""
    twice = {**HD, "per_request": {"kind": "fixed", "value": 2}, "distinct": 1}
    once, two = run("E-P-D", requests=1), run("E-P-D", requests=1, images=twice)
    assert once.metrics.stages is not None
    assert two.metrics.stages is not None
    assert two.metrics.stages.feature_ms == once.metrics.stages.feature_ms
    assert two.metrics.stages.encoder_busy == pytest.approx(
        once.metrics.stages.encoder_busy * once.metrics.duration_s / two.metrics.duration_s  # type: ignore[operator]
    )


def test_host_time_of_encoders_follows_the_profile() -> None:
    """`simulate(factors)`: half of it saves half of it, in layouts too, in processes of their own and glued ones."""
    half_ms = load_profile("vllm_ascend").encode_host_ns / 2e6
    for stages in ("E-P-D", "EP-D"):
        inputs = prepare(study(stages, requests=1, engine="vllm_ascend"), base_dir=None)
        plain, fast = (
            simulate(inputs.model, inputs.study.deployment, inputs.workload, factors=factors)
            for factors in ({}, {"encode_host_ns": 0.5})
        )
        assert plain.metrics.ttft_ms.mean - fast.metrics.ttft_ms.mean == pytest.approx(half_ms, abs=1e-6)
    assert half_ms > 1


def test_modserve_spreads_images_and_pulls_features() -> None:
    """Its 5 ms beside the pass of the slowest of its encoders; text instances of two GPUs."""
    many = {**HD, "per_request": {"kind": "fixed", "value": 4}}
    asked = {"system": "modserve", "pools": {"PD": {"tensor_parallel_size": 2}}, "requests": 1, "images": many}
    four, one = run("4E-2PD", **asked), run("E-2PD", **asked)
    assert four.num_gpus == 8
    assert four.metrics.stages is not None
    assert one.metrics.stages is not None
    assert four.metrics.stages.feature_ms == pytest.approx(5, abs=0.001)  # the bytes take next to nothing
    passes = [1e3 * (result.metrics.stages.encoder_busy or 0) * result.metrics.duration_s  # type: ignore[union-attr]
              for result in (one, four)]  # fmt: skip
    assert passes[0] > 3 * passes[1] > 0
    assert one.metrics.ttft_ms.mean - four.metrics.ttft_ms.mean == pytest.approx(passes[0] - passes[1], abs=1e-3)


def test_whoever_may_encode_later_has_room_for_an_encoder() -> None:
    """With role switching the GPU that decodes too."""
    text = {"images": None, "requests": 1}
    still, moving = run("E-P-D", **text), run("E-P-D", system_options={"role_switching": True}, **text)
    assert ["encoder" in engine.memory_bytes for engine in still.engines] == [True, False]
    assert ["encoder" in engine.memory_bytes for engine in moving.engines] == [True, True]
