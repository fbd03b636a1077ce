"""The tornado: order by hand on a toy, every factor's ends, real runs move the way they must."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simserve.errors import Infeasible
from simserve.explore.factors import End, Factor, factors_of
from simserve.explore.objective import Outcome
from simserve.explore.repeats import repeats
from simserve.explore.runner import play, prepare
from simserve.explore.sensitivity import Sensitivity, sensitivity, tornado
from simserve.perf.host import load_profile
from simserve.report.tornado import tornado_html, tornado_lines
from simserve.run import KV_LINK, families, simulate
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec
from simserve.testing.builders import load
from simserve.workload.reshape import burstier, longer_outputs, longer_prompts

D = DeploymentSpec()
BASE = Outcome(
    deployment=D, num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=10.0, tpot_ms=10.0,
    usd_per_hour=2.0, usd_per_million_tokens=1.0, slo=(), turned_away=0, metrics={},
)  # fmt: skip


def factor(name: str, ends: int = 2) -> Factor:
    """A factor of the toy."""
    return Factor(name, "hardware", "as asked", tuple(End(0.1 * i, f"end {i}", D) for i in range(ends)))


def at(ttft: float) -> list[Outcome | str]:
    """Two seeds, 1 ms apart."""
    return [replace(BASE, ttft_ms=ttft), replace(BASE, ttft_ms=ttft + 1)]


def toy() -> Sensitivity:
    """TTFT 10: `small` -1 .. +1, `large` -2 .. +6, `one-sided` +3 .. +5, `switch` -4, `broken` has no ends."""
    factors = [factor("small"), factor("large"), factor("one-sided"), factor("switch", 1), factor("broken", 1)]
    ends = [at(9), at(11), at(8), at(16), at(13), at(15), at(6), ["does not fit", "does not fit"]]
    return tornado(factors, at(10), ends, ("ttft_ms",))


def test_the_widest_swing_comes_first() -> None:
    """8, 5 (from the base to +5), 4, 2, nothing."""
    found = toy()
    order = found.order("ttft_ms")

    assert [bar.factor.name for bar in order] == ["large", "one-sided", "switch", "small", "broken"]
    assert [bar.swing("ttft_ms") for bar in order] == [8.0, 5.0, 4.0, 2.0, 0.0]


def test_differences_are_paired() -> None:
    """The seeds lie 1 ms apart, their differences are equal: an interval of no width."""
    moved = toy().bars[1].ends[1].differences["ttft_ms"]

    assert moved is not None
    assert (moved.value, moved.low, moved.high) == (6.0, 6.0, 6.0)


def test_what_cannot_be_played_says_why() -> None:
    """An end that is impossible is left out with its reason; a base that is impossible is an error."""
    assert (toy().bars[4].ends, toy().bars[4].note) == ([], "does not fit")
    with pytest.raises(Infeasible, match="does not fit"):
        tornado([], ["does not fit"], [], ("ttft_ms",))


def test_rows_and_document_say_the_same() -> None:
    """One row per end, in the order of the tornado."""
    found = toy()
    names = [row["factor"] for row in found.rows()]

    assert names == ["large", "large", "one-sided", "one-sided", "switch", "small", "small"]
    assert found.to_dict()["order"]["ttft_ms"][0] == "large"


def test_the_chart_in_characters() -> None:
    """The longest bar reaches the edge on its side."""
    lines = tornado_lines(toy(), "ttft_ms", width=13)

    assert lines[1].startswith("  large         ▒▒│██████ end 0: -2")
    assert lines[3].startswith("  switch      ████│       end 0: -4")
    assert "broken" not in "".join(lines)


def test_the_chart_as_a_page() -> None:
    """With plotly it works offline and holds every factor."""
    pytest.importorskip("plotly")
    page = tornado_html("a <study>", toy())

    assert page is not None
    assert "one-sided" in page
    assert "<script src" not in page
    assert "<title>a &lt;study&gt;</title>" in page


def test_prompts_grow_with_what_they_share() -> None:
    """A common piece grows alike in both, what was generated (content -2) does not; outputs the other way round."""
    content = [((0, 10),), ((0, 10), (-2, 4), (-3, 10))]
    workload = load([(0, 10, 4), (5, 24, 6)], content=content, output_content=[-2, -4])
    prompts, outputs = longer_prompts(workload, 1.5), longer_outputs(workload, 2.0)

    assert prompts.content == [((0, 15),), ((0, 15), (-2, 4), (-3, 15))]
    assert (prompts.prompt_tokens.tolist(), prompts.output_tokens.tolist()) == ([15, 34], [4, 6])
    assert outputs.content == [((0, 10),), ((0, 10), (-2, 8), (-3, 10))]
    assert (outputs.prompt_tokens.tolist(), outputs.output_tokens.tolist()) == ([10, 28], [8, 12])


@pytest.mark.parametrize("change", [0.5, 0.9, 1.1, 1.5])
def test_bursts_change_the_variation_alone(change: float) -> None:
    """The CV of the gaps is as asked, the first and last arrival and the order of the gaps stay."""
    gaps = np.random.default_rng(0).exponential(1e9, 400)
    workload = load([(int(t), 1, 1) for t in np.cumsum(gaps)])
    found = burstier(workload, change)

    assert found is not None
    before, after = (np.diff(w.arrival_ns) for w in (workload, found))
    assert after.std() / after.mean() == pytest.approx(change * before.std() / before.mean(), rel=1e-3)
    assert found.arrival_ns[0] == workload.arrival_ns[0]
    assert abs(int(found.arrival_ns[-1] - workload.arrival_ns[-1])) <= 400
    assert (np.diff(after[np.argsort(before)]) >= -2).all()


def test_equal_gaps_have_no_bursts() -> None:
    """Nothing to change."""
    assert burstier(load([(0, 1, 1), (10, 1, 1), (20, 1, 1)]), 1.1) is None


def test_profiles_are_multiplied() -> None:
    """Whole numbers stay whole."""
    profile = load_profile("vllm")
    other = profile.times({"host_ns_per_step": 2.5, "gemm_time_factor": 1.1})

    assert other.host_ns_per_step == round(2.5 * profile.host_ns_per_step)
    assert isinstance(other.host_ns_per_step, int)
    assert other.gemm_time_factor == pytest.approx(1.1 * profile.gemm_time_factor)


STUDY: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {"arrivals": {"kind": "poisson", "rate_rps": 8}, "requests": 120,
                 "prompt_tokens": {"kind": "lognormal", "mean": 500, "std": 300, "max": 4000},
                 "output_tokens": {"kind": "fixed", "value": 40}},
    "slo": {"ttft_ms": 300, "tpot_ms": 25},
}  # fmt: skip
POOLS = {"system": "distserve", "pools": {"prefill": {}, "decode": {"max_num_seqs": 64}}}


def test_every_family_of_a_run_has_a_share() -> None:
    """Shares add up to the whole."""
    run = play(prepare(parse(StudySpec, STUDY), base_dir=None))
    found = families(run)

    assert sum(share for share, _ in found.values()) == pytest.approx(1.0)
    assert {"gemm", "decode_attention", "prefill_attention", "host"} <= set(found)


def test_numbers_move_by_their_own_error_or_as_asked() -> None:
    """GEMMs by their left-out error, the rate by 10 %; with --change all by that; each pool keeps its own limits."""
    inputs = prepare(parse(StudySpec, {**STUDY, "deployment": POOLS}), base_dir=None)
    run = play(inputs)
    own, asked = ({f.name: f for f in factors_of(run, inputs.study.deployment, inputs.workload, change)}
                  for change in (None, 0.2))  # fmt: skip
    gemm = families(run)["gemm"][1]

    assert own["GEMM time"].ends[1].change == pytest.approx(gemm)
    assert (own["GEMM time"].basis, own["request rate"].basis) == ("its own 90 % error", "no stated error")
    assert {e.change for f in asked.values() for e in f.ends} == {-0.2, 0.2, None}
    assert own["request rate"].ends[0].reshape == ("load", 0.9)
    assert [d.max_num_seqs for _, d in own["max_num_seqs"].ends[1].deployment.engines()] == [282, 70]
    assert own["KV link bandwidth"].ends[0].factors == {KV_LINK: 0.9}
    assert "expert time" not in own


def test_passes_and_exchanges_are_moved() -> None:
    """Elementwise passes of any model; the exchange where ranks share experts, and it slows what depends on it."""
    dense = prepare(parse(StudySpec, STUDY), base_dir=None, requests=30)
    ranks = {"gpu": "h200_sxm", "tensor_parallel_size": 1, "data_parallel_size": 4}
    shared = prepare(parse(StudySpec, {**STUDY, "model": "Qwen/Qwen3-30B-A3B", "deployment": ranks}), base_dir=None,
                     requests=30)  # fmt: skip
    names = [{f.name: f for f in factors_of(play(i), i.study.deployment, i.workload, 0.5)} for i in (dense, shared)]
    for inputs, found, name in ((dense, names[0], "elementwise time"), (shared, names[1], "expert exchange time")):
        plain, slow = (simulate(inputs.model, inputs.study.deployment, inputs.workload, factors=f).metrics.tpot_ms
                       for f in ({}, found[name].ends[1].factors))  # fmt: skip
        assert slow.mean > 1.005 * plain.mean  # type: ignore[operator]
    assert ["expert exchange time" in found for found in names] == [False, True]


def test_a_slower_link_between_pools_is_slower() -> None:
    """At a hundredth of the bandwidth the second token comes later."""
    inputs = prepare(parse(StudySpec, {**STUDY, "deployment": POOLS}), base_dir=None, requests=30)
    fast, slow = (simulate(inputs.model, inputs.study.deployment, inputs.workload, factors={KV_LINK: f}).metrics
                  for f in (1.0, 0.01))  # fmt: skip

    assert slow.tpot_ms.mean > 1.03 * fast.tpot_ms.mean  # type: ignore[operator]


def test_a_real_tornado() -> None:
    """Slower GEMMs and more requests make TPOT worse, faster and fewer better."""
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None)
    played = repeats(inputs.study, 2, base_dir=None)
    one = sensitivity(inputs.model, inputs.study.deployment, inputs.study.slo, played)
    bars = {b.factor.name: [d.value for m in b.ends if (d := m.differences["tpot_ms"])] for b in one.bars}

    assert bars["GEMM time"][0] < 0 < bars["GEMM time"][1]
    assert bars["request rate"][0] < 0 < bars["request rate"][1]
    assert one.order("tpot_ms")[0].factor.name == "GEMM time"
