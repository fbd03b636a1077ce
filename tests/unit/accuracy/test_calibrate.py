"""Fitting constants: recovered from points made with known ones, kept by priors, written, read from benchmarks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from simserve.accuracy.benches import like_study, read_bench
from simserve.accuracy.fit import fit, residuals
from simserve.accuracy.fitted import chosen, seen_in
from simserve.accuracy.judge import Floats, deployment_of, play, requests_of
from simserve.accuracy.points import Point
from simserve.cli.calibrate import _going_on
from simserve.cli.main import main
from simserve.errors import MissingData, SpecError, UnknownName
from simserve.perf.host import EngineProfile, has_profile, load_profile
from simserve.spec.deployment import DeploymentSpec

LLAMA = "meta-llama/Llama-3.1-8B"
BASE = load_profile("vllm", calibrated=False)
POINT = Point(LLAMA, "h100_sxm", 2, 256, 16, framework="vllm", version="0.19.0", requests=8)


def measured(profile: EngineProfile, points: list[Point]) -> list[Point]:
    """The points with what a simulation under `profile` says, as if it had been measured."""
    found = [play(point, profile=profile) for point in points]
    return [replace(p, ttft_ms=f[0], tpot_ms=f[1]) for p, f in zip(points, found, strict=True) if f is not None]


def loads() -> list[Point]:
    """From one client to sixteen, short prompts and long ones, two requests each."""
    return [replace(POINT, concurrency=c, prompt_tokens=p, requests=2 * c) for c in (1, 4, 16) for p in (256, 2048)]


def test_known_constants_are_found_again() -> None:
    """1.2 ms a step, 60 ms of API: within a fifth, for priors pull, by residuals that then vanish."""
    truth = replace(BASE, host_ns_per_step=1_200_000, api_ns=60_000_000)
    points = measured(truth, loads())
    names = ("host_ns_per_step", "api_ns")
    found = fit(BASE, lambda profile: residuals(points, profile), len(points), names, rounds=8)
    for name in names:
        assert getattr(found.profile, name) == pytest.approx(getattr(truth, name), rel=0.2)
        assert found.errors[name] > 0
    assert found.loss_after < 0.2 * found.loss_before
    assert np.abs(residuals(points, found.profile)).max() < 0.05


def test_a_search_may_begin_elsewhere() -> None:
    """At the truth it is over at once; the priors still hold the constants near the defaults."""
    truth = replace(BASE, host_ns_per_step=1_200_000, api_ns=60_000_000)
    points = measured(truth, loads()[:2])
    names = ("host_ns_per_step", "api_ns")
    asked: list[EngineProfile] = []

    def evaluate(profile: EngineProfile) -> Floats:
        asked.append(profile)
        return residuals(points, profile)

    found = fit(BASE, evaluate, len(points), names, rounds=1, begin=truth)
    assert truth.host_ns_per_step in {profile.host_ns_per_step for profile in asked[:4]}
    assert found.profile.api_ns == pytest.approx(truth.api_ns, rel=0.05)


def test_going_on_keeps_what_is_not_fitted_as_it_was_fitted() -> None:
    """TensorRT-LLM 1.0 has all of its API time as latency, by an earlier fit, not vLLM's default per request."""
    plain, fitted = load_profile("trtllm", "1.0", calibrated=False), load_profile("trtllm", "1.0")
    start = _going_on(plain, fitted, ("api_ns", "gemm_time_factor"))

    assert (start.api_ns, start.gemm_time_factor) == (plain.api_ns, 1.0)
    assert start.api_ns_per_request == fitted.api_ns_per_request != plain.api_ns_per_request


def test_a_factor_that_no_point_shows_does_not_move() -> None:
    """A dense model has no experts: the prior alone speaks, and its width is the standard error."""
    points = measured(BASE, loads()[:2])
    found = fit(BASE, lambda profile: residuals(points, profile), len(points), ("moe_time_factor", "api_ns"), rounds=2)
    assert found.profile.moe_time_factor == 1.0
    assert found.errors["moe_time_factor"] == pytest.approx(0.2, rel=1e-3)


def test_points_show_some_constants_together_alone() -> None:
    """Experts in fp8 beside others in 16 bits, verifying with drafts; dense models and one format do not."""
    moe = replace(POINT, model="Qwen/Qwen3-30B-A3B", dtype="bf16")
    dense, fp8, mixed = replace(POINT, dtype="fp8"), replace(moe, dtype="fp8"), replace(moe, moe_dtype="fp8_block")
    for points, shown in (([moe, dense], False), ([fp8, mixed], False), ([moe, fp8], True), ([moe, mixed], True)):
        assert ("fp8_moe_time_factor" in seen_in(points)) == shown
    assert "verify_ns_per_seq" not in seen_in([moe])
    assert "verify_ns_per_seq" in seen_in([replace(moe, num_speculative_tokens=3)])


def test_constants_and_points_are_checked() -> None:
    """Nearest name; no points."""
    with pytest.raises(UnknownName, match="api_ns"):
        fit(BASE, lambda profile: np.zeros(2), 1, ("api_n",))
    with pytest.raises(MissingData, match="no points"):
        fit(BASE, lambda profile: np.zeros(0), 0)


def test_points_of_a_version_are_chosen() -> None:
    """From one version on, before another; obstacles and very many clients are left out."""
    rows = [replace(POINT, version=v) for v in ("0.12.0", "0.15.1", "nightly-1")]
    rows += [replace(POINT, obstacle="no"), replace(POINT, concurrency=512), replace(POINT, framework="sglang")]
    assert [p.version for p in chosen(rows, "vllm", since="0.14", clients=128)] == ["0.15.1", "nightly-1"]
    assert [p.version for p in chosen(rows, "vllm", before="0.14", clients=128)] == ["0.12.0"]
    assert len(chosen(rows, "vllm", sample=2)) == 2
    assert len(chosen(rows, "vllm")) == 4
    assert len(chosen(rows, "vllm", clients=128)) == 3
    with pytest.raises(MissingData, match="no points of trtllm"):
        chosen(rows, "trtllm")


VLLM = {
    "backend": "vllm", "model_id": LLAMA, "num_prompts": 80, "request_rate": "inf", "max_concurrency": 8,
    "completed": 80, "total_input_tokens": 80 * 1024, "total_output_tokens": 80 * 128, "mean_ttft_ms": 60.0,
    "mean_tpot_ms": 9.0, "mean_e2el_ms": 1200.0,
}  # fmt: skip
SGLANG = {
    "backend": "sglang", "request_rate": 4.0, "max_concurrency": None, "random_input_len": 1000, "completed": 100,
    "random_output_len": 200, "random_range_ratio": 0.5, "total_input_tokens": 75_000, "total_output_tokens": 15_000,
    "mean_ttft_ms": 70.0, "mean_tpot_ms": 10.0, "mean_e2e_latency_ms": 1500.0,
}  # fmt: skip
GENAI = {
    "time_to_first_token": {"unit": "ms", "avg": 55.0}, "inter_token_latency": {"unit": "ms", "avg": 8.0},
    "request_latency": {"unit": "ms", "avg": 900.0}, "input_sequence_length": {"avg": 512.4},
    "output_sequence_length": {"avg": 100.0}, "request_count": {"avg": 60.0},
    "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 6}}},
}  # fmt: skip
AIPERF = {**GENAI, "time_to_first_token": {"unit": "s", "avg": 0.055},
          "input_config": {"loadgen": {"request_rate": 2.5}}}  # fmt: skip


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (VLLM, {"concurrency": 8, "prompt_tokens": 1024, "output_tokens": 128, "least_share": 1.0, "requests": 80,
                "ttft_ms": 60.0, "tpot_ms": 9.0, "e2e_ms": 1200.0, "rate_rps": 0.0}),
        ({**VLLM, "input_lens": [10, 40], "output_lens": [50, 100]},
         {"prompt_tokens": 40, "output_tokens": 100, "least_share": 0.5}),
        (SGLANG, {"prompt_tokens": 1000, "output_tokens": 200, "least_share": 0.5, "rate_rps": 4.0, "e2e_ms": 1500.0}),
        (GENAI, {"concurrency": 6, "prompt_tokens": 512, "output_tokens": 100, "requests": 60, "ttft_ms": 55.0}),
        (AIPERF, {"rate_rps": 2.5, "ttft_ms": 55.0, "tpot_ms": 8.0}),
    ],
)  # fmt: skip
def test_results_of_benchmarks_are_points(
    tmp_path: Path, result: dict[str, object], expected: dict[str, object]
) -> None:
    """Load, lengths and latencies from the result, the engine from the study."""
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    (point,) = read_bench(path, like_study(LLAMA, DeploymentSpec(gpu="h200_sxm", dtype="fp8")))
    assert {key: getattr(point, key) for key in expected} == expected
    assert (point.gpu, point.dtype, point.model) == ("h200_sxm", "fp8", LLAMA)


def test_json_lines_and_what_is_wrong_in_them(tmp_path: Path) -> None:
    """SGLang appends lines; a result without TTFT is named."""
    path = tmp_path / "sglang.jsonl"
    path.write_text(json.dumps(SGLANG) + "\n" + json.dumps({**SGLANG, "request_rate": 8.0}) + "\n")
    assert [point.rate_rps for point in read_bench(path, POINT)] == [4.0, 8.0]
    path.write_text(json.dumps({**VLLM, "mean_ttft_ms": None}))
    with pytest.raises(SpecError, match=r"sglang\.jsonl: mean_ttft_ms: must be a number above 0"):
        read_bench(path, POINT)
    path.write_text("{")
    with pytest.raises(SpecError, match="neither JSON nor JSON lines"):
        read_bench(path, POINT)
    with pytest.raises(SpecError, match=r"deployment\.enable_prefix_caching"):
        like_study(LLAMA, DeploymentSpec(enable_prefix_caching=True))


def test_an_open_loop_arrives_at_its_rate() -> None:
    """Poisson: 400 requests at 20 a second take about 20 s."""
    load = requests_of(replace(POINT, rate_rps=20.0, requests=400))
    assert load.concurrency is None
    assert load.arrival_ns[-1] / 1e9 == pytest.approx(20, rel=0.15)


def test_the_command_calibrates_to_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two results of a slow front end: the profile that is written has it, and studies can name it."""
    slow = replace(load_profile("vllm"), api_ns=90_000_000)
    study = tmp_path / "study.yaml"
    study.write_text(
        f"name: mine\nmodel: {LLAMA}\ndeployment: {{gpu: h100_sxm}}\n"
        "workload:\n  arrivals: {kind: constant, rate_rps: 1}\n"
        "  prompt_tokens: {kind: fixed, value: 9}\n  output_tokens: {kind: fixed, value: 9}\n  requests: 2\n"
    )
    words = ["calibrate", "--study", str(study), "--constant", "api_ns"]
    for c in (1, 4):
        like = like_study(LLAMA, DeploymentSpec(gpu="h100_sxm"))
        point = replace(like, concurrency=c, prompt_tokens=512, output_tokens=16, requests=8, least_share=1.0)
        ttft, tpot, _ = play(point, profile=slow) or (0.0, 0.0, 0.0)
        result = {**VLLM, "completed": 8, "max_concurrency": c, "total_input_tokens": 8 * 512,
                  "total_output_tokens": 8 * 16, "mean_ttft_ms": ttft, "mean_tpot_ms": tpot}  # fmt: skip
        path = tmp_path / f"c{c}.json"
        path.write_text(json.dumps(result))
        words += ["--bench", str(path)]
    out = tmp_path / "perfdb" / "engines" / "cluster.yaml"
    out.parent.mkdir(parents=True)
    assert main([*words, "-o", str(out)]) == 0
    assert "no scenarios kept back" in capsys.readouterr().out
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    assert load_profile("cluster").api_ns == pytest.approx(90_000_000, rel=0.05)
    assert main([*words, "-o", str(out), "--clients", "3"]) == 0
    source = yaml.safe_load(out.read_text())["api_ns"]["source"]
    assert source.startswith("simserve calibrate: 1 points of vllm at up to 3 clients; standard error")
    assert main(["calibrate", "--bench", str(path), "-o", str(out)]) == 2
    assert "results need --study" in capsys.readouterr().err


def calibrated(folder: Path, deployment: str, *options: str) -> tuple[int, Path]:
    """Exit code and profile of a calibration to one result on a deployment."""
    study, result, out = folder / "study.yaml", folder / "r.json", folder / "perfdb" / "engines" / "new.yaml"
    out.parent.mkdir(parents=True, exist_ok=True)
    study.write_text(
        f"name: mine\nmodel: {LLAMA}\ndeployment: {{gpu: h100_sxm, {deployment}}}\n"
        "workload:\n  arrivals: {kind: constant, rate_rps: 1}\n"
        "  prompt_tokens: {kind: fixed, value: 9}\n  output_tokens: {kind: fixed, value: 9}\n  requests: 2\n"
    )
    load = {"completed": 4, "max_concurrency": 2, "total_input_tokens": 2048, "total_output_tokens": 32}
    result.write_text(json.dumps({**VLLM, **load, "mean_ttft_ms": 190.0}))
    words = ["calibrate", "--bench", str(result), "--study", str(study), "--constant", "api_ns", "-o", str(out)]
    return main([*words, *options]), out


@pytest.mark.parametrize(
    ("deployment", "base"),
    [("scheduler: sarathi", "vllm"), ("scheduler: vllm_v0, engine_version: '0.6'", "vllm"),
     ("scheduler: orca, engine: sglang", "sglang"), ("scheduler: trtllm", "trtllm"), ("engine: own", "own")],
)  # fmt: skip
def test_schedulers_without_a_profile_take_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deployment: str, base: str
) -> None:
    """As when a study is simulated: the engine asked for, or of the scheduler's name, or vllm."""
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    engines = tmp_path / "perfdb" / "engines"
    engines.mkdir(parents=True)
    (engines / "own.yaml").write_text("name: own\nbase: vllm\napi_ns: {value: 100000000, source: a test}\n")
    has_profile.cache_clear()
    code, out = calibrated(tmp_path, deployment)
    written = yaml.safe_load(out.read_text())
    start = load_profile(base, "0.6" if "0.6" in deployment else "")

    assert (code, written["base"]) == (0, base)
    assert written["api_ns"]["value"] > start.api_ns
    assert f"points of {base}" in written["ttft_spread"]["source"]


@pytest.mark.parametrize(
    ("deployment", "options", "problem"),
    [
        ("engine: sglan", [], "study.yaml:3: deployment.engine: unknown engine 'sglan'; did you mean 'sglang'?"),
        ("scheduler: sarathy", [], "deployment.scheduler: unknown scheduler 'sarathy'; did you mean 'sarathi'?"),
        ("system: distserve, pools: {prefill: {}, decode: {}}", [], "deployment.system: calibration to results cannot"),
        ("engine: new", [], "deployment.engine: unknown engine 'new'"),
        ("scheduler: sarathi", ["--framework", "sglang"], "--framework: is for points, not --bench (got 'sglang')"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], deployment: str, options: list[str], problem: str
) -> None:
    """Names are looked up where they stand; pools, and options that say nothing, are refused."""
    code, out = calibrated(tmp_path, deployment, *options)
    found = capsys.readouterr().err

    assert (code, found.count("\n"), out.exists()) == (2, 1, False)
    assert problem in found


def test_only_engines_known_to_overlap_do() -> None:
    """vLLM from 0.14 on, SGLang, TensorRT-LLM; research schedulers plan when a step has ended."""
    asked = [("vllm", "0.13"), ("vllm", "0.14"), ("vllm", ""), ("sglang", "0.5.6"), ("trtllm", "1.0.0rc3"),
             ("sarathi", ""), ("orca", "")]  # fmt: skip
    found = [deployment_of(replace(POINT, framework=f, version=v)).async_scheduling for f, v in asked]

    assert found == [False, True, True, True, True, False, False]
