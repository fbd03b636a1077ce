"""The screen of layouts: queues and slowdowns worked out by hand, estimates beside simulations, the enumerated best."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from simserve.explore.candidates import candidates
from simserve.explore.evaluate import evaluate
from simserve.explore.load import Load, ShownLoad
from simserve.explore.objective import recommend
from simserve.explore.runner import Inputs, prepare, run_search
from simserve.explore.space import from_study
from simserve.explore.staged_screen import EncoderStage, Layout, ModelStage, estimate_layouts
from simserve.sim.handover import Stages
from simserve.sim.plan import WorkKind
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

E, P, D = WorkKind.ENCODE, WorkKind.PREFILL, WorkKind.DECODE
SHOWN = ShownLoad(1.0, ((),), 1.0, ((),), 1000.0, 1e6)
LOAD = Load(1000, 1.0, None, 1000.0, 100.0, 0.0, 1000.0, 1100, 1100, shown=SHOWN)
# 200 ms a prompt, 10 ms a decode step of any size
CURVES: Any = SimpleNamespace(
    alone_s=np.array([0.2]), per_prompt_s=np.array([0.2]), most=np.array([100.0]), step_s=np.array([0.01, 0.01]),
    step=lambda running: np.full_like(np.asarray(running, dtype=float), 0.01),
)  # fmt: skip
ENCODER = EncoderStage(0, 0.4, 0.0)
APART = Layout([ENCODER], [ModelStage(1, True, False, CURVES, 0), ModelStage(2, False, True, CURVES, 0)], Stages(), {},
               (0, 0))  # fmt: skip


def of(layout: Layout, counts: list[list[int]], load: Load = LOAD) -> Any:
    """Rows: utilisation, TPOT, TTFT, tokens/s/GPU."""
    table = np.array(counts)
    return estimate_layouts(layout, table, table.sum(axis=1).astype(np.float64), load)


def test_stages_apart_by_hand() -> None:
    """No wait for encoders, busy 40 % at an even pace; prompts vary: 200 ms and a wait of 0.2 / 0.8 * 200 / 2."""
    busy, tpot_ms, ttft_ms, per_gpu = of(APART, [[1, 1, 1], [2, 1, 1]])[:, 0]

    assert busy == pytest.approx(0.4)
    assert tpot_ms == pytest.approx(10, rel=1e-3)
    assert ttft_ms == pytest.approx(400 + 200 + 25)
    assert per_gpu == pytest.approx(1100 / 3)


def test_the_stage_that_cannot_keep_up_decides() -> None:
    """At 5 requests/s encoders have 2.5 each: twice too few, half of the run's backlog on average; two are enough."""
    load = replace(LOAD, rate_rps=5.0)
    one, three = of(APART, [[1, 1, 1], [3, 1, 1]], load).T

    assert one[0] == pytest.approx(2.0)
    assert one[2] == pytest.approx(1000 * (2.0 - 1) * 1000 / 2, rel=0.02)
    assert one[3] == pytest.approx(1100 * 2.5 / 3)
    assert three[0] == pytest.approx(1.0, rel=0.01)  # the prompts


def test_text_alone_goes_past_the_encoders() -> None:
    """With images in a quarter of the requests encoders are a quarter as busy, and TTFT has a quarter of them."""
    load = replace(LOAD, shown=replace(SHOWN, share=0.25, new_share=0.25))
    whole, some = of(APART, [[1, 1, 1]])[:, 0], of(APART, [[1, 1, 1]], load)[:, 0]

    assert some[0] == pytest.approx(0.2)  # the prompts
    assert whole[2] - some[2] == pytest.approx(0.75 * 400, rel=0.01)


def test_processes_on_one_gpu_slow_one_another() -> None:
    """Encoding for a share a of the time, three times as slow beside it: TPOT is 10 / (1 - 2 a / 3)."""
    beside = replace(APART, models=[APART.models[0], replace(APART.models[1], place=0)], slowdowns={(D, E): 3000})
    apart = replace(beside, slowdowns={})

    assert of(apart, [[1, 1]])[1, 0] == pytest.approx(10, rel=1e-3)
    assert of(beside, [[1, 1]])[1, 0] == pytest.approx(10 / (1 - 0.4 * 2 / 3), rel=0.01)


def test_encoding_is_slowed_in_turn() -> None:
    """Twice as long beside prompts, which take a fifth of the time: 400 / (1 - 0.2 / 2) ms, and so much busier."""
    beside = replace(APART, models=[replace(APART.models[0], place=0), replace(APART.models[1], place=1)],
                     slowdowns={(E, P): 2000})  # fmt: skip

    assert of(beside, [[1, 1]])[0, 0] == pytest.approx(0.4 / 0.9, rel=0.01)


def test_features_share_their_link() -> None:
    """A megabyte each at 2 MB/s: half of the link's time, so twice 500 ms, beside which the prompt is scheduled."""
    linked = replace(APART, feature_link=(0, 2_000_000), stages=Stages(schedule_ns=10_000_000))
    blocking = replace(linked, stages=replace(linked.stages, prefetch=False))
    plain = of(APART, [[1, 1, 1]])[2, 0]

    assert of(linked, [[1, 1, 1]])[2, 0] - plain == pytest.approx(1000)
    assert of(blocking, [[1, 1, 1]])[0, 0] == pytest.approx(0.7)  # prefill and fetching are one process


def test_a_process_that_encodes_and_prefills_does_one_at_a_time() -> None:
    """EP: 600 ms a request on each of two, 30 % busy."""
    models = [replace(APART.models[0], place=0, encode_s=0.4), replace(APART.models[1], place=1)]
    both = Layout([], models, Stages(), {}, (0, 0))
    found = of(both, [[2, 1]])[:, 0]

    assert found[0] == pytest.approx(0.3)
    assert 600 <= found[2] <= 650


def test_tiles_are_encoded_side_by_side() -> None:
    """Four tiles on two encoders take half as long, on eight a quarter; they are as busy as before."""
    load = replace(LOAD, shown=replace(SHOWN, tiles=4.0))
    spread = replace(APART, stages=Stages(spread=True))
    two, eight = of(spread, [[2, 1, 1], [8, 1, 1]], load).T

    assert (two[2], eight[2]) == (pytest.approx(200 + 225), pytest.approx(100 + 225))
    assert two[0] == pytest.approx(0.2)


def test_late_kv_counts_where_it_is_waited_for() -> None:
    """In TTFT if the first token comes from who decodes, else spread over the other 99."""
    late = replace(APART, models=[replace(APART.models[0], late_s=0.099), APART.models[1]])
    answers = replace(late, stages=Stages(decode_answers=True))

    assert of(late, [[1, 1, 1]])[1, 0] - of(APART, [[1, 1, 1]])[1, 0] == pytest.approx(1)
    assert of(answers, [[1, 1, 1]])[2, 0] - of(APART, [[1, 1, 1]])[2, 0] == pytest.approx(99 + 15, rel=0.01)


def test_a_closed_loop_keeps_its_requests() -> None:
    """4 in flight, each 0.6 s and 99 tokens of 10 ms: at most 4 / 1.59 a second; 400 no more than the stages take."""
    few = of(APART, [[4, 4, 1]], replace(LOAD, concurrency=4, rate_rps=np.inf))[:, 0]
    many = of(APART, [[1, 1, 1]], replace(LOAD, concurrency=400, rate_rps=np.inf))[:, 0]

    assert few[3] * 9 / 1100 == pytest.approx(4 / 1.6, rel=0.05)
    assert many[3] * 3 / 1100 == pytest.approx(2.5, rel=0.01)


STUDY: dict[str, Any] = {
    "name": "layouts",
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 6},
        "prompt_tokens": {"kind": "lognormal", "mean": 100, "std": 80, "max": 1000},
        "output_tokens": {"kind": "lognormal", "mean": 100, "std": 60, "max": 400},
        "requests": 120,
        "images": {
            "size": {"kind": "fixed", "height": 1000, "width": 1000},
            "per_request": {"kind": "uniform", "low": 1, "high": 4},
        },
    },
    "slo": {"ttft_ms": 1500, "tpot_ms": 40},
    "deployment": {
        "gpu": "a100_sxm", "system": "epd_serve", "stages": "E-P-D",
        "system_options": {"kv_gib_per_s": 0, "feature_gb_per_s": 12.5, "feature_latency_ms": 1, "schedule_ms": 5,
                           "schedule_us_per_token": 5},
    },
    "search": {"space": {"stages": "all", "tensor_parallel_size": [1, 2]}, "max_gpus": 4},
}  # fmt: skip


def inputs_of(study: dict[str, Any] = STUDY, **search: Any) -> Inputs:
    """The study above."""
    return prepare(parse(StudySpec, {**study, "search": {**STUDY["search"], **search}}), base_dir=None)


@pytest.fixture(scope="module")
def played() -> Any:
    """Every layout, as the screen orders them, with its estimates and its simulation."""
    inputs = inputs_of()
    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)
    return found, [evaluate(inputs.model, d, inputs.workload, inputs.study.slo) for d in found.deployments]


def test_the_screen_ranks_as_the_simulation_does(played: Any) -> None:
    """Rank correlation of mean TTFT and TPOT over the whole space."""
    found, runs = played
    assert len(runs) <= 60
    for name in ("ttft_ms", "tpot_ms"):
        simulated = [run.metrics[name]["mean"] for run in runs]
        assert spearmanr(getattr(found.screen, name), simulated).statistic > 0.9


def test_the_screen_says_which_keep_up(played: Any) -> None:
    """Layouts that it says are overloaded by a tenth do not meet the SLO, and those that do are not."""
    found, runs = played
    assert all(busy < 1.1 for busy, run in zip(found.screen.utilisation, runs, strict=True) if run.meets_slo)
    assert sum(found.screen.utilisation >= 1.1) >= 3


@pytest.mark.parametrize("objective", ["throughput", "cost"])
def test_few_trials_end_on_the_enumerated_best(played: Any, objective: str) -> None:
    """A fifth of the space leads to within 2 % of the best of all of it."""
    best = recommend(played[1], objective)[0]
    found = run_search(inputs_of(trials=8, objective=objective), interval=False)

    assert found.configurations == len(played[1])
    assert found.recommended is not None
    assert best is not None
    if objective == "cost":
        assert found.recommended.usd_per_hour <= best.usd_per_hour
    else:
        assert found.recommended.tokens_per_s_per_gpu >= 0.98 * best.tokens_per_s_per_gpu


def test_what_does_not_fit_is_left_out_with_its_reason() -> None:
    """A T4 has no room for the model; the count is that of the layouts which it spoils."""
    inputs = inputs_of(space={"stages": "all", "gpu": ["a100_sxm", "t4"], "dtype": "fp16"}, max_gpus=2)
    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)

    assert {d.gpu for d in found.deployments} == {"a100_sxm"}
    assert found.configurations == 8
    assert sum(r.configurations for r in found.rejected) == 8
    assert all("does not fit" in r.reason for r in found.rejected)


def test_an_interrupted_search_resumes(tmp_path: Any) -> None:
    """What the journal has is not played again, and the result is that of a search in one go."""

    def stop(done: int, total: int, outcome: Any) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    layouts = ["E-P-D", "2EP-D", "(E-PD)x3", "TP1x3", "E-2PD", "2(E-P)-D"]
    inputs = inputs_of(trials=6, batch=2, space={"stages": layouts})
    with pytest.raises(KeyboardInterrupt):
        run_search(inputs, out_dir=tmp_path, progress=stop, interval=False)
    again = run_search(inputs, out_dir=tmp_path, resume=True, interval=False)
    whole = run_search(inputs, interval=False)

    assert [(run.deployment, run.ttft_ms) for run in again.runs] == [(r.deployment, r.ttft_ms) for r in whole.runs]
