"""Named deployments side by side: pairs by hand, ties, studies with `deployments`."""

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from simserve.errors import Infeasible, SpecError
from simserve.explore.compare import Candidate, Comparison, Played, compare
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.repeats import repeats
from simserve.explore.runner import prepare
from simserve.explore.values import NAMES, check_value, value
from simserve.report.questions import print_comparison
from simserve.spec.base import parse, parse_yaml
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

BASE = Outcome(
    deployment=DeploymentSpec(), num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=10.0,
    tpot_ms=10.0, usd_per_hour=2.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, 10.0, 20.0),),
    turned_away=0, metrics={"ttft_ms": {"p99": 40.0}, "preemptions": 3, "goodput_rps": None},
)  # fmt: skip
MISSED = (SloValue("tpot", 90.0, 30.0, 20.0),)


def played(name: str, ttft: list[float], met: bool = True) -> Played:
    """Outcomes with these TTFTs."""
    slo = BASE.slo if met else MISSED
    return Played(name, DeploymentSpec(), [replace(BASE, ttft_ms=value, slo=slo) for value in ttft])


def comparison(*them: Played) -> Comparison:
    """Compared by TTFT, against the first."""
    return Comparison(("ttft_ms",), list(them), them[0].name, 0.95, True)


def test_a_paired_difference_by_hand() -> None:
    """10, 20, 30 against 12, 21, 33: +2 on average, s = 1, +- 4.303 / sqrt(3)."""
    found = comparison(played("a", [10.0, 20.0, 30.0]), played("b", [12.0, 21.0, 33.0]))
    a, b = found.played
    difference = found.difference(b, a, "ttft_ms")

    assert difference is not None
    reach = 4.3027 / 3**0.5
    assert (difference.mean.value, difference.mean.low, difference.mean.high) == pytest.approx(
        (2.0, 2 - reach, 2 + reach), abs=1e-4
    )
    assert difference.relative == 0.1
    assert difference.tie


def test_a_sure_difference_is_no_tie() -> None:
    """+2, +2, +2.1 lies far from zero; below 1 % it is a tie however sure it is."""
    wide = comparison(played("a", [10.0, 20.0, 30.0]), played("b", [12.0, 22.0, 32.1]))
    narrow = comparison(played("a", [1000.0, 2000.0, 3000.0]), played("b", [1002.0, 2002.0, 3002.1]))

    assert [f.difference(f.played[1], f.played[0], "ttft_ms").tie for f in (wide, narrow)] == [False, True]  # type: ignore[union-attr]


def test_the_best_keeps_the_slo_and_names_its_ties() -> None:
    """The fastest misses the SLO; of the others `b` is best, `c` ties with it, `a` does not."""
    found = comparison(
        played("a", [15.0, 15.1, 15.2]), played("quick", [1.0, 1.1, 1.2], met=False),
        played("b", [10.0, 11.0, 12.0]), played("c", [10.5, 10.9, 12.1]),
    )  # fmt: skip

    assert found.best is not None
    assert (found.best.name, [p.name for p in found.ties]) == ("b", ["c"])


def test_if_nobody_keeps_the_slo_there_is_still_a_best() -> None:
    """And its row says that it misses."""
    found = comparison(played("a", [15.0, 16.0], met=False), played("b", [10.0, 11.0], met=False))

    assert found.best is not None
    assert (found.best.name, found.best.met) == ("b", 0)


def test_one_seed_has_no_interval_to_speak_of(capsys: pytest.CaptureFixture[str]) -> None:
    """What = marks then is said without a confidence; with two seeds it has one."""
    one = comparison(played("a", [1000.0]), played("b", [1002.0]), played("c", [1100.0]))
    print_comparison(Console(width=300), one)
    lone = capsys.readouterr().out
    print_comparison(Console(width=300), comparison(played("a", [10.0, 20.0]), played("b", [12.0, 22.0])))

    assert "1 seed, the same requests for all, so no interval" in lone
    assert "95 %" not in lone
    assert "= marks one below 1 %" in lone
    assert "2 seeds, the same requests for all; = marks a tie: the 95 % interval" in capsys.readouterr().out


def test_what_one_seed_never_reached_has_no_mean() -> None:
    """Null, not a huge number."""
    found = comparison(played("a", [10.0, 1e12]), played("b", [10.0, 11.0]))

    assert found.value(found.played[0], "ttft_ms") is None
    assert found.to_dict()["deployments"][1]["differences"]["ttft_ms"] is None


def test_values_by_name() -> None:
    """Own numbers, metrics, a statistic of a metric, and what is not there."""
    names = ("tokens_per_s_per_gpu", "tokens_per_s_per_user", "ttft_ms.p99", "preemptions", "goodput_rps", "e2e_ms.p90")

    assert [value(BASE, name) for name in names] == [100.0, 100.0, 40.0, 3.0, None, None]
    assert all(value(BASE, name) is None or isinstance(value(BASE, name), float) for name in NAMES)
    with pytest.raises(SpecError, match="unknown metric 'ttft'; did you mean 'ttft_ms'"):
        check_value("ttft", "--metric")


STUDY: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {"arrivals": {"kind": "poisson", "rate_rps": 8}, "requests": 120,
                 "prompt_tokens": {"kind": "lognormal", "mean": 500, "std": 300, "max": 4000},
                 "output_tokens": {"kind": "fixed", "value": 40}},
    "slo": {"ttft_ms": 300, "tpot_ms": 25},
    "deployment": {"gpu": "h100_sxm", "max_num_seqs": 64},
}  # fmt: skip


def test_deployments_rest_on_the_one() -> None:
    """Key by key; null takes the default; the base itself is untouched."""
    study = parse(StudySpec, {**STUDY, "deployments": {
        "same": {}, "two": {"replicas": 2}, "plain": {"max_num_seqs": None, "gpu": "l40s"}, "none": None,
    }})  # fmt: skip
    found = {name: (d.gpu, d.replicas, d.max_num_seqs) for name, d in (study.deployments or {}).items()}

    assert found == {"same": ("h100_sxm", 1, 64), "two": ("h100_sxm", 2, 64), "plain": ("l40s", 1, 256),
                     "none": ("h100_sxm", 1, 64)}  # fmt: skip
    assert parse(StudySpec, study.model_dump(mode="json")) == study


def test_a_wrong_key_of_a_named_deployment_is_located() -> None:
    """File, line, key, nearest."""
    text = (
        "model: m\nworkload: {trace: {path: x}}\ndeployment: {gpu: l40s}\ndeployments:\n"
        "  a: {}\n  b: {replica: 2}\n"
    )
    with pytest.raises(SpecError) as error:
        parse(StudySpec, parse_yaml(text, file="s.yaml"))

    assert str(error.value) == "s.yaml:6: deployments.b.replica: unknown key; did you mean 'replicas'?"


def test_real_deployments_play_the_same_requests() -> None:
    """Equal deployments differ by nothing; faster hardware shows; any number of processes finds the same."""
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None)
    same = repeats(inputs.study, 3, base_dir=None)
    own = inputs.study.deployment
    named = {"a": own, "b": own, "fp8": own.model_copy(update={"dtype": "fp8"})}
    candidates = [Candidate(name, inputs.model, d, inputs.study.slo, same) for name, d in named.items()]
    found, again = (compare(candidates, jobs=jobs) for jobs in (1, 2))
    a, b, fp8 = found.played
    equal, faster = found.difference(b, a, "tpot_ms"), found.difference(fp8, a, "tpot_ms")

    assert found == again
    assert found.same_requests
    assert equal is not None
    assert (equal.mean.value, equal.tie) == (0.0, True)
    assert faster is not None
    assert faster.relative < -0.1
    assert not faster.tie


def test_an_impossible_deployment_is_named() -> None:
    """One line says which."""
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None)
    odd = inputs.study.deployment.model_copy(update={"tensor_parallel_size": 3})

    with pytest.raises(Infeasible, match="odd: tensor_parallel_size 3 does not divide"):
        compare([Candidate("odd", inputs.model, odd, None, repeats(inputs.study, 1, base_dir=None))])
