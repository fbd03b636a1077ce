"""What a search can be asked for: throughput per GPU, fewest GPUs, lowest cost, the whole front."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from simserve.explore.objective import Energy, Outcome, SloValue, outcome_from_dict, ranked, recommend
from simserve.explore.pareto import AXES, front
from simserve.explore.result import SearchResult
from simserve.explore.runner import prepare, run_search
from simserve.explore.screen import Screen, places
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

BASE = Outcome(
    deployment=DeploymentSpec(), num_gpus=2, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=1.0,
    tpot_ms=10.0, usd_per_hour=4.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, 10.0, 20.0),),
    turned_away=0, metrics={}, energy=Energy(300.0, 3.0, 0.3),
)  # fmt: skip
ONE = replace(BASE, num_gpus=1, tokens_per_s_per_gpu=90.0, usd_per_hour=6.0, usd_per_million_tokens=1.8)
FOUR = replace(BASE, num_gpus=4, tokens_per_s_per_gpu=60.0, usd_per_hour=3.0, usd_per_million_tokens=0.9)
MISS = replace(BASE, num_gpus=1, usd_per_hour=0.5, slo=(SloValue("tpot", 90.0, 30.0, 20.0),))


@pytest.mark.parametrize(("objective", "best"), [("throughput", BASE), ("gpus", ONE), ("cost", FOUR), ("front", BASE)])
def test_each_objective_has_its_winner(objective: str, best: Outcome) -> None:
    """The one that misses the SLO has the fewest GPUs and the lowest cost, and comes last all the same."""
    found = ranked([MISS, FOUR, ONE, BASE], objective)

    assert (found[0], found[-1]) == (best, MISS)
    assert recommend([MISS, FOUR, ONE, BASE], objective)[0] == best


def test_of_equally_few_gpus_the_cheaper_wins() -> None:
    """And the others are its ties."""
    cheap = replace(ONE, usd_per_hour=5.0, usd_per_million_tokens=1.9)

    assert recommend([ONE, BASE, cheap], "gpus") == (cheap, [ONE])


def test_of_equal_costs_per_hour_the_lower_cost_per_token_wins() -> None:
    """Within 1 % of the hourly cost, tokens decide; beyond it they do not."""
    quick = replace(FOUR, usd_per_hour=3.02, usd_per_million_tokens=0.5)
    dear = replace(FOUR, usd_per_hour=3.1, usd_per_million_tokens=0.1)

    assert recommend([FOUR, quick, dear], "cost") == (quick, [FOUR])


def test_the_front_weighs_cost_and_energy_when_asked() -> None:
    """Slower for everybody but cheaper, or but thriftier, is on the four-axis front and not on the plain one."""
    cheap = replace(BASE, tokens_per_s_per_gpu=50.0, tpot_ms=12.0, usd_per_million_tokens=0.5)
    thrifty = replace(BASE, tokens_per_s_per_gpu=40.0, tpot_ms=13.0, energy=Energy(200.0, 2.0, 0.3))
    worse = replace(BASE, tokens_per_s_per_gpu=39.0, tpot_ms=14.0)
    runs = [worse, thrifty, cheap, BASE]

    assert front(runs) == [BASE]
    assert front(runs, tuple(AXES)) == [BASE, cheap, thrifty]


def test_the_front_is_what_nothing_dominates() -> None:
    """Over a grid of all values of all axes: kept ones do not dominate each other, others are dominated by one kept."""
    values = (1.0, 2.0, 3.0)
    rng = np.random.default_rng(0)
    runs = [
        replace(BASE, tokens_per_s_per_gpu=a, tpot_ms=b, usd_per_million_tokens=c, energy=Energy(1.0, d, 0.3))
        for a, b, c, d in rng.permutation(list(product(values, repeat=4)))[:40]
    ]
    points = {id(r): tuple(axis(r) for axis in AXES.values()) for r in runs}
    kept = front(runs, tuple(AXES))

    def dominates(a: Outcome, b: Outcome) -> bool:
        p, q = points[id(a)], points[id(b)]
        return p != q and all(x <= y for x, y in zip(p, q, strict=True))

    assert not any(dominates(a, b) for a in kept for b in kept)
    assert all(any(dominates(k, r) for k in kept) for r in runs if not any(r is k for k in kept))


def test_tokens_per_user_is_the_inverse_of_tpot() -> None:
    """10 ms per token is 100 tokens/s; without a TPOT there is none."""
    assert BASE.tokens_per_s_per_user == 100.0
    assert replace(BASE, tpot_ms=None).tokens_per_s_per_user is None


def test_energy_survives_json_and_may_be_absent() -> None:
    """A journal that was written before energy was known can still be read."""
    plain = json.loads(json.dumps(BASE.to_dict()))
    old = {name: value for name, value in plain.items() if name != "energy"}

    assert outcome_from_dict(plain) == BASE
    assert outcome_from_dict(old).energy is None


def test_the_screen_tries_the_cheap_or_the_few_first() -> None:
    """Three promising layouts of 1, 2 and 3 GPUs at 4, 2 and 9 USD/h: the order follows the objective."""
    flat = np.ones(3)
    counts = np.array([1.0, 2.0, 3.0])
    screen = Screen(0.5 * flat, flat, flat, counts, counts, np.array([4.0, 2.0, 9.0]), flat)
    found = {name: places(screen, np.arange(3), None, name).tolist() for name in ("throughput", "gpus", "cost")}

    assert found == {"throughput": [2, 1, 0], "gpus": [0, 1, 2], "cost": [1, 0, 2]}


def test_a_search_for_the_lowest_cost() -> None:
    """Enumerated: nothing that meets the SLO costs less per hour; power and energy belong together."""
    study = parse(StudySpec, {
        "model": "meta-llama/Llama-3.1-8B",
        "workload": {"arrivals": {"kind": "poisson", "rate_rps": 6}, "requests": 150,
                     "prompt_tokens": {"kind": "fixed", "value": 500}, "output_tokens": {"kind": "fixed", "value": 50}},
        "slo": {"ttft_ms": 400, "tpot_ms": 40},
        "search": {"objective": "cost", "max_gpus": 4,
                   "space": {"gpu": ["h100_sxm", "l40s"], "tensor_parallel_size": [1, 2], "replicas": [1, 2]}},
    })  # fmt: skip
    result: SearchResult = run_search(prepare(study, base_dir=None))
    met = [run for run in result.runs if run.meets_slo]

    assert result.complete
    assert result.recommended is not None
    assert result.recommended.usd_per_hour <= 1.01 * min(run.usd_per_hour for run in met)
    for run in result.runs:
        assert run.energy is not None
        tokens_per_s = run.tokens_per_s_per_gpu * run.num_gpus
        assert run.energy.joules_per_token == pytest.approx(run.energy.watts_per_gpu * run.num_gpus / tokens_per_s)
