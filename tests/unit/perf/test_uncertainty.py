"""Half-widths of prices, of runs, and the prediction interval that follows."""

import json
from math import sqrt
from pathlib import Path

import pytest
import yaml

from simserve.cli.main import main
from simserve.paths import find_data
from simserve.perf import store
from simserve.perf.host import load_profile
from simserve.perf.priced import Priced
from simserve.perf.query import QUERIES, query
from simserve.perf.scaled import ScaledCost
from simserve.perf.uncertainty import combined, half_width
from simserve.run import half_width as run_half_width
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

PROFILE = load_profile("vllm")
H100 = load_gpu("h100_sxm")
LLAMA = load_model("meta-llama/Llama-3.1-8B")


def test_each_source_has_its_own_evidence() -> None:
    """Median for a row, 90th percentile between rows; without a table the error of pricing without one."""
    left_out = store.provenance("h100_sxm", "gemm")["left_out_error"]
    shape = {"n": 4096, "k": 4096}
    measured, between = (query("h100_sxm", "gemm", {**shape, "m": m}) for m in (512, 500))
    alone = load_gpu("t4").model_copy(update={"name": "unheard_of"})
    modelled = QUERIES["gemm"].price(alone, {**shape, "m": 512, "dtype": "fp16"})
    transferred = query("t4", "gemm", {**shape, "m": 512, "dtype": "fp16"})

    assert left_out["median"] == half_width(measured, PROFILE, H100)
    assert left_out["p90"] == half_width(between, PROFILE, H100)
    assert 0.498 == half_width(modelled, PROFILE, alone)
    assert 0.403 == half_width(transferred, PROFILE, load_gpu("t4"))


def test_a_table_that_was_continued_has_the_error_of_such_prices_elsewhere_and_at_least_its_own() -> None:
    """Cached context against a second source; a GEMM past the grid as without a table, no second source has those."""
    far = query("h100_sxm", "gemm", {"n": 4096, "k": 4096, "m": 10**6})
    beyond = query("h100_sxm", "prefill_attention", {"heads": 32, "kv_heads": 8, "tokens": 100, "past": 1000})

    assert "modelled" == beyond.source
    assert 0.327 == half_width(beyond, PROFILE, H100)
    assert ("modelled", 0.498) == (far.source, half_width(far, PROFILE, H100))


def test_the_same_silicon_with_other_memory_has_the_tables_own_error() -> None:
    """An A100 of 40 GB priced from 80 GB; from an H100 it would be another matter."""
    price = Priced(1000.0, "transferred", "a100_sxm/gemm")
    small, other = load_gpu("a100_sxm_40gb"), H100

    assert store.provenance("a100_sxm", "gemm")["left_out_error"]["p90"] == half_width(price, PROFILE, small)
    assert 0.403 == half_width(price, PROFILE, other)


def test_the_host_constant_has_its_standard_error() -> None:
    """1.645 x 248 us on 180 us."""
    host = Priced(180_000, "modelled", "engines/vllm")

    assert 1.645 * 248 / 180 == pytest.approx(half_width(host, PROFILE, H100))


def test_what_nobody_knows_may_be_off_by_all_of_it() -> None:
    """A family without any figure."""
    assert 1.0 == half_width(Priced(5.0, "modelled", "roofline/unheard_of"), PROFILE, H100)


def test_families_are_independent_operations_of_one_are_not() -> None:
    """Two halves of one family: 10 %; of two families: 10 % / sqrt 2."""
    one = combined([("gemm", 50, 0.1), ("gemm", 50, 0.1)])
    two = combined([("gemm", 50, 0.1), ("decode_attention", 50, 0.1)])

    assert (pytest.approx(0.1), pytest.approx(0.1 / sqrt(2)), 0.0) == (one, two, combined([]))


def test_a_scaled_cost_rounds_alike_in_steps_and_runs() -> None:
    """Leap on equals leap off for any factor."""
    cost = ScaledCost(ToyCost(base_ns=1001, per_token_ns=7, per_context_ns=3), 1.137)
    run = cost.decode_run_ns(5, 77, 40)

    assert [cost.step_ns((), 5, 77 + 5 * i, 5) for i in range(40)] == run.tolist()


def test_slower_steps_are_slower_requests() -> None:
    """Latency grows with the factor; the run's own half-width is a few percent on a measured GPU, much more without."""
    rows = load([(index * 10**8, 500, 50) for index in range(30)])
    runs = [simulate(LLAMA, DeploymentSpec(), rows, cost_factor=f) for f in (0.8, 1.0, 1.25)]
    means = [run.metrics.tpot_ms.mean for run in runs]
    other = simulate(LLAMA, DeploymentSpec(gpu="l4", dtype="bf16"), rows)

    assert means[0] < means[1] < means[2]
    assert 1.2 < means[2] / means[1] < 1.4  # slower steps also meet more prompts
    assert 0.03 < run_half_width(runs[1]) < 0.2
    assert run_half_width(other) > 2 * run_half_width(runs[1])


def test_the_interval_is_printed_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Around the prediction, with what it rests on, unless it is not wanted."""
    out, study = tmp_path / "r.json", tmp_path / "study.yaml"
    given = yaml.safe_load(find_data("studies", "quickstart").read_text(encoding="utf-8"))
    lines = []
    for calibrated in (True, False):
        study.write_text(yaml.safe_dump({**given, "deployment": {**given["deployment"], "calibrated": calibrated}}))
        assert 0 == main(["simulate", str(study), "--requests", "60", "--json", str(out)])
        lines.append(capsys.readouterr().out)
        (run,) = json.loads(out.read_text())["runs"]
        low, high = run["interval"]["ranges"]["tpot_ms.p90"]
        assert low < run["metrics"]["tpot_ms"]["p90"] < high
        assert 0.02 < run["interval"]["half_width"] < 0.3

    assert "90 % interval by calibration residuals of 492 points of vllm from 0.14: TTFT mean " in lines[0]
    assert "90 % interval by kernel error, step times +-" in lines[1]
    assert 0 == main(["simulate", "quickstart", "--requests", "60", "--no-interval"])
    assert "90 % interval" not in capsys.readouterr().out
