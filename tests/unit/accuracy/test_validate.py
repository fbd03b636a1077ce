"""Measured points: reading, cleaning, splitting, playing, scoring, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simserve.accuracy.fitted import chosen
from simserve.accuracy.judge import (
    Verdict,
    band,
    by_regime,
    deployment_of,
    measured_rate,
    predict,
    requests_of,
    scores,
)
from simserve.accuracy.points import Point, read_points
from simserve.accuracy.silicon import silicon_points
from simserve.accuracy.split import part_of, split
from simserve.cli.main import main
from simserve.errors import MissingData, SpecError
from simserve.run import simulate
from simserve.spec.model import load_model

POINT = Point("meta-llama/Llama-3.1-8B", "h100_sxm", 4, 512, 64, ttft_ms=50.0, tpot_ms=7.0, framework="vllm")
HEADER = "model,gpu,concurrency,prompt_tokens,output_tokens,ttft_ms,tpot_ms\n"
ROW = "meta-llama/Llama-3.1-8B,h100_sxm,4,512,64,50,7\n"


def csv(tmp_path: Path, text: str) -> Path:
    """A file of points."""
    path = tmp_path / "points.csv"
    path.write_text(text)
    return path


def test_points_are_read_with_defaults(tmp_path: Path) -> None:
    """Columns that are absent, and cells that are empty, keep the defaults; one metric is enough."""
    more = HEADER.replace("tpot_ms", "tpot_ms,dtype,enable_expert_parallel") + ROW.replace("7\n", ",fp8,true\n")
    assert read_points(csv(tmp_path, HEADER + ROW)) == [replace(POINT, framework="")]
    (point,) = read_points(csv(tmp_path, more))
    assert (point.tpot_ms, point.dtype, point.enable_expert_parallel) == (None, "fp8", True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEADER.replace("gpu", "gpus") + ROW, "points.csv: gpus: unknown column"),
        (HEADER.replace("gpu,", "") + ROW, "points.csv: gpu: this column is missing"),
        (HEADER + ROW.replace(",4,", ",4.5,"), "points.csv:2: concurrency: must be a whole number above 0"),
        (HEADER + ROW + ROW.replace(",512,", ",x,"), "points.csv:3: prompt_tokens: must be a number"),
        (HEADER + ROW.replace("h100_sxm", ""), "points.csv:2: gpu: is empty"),
        (HEADER + ROW.replace(",50,7", ",,"), "points.csv:2: needs ttft_ms or tpot_ms"),
        (HEADER + ROW.replace(",50,", ",-3,"), "points.csv:2: ttft_ms: must be a number above 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """File, line and column."""
    with pytest.raises(SpecError) as raised:
        read_points(csv(tmp_path, text))
    assert problem in str(raised.value)


COLUMNS = [
    "id", "silicon_data_source", "backend", "backend_version", "model_path", "system", "precision", "mode", "isl",
    "osl",
    "gemm_quant_mode", "moe_quant_mode", "batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size",
    "moe_ep_size", "silicon_ttft_ms", "silicon_tpot_ms",
]  # fmt: skip


def sample(tmp_path: Path, *rows: dict[str, object]) -> Path:
    """A package with a silicon sample of these changes to one good row."""
    good = dict(zip(COLUMNS, (
        "a", "x", "vllm", "0.19.0", "Qwen/Qwen3-235B-A22B-FP8", "h200_sxm", "fp8", "agg", 1024, 1024, "fp8", "fp8", 8.0,
        4.0, 1.0, 1.0, 4.0, 1.0, 100.0, 20.0,
    ), strict=True))  # fmt: skip
    folder = tmp_path / "aiconfigurator_core" / "systems"
    (folder / "data").mkdir(parents=True)
    table = [{**good, "id": f"r{number}", **changes} for number, changes in enumerate(rows)]
    columns = list(dict.fromkeys(name for row in table for name in row))
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in table)]
    (folder / "silicon_sample.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "aiconfigurator_core"


def test_rows_are_cleaned_for_a_reason(tmp_path: Path) -> None:
    """One good row; a repeat under another id; wrong mapping; no version; disaggregated."""
    package = sample(
        tmp_path, {}, {"id": "again"}, {"moe_tp_size": 8.0}, {"moe_tp_size": 4.0, "moe_ep_size": 4.0, "tp_size": 16.0},
        {"backend_version": ""}, {"mode": "disagg"}, {"batch_size": 16.0, "moe_tp_size": 1.0, "moe_ep_size": 4.0},
    )  # fmt: skip
    found = silicon_points(package)
    assert [number for number, _ in found.points] == [0, 6]
    assert found.left_out == {
        "repeats another row": 1, "inconsistent parallel mapping": 2, "no framework version": 1, "disaggregated": 1,
    }  # fmt: skip
    first, last = (point for _, point in found.points)
    assert (first.dtype, first.moe_dtype, first.enable_expert_parallel, first.obstacle) == ("fp8_block", "", False, "")
    assert (last.concurrency, last.enable_expert_parallel) == (16, True)


POOLS = {
    "mode": "disagg", "silicon_data_source": "db-dump/2026; silicon_concurrency=192; x", "prefill_num_workers": 2.0,
    "decode_num_workers": 3.0, **{f"{pool}_{size}_size": 1.0 for pool in ("prefill", "decode") for size in (
        "tp", "pp", "attention_dp", "moe_tp", "moe_ep")},
    "prefill_attention_dp_size": 4.0, "prefill_moe_ep_size": 4.0, "decode_tp_size": 8.0, "decode_moe_tp_size": 8.0,
    "decode_batch_size": 1.0,
}  # fmt: skip


def test_pools_of_a_disaggregated_row(tmp_path: Path) -> None:
    """Sizes of both pools, clients as the notes state them, GPUs of all servers; rows without counts are left out."""
    package = sample(tmp_path, {}, POOLS, {**POOLS, "prefill_num_workers": ""}, {**POOLS, "decode_moe_tp_size": 2.0})
    found = silicon_points(package, modes=("disagg",))
    ((number, point),) = found.points
    assert number == 1
    assert found.left_out == {"aggregated": 1, "no number of servers": 1, "inconsistent parallel mapping": 1}
    assert (point.replicas, point.tensor_parallel_size, point.enable_expert_parallel) == (3, 8, True)  # 192 columns
    assert (point.prefill_replicas, point.prefill_data_parallel_size) == (2, 4)
    assert point.prefill_enable_expert_parallel
    assert (point.concurrency, point.num_gpus, point.mode) == (192, 3 * 8 + 2 * 4, "disaggregated")
    deployment = deployment_of(point)
    assert deployment.system == "distserve"
    assert deployment.num_gpus == 32


def test_stored_verdicts_replace_the_rules(tmp_path: Path) -> None:
    """For comparisons on the same rows as somebody else."""
    package = sample(tmp_path, {}, {"moe_tp_size": 8.0}, {"batch_size": 2.0})
    flags = tmp_path / "flags.csv"
    flags.write_text("row,bad_par,unique_keep\n0,False,0\n1,False,1\n2,True,1\n")
    assert [number for number, _ in silicon_points(package, flags).points] == [1]


@pytest.mark.parametrize(
    ("changes", "formats", "obstacle"),
    [
        ({"gemm_quant_mode": "", "moe_quant_mode": ""}, ("bf16", ""), ""),
        ({"gemm_quant_mode": "int4_wo", "moe_quant_mode": "int4_wo"}, ("bf16", "int4_wo"), ""),
        ({"gemm_quant_mode": "fp8", "moe_quant_mode": "fp8_block"}, ("fp8_block", ""), ""),
        ({"model_path": "meta-llama/Llama-3.1-8B-Instruct", "moe_quant_mode": ""}, ("fp8", "bf16"), ""),
        ({"model_path": "openai/gpt-oss-120b"}, ("bf16", "w4a16_mxfp4"), ""),
        ({"model_path": "openai/gpt-oss-120b", "system": "b200_sxm"}, ("bf16", "w4a8_mxfp4_mxfp8"), ""),
        ({"model_path": "who/Knows"}, ("fp8", ""), "model who/Knows is not described"),
        ({"pp_size": 2.0}, ("fp8_block", ""), "pipeline parallelism"),
    ],
)
def test_formats_and_obstacles(
    tmp_path: Path, changes: dict[str, object], formats: tuple[str, str], obstacle: str
) -> None:
    """What a row is deployed in, and why it may have no prediction."""
    ((_, point),) = silicon_points(sample(tmp_path, changes)).points
    assert ((point.dtype, point.moe_dtype), point.obstacle) == (formats, obstacle)


def test_data_parallel_rows_count_requests_and_gpus(tmp_path: Path) -> None:
    """8 requests a rank are 16; ranks counted twice are counted once; experts split both ways stay so."""
    package = sample(
        tmp_path,
        {"backend": "trtllm", "tp_size": 1.0, "attention_dp_size": 2.0, "moe_tp_size": 1.0, "moe_ep_size": 2.0},
        {"attention_dp_size": 4.0, "moe_tp_size": 1.0, "moe_ep_size": 16.0},
        {"backend": "trtllm", "moe_tp_size": 2.0, "moe_ep_size": 2.0},
    )  # fmt: skip
    points = [point for _, point in silicon_points(package).points]
    assert [(p.tensor_parallel_size, p.data_parallel_size, p.moe_tensor_parallel_size, p.num_gpus) for p in points] == [
        (1, 2, 0, 2), (1, 4, 0, 4), (4, 1, 2, 4),
    ]  # fmt: skip
    assert [p.concurrency for p in points] == [16, 32, 8]
    spec = deployment_of(points[1])
    assert (spec.data_parallel_size, spec.enable_expert_parallel, spec.num_gpus) == (4, True, 4)
    assert deployment_of(points[2]).moe_tensor_parallel_size == 2


INFERENCEX = "source_file=2026-04-06.csv; silicon_concurrency=64; x"


@pytest.mark.parametrize(
    ("changes", "clients", "sizes"),
    [
        ({"silicon_data_source": "own; silicon_concurrency=32; x"}, 32, (4, 1, 1)),  # batch_size 8 is of one GPU
        ({"silicon_data_source": "own; silicon_concurrency=64; x"}, 64, (4, 1, 2)),
        ({"silicon_data_source": "own; silicon_concurrency=8; x"}, 8, (4, 1, 1)),
        ({"tp_size": 4.0, "moe_tp_size": 2.0, "moe_ep_size": 2.0, "silicon_data_source": INFERENCEX}, 64, (2, 1, 1)),
        ({"tp_size": 16.0, "moe_tp_size": 4.0, "moe_ep_size": 4.0, "silicon_data_source": INFERENCEX}, 64, (4, 1, 1)),
        ({"backend": "trtllm", "tp_size": 1.0, "attention_dp_size": 16.0, "moe_tp_size": 4.0, "moe_ep_size": 4.0,
          "silicon_data_source": INFERENCEX}, 64, (1, 4, 1)),
        ({"tp_size": 1.0, "attention_dp_size": ""}, 32, (1, 4, 1)),  # experts over 4 ranks
        ({"silicon_data_source": "own; silicon_concurrency=40; x"}, 40, (4, 1, 1)),  # fills no number of servers
    ],
)  # fmt: skip
def test_clients_and_gpus_are_those_that_were(
    tmp_path: Path, changes: dict[str, object], clients: int, sizes: tuple[int, int, int]
) -> None:
    """Clients as the notes state them; squares of ranks are their roots, experts over as many."""
    ((_, point),) = silicon_points(sample(tmp_path, changes)).points
    assert point.concurrency == clients
    assert (point.tensor_parallel_size, point.data_parallel_size, point.replicas) == sizes
    assert not point.moe_tensor_parallel_size
    assert deployment_of(point).num_gpus == sizes[0] * sizes[1] * sizes[2]


def test_a_mapping_is_that_of_the_same_measurement(tmp_path: Path) -> None:
    """Under vLLM tp 4 beside dp 4 is one server of 4 where another row says so, to a hundredth; else 4 ranks."""
    twice = {"attention_dp_size": 4.0, "moe_tp_size": 1.0, "moe_ep_size": 16.0, "batch_size": 2.0}
    plain = {"moe_tp_size": 1.0, "moe_ep_size": 4.0, "silicon_ttft_ms": 100.004}
    found = silicon_points(sample(tmp_path, plain, twice, {**twice, "silicon_ttft_ms": 100.1}))
    points = [point for _, point in found.points]
    assert [(p.tensor_parallel_size, p.data_parallel_size, p.concurrency) for p in points] == [
        (4, 1, 8), (4, 1, 8), (1, 4, 8),
    ]  # fmt: skip


def test_a_row_as_it_was_written_goes_before_a_repaired_one(tmp_path: Path) -> None:
    """The square comes first in the file and is the same run: it is the repeat."""
    row = {"moe_tp_size": 1.0, "moe_ep_size": 4.0, "silicon_data_source": INFERENCEX}
    found = silicon_points(sample(tmp_path, {**row, "tp_size": 16.0, "moe_tp_size": 4.0}, row))
    assert [line for line, _ in found.points] == [1]
    assert found.left_out == {"repeats another row": 1}


def test_a_package_without_the_sample_is_named(tmp_path: Path) -> None:
    """As is a folder that is no package."""
    package = sample(tmp_path, {})
    (package / "systems" / "silicon_sample.csv").unlink()
    with pytest.raises(MissingData, match=r"silicon_sample\.csv: no such file"):
        silicon_points(package)


def test_requests_are_those_of_the_benchmark() -> None:
    """Ten per client, from 80 % of the lengths to all of them, evenly spread, in the order of a seed."""
    load = requests_of(POINT)
    assert len(load.prompt_tokens) == 40
    assert load.concurrency == 4
    assert (load.output_tokens.min(), load.output_tokens.max()) == (51, 64)
    assert np.array_equal(load.prompt_tokens, requests_of(POINT).prompt_tokens)
    assert not np.array_equal(load.prompt_tokens, requests_of(POINT, seed=1).prompt_tokens)
    assert np.array_equal(np.sort(load.prompt_tokens), np.sort(requests_of(POINT, seed=1).prompt_tokens))
    assert set(np.diff(np.sort(load.prompt_tokens)).tolist()) == {2, 3}
    assert load.output_tokens.mean() == pytest.approx((51 + 64) / 2, abs=0.01)
    assert load.prompt_tokens.mean() == pytest.approx((409 + 512) / 2, abs=0.5)
    assert abs(np.corrcoef(load.prompt_tokens, load.output_tokens)[0, 1]) < 0.5
    lone = requests_of(replace(POINT, requests=1, output_tokens=1))
    assert (lone.prompt_tokens.tolist(), lone.output_tokens.tolist()) == ([461], [1])
    assert len(requests_of(replace(POINT, requests=7)).prompt_tokens) == 7


def test_prompts_that_come_back_are_cached() -> None:
    """The ninth prompt is the first again, under the same content id, and costs no second prefill."""
    again = replace(POINT, distinct_prompts=8)
    load = requests_of(again)
    assert load.content is not None
    assert [pieces[0][0] for pieces in load.content[:10]] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert load.prompt_tokens[8] == load.prompt_tokens[0] == load.content[8][0][1]
    assert load.prompt_tokens[:8].mean() == pytest.approx((409 + 512) / 2, abs=1)
    assert not np.array_equal(load.output_tokens[:8], load.output_tokens[8:16])
    assert requests_of(POINT).content is None
    assert deployment_of(again).enable_prefix_caching
    first, second = predict(POINT).ttft_ms, predict(again).ttft_ms
    assert first is not None
    assert second is not None
    assert second < first - 1


def test_a_point_is_played_and_one_that_cannot_be_says_why() -> None:
    """Throughput by Little's law, as measured, within 5 % of the whole run's; no crash for what does not fit."""
    verdict = predict(POINT)
    assert verdict.problem == ""
    assert verdict.ttft_ms is not None
    assert verdict.tpot_ms is not None
    assert verdict.ttft_ms > 15.6
    same = replace(POINT, ttft_ms=verdict.ttft_ms, tpot_ms=verdict.tpot_ms)
    by_hand = 4 * 57.6 / ((verdict.ttft_ms + 56.6 * verdict.tpot_ms) / 1000)
    assert verdict.tokens_per_s_per_gpu == measured_rate(same) == pytest.approx(by_hand)
    run = simulate(load_model(POINT.model), deployment_of(POINT), requests_of(POINT), client_side=True)
    whole = run.trace.requests["output_tokens"].sum() / (run.trace.end_ns / 1e9) / run.num_gpus
    assert verdict.tokens_per_s_per_gpu == pytest.approx(whole, rel=0.05)
    assert "does not fit" in predict(replace(POINT, model="meta-llama/Llama-3.1-70B")).problem
    assert predict(replace(POINT, obstacle="why not")).problem == "why not"
    assert "unknown GPU" in predict(replace(POINT, gpu="h1000")).problem


def test_errors_are_counted_as_they_are() -> None:
    """+10, -20, +50, and an unpredicted point: median 20, MAPE 26.7, bias +10 %."""
    verdicts = [Verdict(replace(POINT, ttft_ms=100.0, tpot_ms=None), ttft_ms=value) for value in (110.0, 80.0, 150.0)]
    (ttft,) = scores([*verdicts, Verdict(POINT, problem="no")])
    assert (ttft.metric, ttft.points) == ("ttft", 3)
    assert [ttft.median, ttft.mape, ttft.signed_median] == pytest.approx([0.2, 0.8 / 3, 0.1])
    assert ttft.spearman is None


def test_ranks_within_scenarios() -> None:
    """One scenario in order, one in reverse, of four points each: 0; points of other scenarios do not mix."""
    def ordered(gpu: str, sign: int) -> list[Verdict]:
        return [Verdict(replace(POINT, gpu=gpu, ttft_ms=100.0 + i, tpot_ms=None), ttft_ms=200.0 + sign * i)
                for i in range(4)]  # fmt: skip

    assert scores(ordered("h100_sxm", 1))[0].spearman == pytest.approx(1)
    both = [*ordered("h100_sxm", 1), *ordered("h200_sxm", -1)]
    assert scores(both)[0].spearman == pytest.approx(0)
    regimes = {(regime, value) for regime, value, _ in by_regime(both)}
    assert {("all", ""), ("gpu", "h100_sxm"), ("gpu", "h200_sxm"), ("concurrency", "1-8")} <= regimes
    assert [band(replace(POINT, concurrency=c)) for c in (8, 9, 128, 500)] == ["1-8", "9-32", "33-128", "129+"]


def test_scenarios_are_split_whole() -> None:
    """About 70 % and 30 %, nothing in both, nothing lost, the same every time, whatever else is there."""
    points = [replace(POINT, prompt_tokens=100 * i, concurrency=c) for i in range(1, 201) for c in (1, 2, 4)]
    calibration, held_out = (split(points, part) for part in ("calibration", "held-out"))
    assert len(calibration) + len(held_out) == 600
    assert 120 * 3 <= len(calibration) <= 160 * 3
    assert not {p.scenario for p in calibration} & {p.scenario for p in held_out}
    assert split(points[:100], "calibration") == [p for p in points[:100] if p in calibration]
    assert split(points, "calibration") != split(points, "calibration", seed=1)


def test_the_first_split_is_stored() -> None:
    """A scenario of the silicon sample goes where the file says."""
    assert part_of(("MiniMaxAI/MiniMax-M2.5", "b200_sxm", "vllm", 1024, 1024)) == "held-out"
    assert part_of(("MiniMaxAI/MiniMax-M2.5", "b200_sxm", "vllm", 1024, 8192)) == "calibration"


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table; every point as CSV and JSON; errors in one line."""
    records = csv(tmp_path, HEADER + ROW + ROW.replace("Llama-3.1-8B", "Llama-3.1-70B"))
    out = tmp_path / "judged.csv"
    words = ["validate", "--records", str(records), "--csv", str(out)]
    assert main([*words, "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["points"], content["predicted"]) == (2, 1)
    assert {row["metric"] for row in content["scores"]} == {"ttft", "tpot", "throughput"}
    assert len(out.read_text().splitlines()) == 3
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 points predicted" in printed
    assert "not predicted: 1 points" in printed
    assert main([*words, "--split", "helt-out"]) == 2
    assert "did you mean 'held-out'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "kv"),
    [
        ({}, "fp8"),
        ({"backend": "trtllm"}, "fp8"),
        ({"backend": "sglang"}, "auto"),
        ({"gemm_quant_mode": "", "moe_quant_mode": ""}, "auto"),
        ({"model_path": "openai/gpt-oss-120b"}, "auto"),
    ],
)
def test_the_kv_cache_is_assumed_by_framework_and_weights(tmp_path: Path, changes: dict[str, object], kv: str) -> None:
    """The file does not say."""
    ((_, point),) = silicon_points(sample(tmp_path, changes)).points
    assert point.kv_cache_dtype == kv


GLM = {"model_path": "zhipuai/GLM-5", "backend": "sglang", "moe_quant_mode": "fp8_block"}


@pytest.mark.parametrize(("gpu", "kv"), [("b200_sxm", "fp8"), ("h200_sxm", "auto")])
def test_sparse_attention_is_cached_as_sglang_does(tmp_path: Path, gpu: str, kv: str) -> None:
    """In fp8 on Blackwell, in 16 bits on Hopper; experts in blocks mean that all of the checkpoint is."""
    ((_, point),) = silicon_points(sample(tmp_path, {**GLM, "system": gpu})).points
    assert (point.kv_cache_dtype, point.dtype, point.moe_dtype, point.obstacle) == (kv, "fp8_block", "", "")


def exported(tmp_path: Path, source: str = "source_file=2026-04-06.csv", **changes: object) -> Point:
    """The one point of an InferenceX export of these values."""
    ((_, point),) = silicon_points(sample(tmp_path, {"silicon_data_source": source, **changes})).points
    return point


def test_minimax_under_newer_vllm_gets_two_prompts_a_step(tmp_path: Path) -> None:
    """InferenceX's scripts for Blackwell say --max-num-batched-tokens 2 x ISL from vLLM 0.19 on."""
    minimax = {"model_path": "MiniMaxAI/MiniMax-M2.5", "system": "b300_sxm", "isl": 2048}
    assert exported(tmp_path / "a", **minimax).max_num_batched_tokens == 4096
    assert exported(tmp_path / "b", **minimax, backend_version="0.17.0").max_num_batched_tokens == 8192
    assert exported(tmp_path / "c", **{**minimax, "system": "h200_sxm"}).max_num_batched_tokens == 8192


QWEN = {"model_path": "Qwen/Qwen3.5-397B-A17B", "backend": "sglang", "backend_version": "0.5.9", "system": "b200_sxm",
        "gemm_quant_mode": "fp8_block", "moe_quant_mode": "fp8_block", "batch_size": 16.0}  # fmt: skip


def test_qwen_on_four_blackwell_gpus_was_drafted(tmp_path: Path) -> None:
    """Without expert parallelism; with it, and in a later version, not."""
    drafted = exported(tmp_path / "a", **QWEN)
    experts = exported(tmp_path / "b", **QWEN, moe_tp_size=1.0, moe_ep_size=4.0)
    later = exported(tmp_path / "c", **{**QWEN, "backend_version": "0.5.10.post1", "system": "b300_sxm"})
    assert (drafted.num_speculative_tokens, drafted.acceptance_rate) == (3, 0.6)
    assert (experts.num_speculative_tokens, later.num_speculative_tokens) == (0, 0)
    assert "scheduler_recv_interval=30" in experts.scheduler_options
    assert "scheduler_recv_interval=10" in later.scheduler_options


def test_ranks_of_tensorrt_have_limits_of_their_own(tmp_path: Path) -> None:
    """128 clients on 8 ranks in fp8: 16 seats each, (1 draft + 1) x 16 + 1,024 tokens, rounded up with 64 to spare."""
    deepseek = {"model_path": "deepseek-ai/DeepSeek-R1", "backend": "trtllm", "system": "b200_sxm", "tp_size": 1.0,
                "attention_dp_size": 8.0, "moe_tp_size": 1.0, "moe_ep_size": 8.0, "batch_size": 16.0,
                "gemm_quant_mode": "fp8_block", "moe_quant_mode": "fp8_block"}  # fmt: skip
    drafted = exported(tmp_path / "a", **deepseek, backend_version="1.2.0rc6.post3")
    plain = exported(tmp_path / "b", **deepseek, backend_version="1.2.0rc6.post2")
    assert (drafted.concurrency, drafted.max_num_seqs, drafted.max_num_batched_tokens) == (128, 16, 1152)
    assert (drafted.num_speculative_tokens, plain.num_speculative_tokens) == (1, 0)
    assert drafted.scheduler_options == plain.scheduler_options
    assert plain.scheduler_options == "attention_dp_timeout_iters=60; enable_chunked_context=false"


def test_runs_with_drafts_are_those_that_the_dump_lacks(tmp_path: Path) -> None:
    """DeepSeek on eight B200: an export of the dump's own measurement is plain, another one was drafted."""
    export = {"backend": "sglang", "model_path": "deepseek-ai/DeepSeek-R1", "system": "b200_sxm", "tp_size": 8.0,
              "moe_tp_size": 8.0, "backend_version": "0.5.9", "silicon_data_source": "source_file=2026-03-25.csv"}
    dump = {**export, "model_path": "deepseek-ai/DeepSeek-V3", "silicon_data_source": "db-dump/2026-04-27"}
    found = silicon_points(sample(tmp_path, dump, export, {**export, "silicon_tpot_ms": 15.0}))
    assert [point.num_speculative_tokens for _, point in found.points] == [0, 0, 2]


def test_runs_of_512_clients_had_64_seats(tmp_path: Path) -> None:
    """gpt-oss under vLLM 0.11.2, 640 requests; a later version runs all its clients."""
    gpt = {"model_path": "openai/gpt-oss-120b", "system": "h100_sxm", "batch_size": 512.0}
    old, new = (exported(tmp_path / version, backend_version=version, **gpt) for version in ("0.11.2", "0.18.0"))
    assert (old.concurrency, old.max_num_seqs, old.requests) == (512, 64, 640)
    assert (new.concurrency, new.max_num_seqs, new.requests) == (512, 512, 0)


def test_scripts_of_b300_sent_a_request_per_client(tmp_path: Path) -> None:
    """DeepSeek under SGLang; ten each on B200 and of other models."""
    row = {"model_path": "deepseek-ai/DeepSeek-V3", "backend": "sglang", "backend_version": "0.5.10.post1",
           "system": "b300_sxm"}  # fmt: skip
    assert exported(tmp_path / "once", **row).requests == exported(tmp_path / "again", **row).concurrency
    assert exported(tmp_path / "b200", **{**row, "system": "b200_sxm"}).requests == 0
    assert exported(tmp_path / "qwen", **{**row, "model_path": QWEN["model_path"]}).requests == 0


def test_prompts_were_launched_from_python_until_march(tmp_path: Path) -> None:
    """vLLM 0.17 on B200, and MiniMax on eight H200; not in April, nor on four."""
    kimi = {"model_path": "moonshotai/Kimi-K2.5", "system": "b200_sxm", "backend_version": "0.17.0",
            "gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"}  # fmt: skip
    dump = "db-dump/2026-04-27; measured=2026-{}-20T00:00:00.000Z"
    march, april, may = (exported(tmp_path / month, dump.format(month), **kimi) for month in ("03", "04", "05"))
    undated = exported(tmp_path / "undated", "source_file=kimi-k2.5-gap-analysis.csv", **kimi)
    assert (undated.engine, may.engine) == ("vllm_uncompiled", "")
    minimax = {"model_path": "MiniMaxAI/MiniMax-M2.5", "backend_version": "0.18.0"}
    four = exported(tmp_path / "four", **minimax)
    eight = exported(tmp_path / "eight", **minimax, tp_size=8.0, moe_tp_size=8.0)
    assert [point.engine for point in (march, april, eight, four)] == ["vllm_uncompiled", "", "vllm_uncompiled", ""]
    assert chosen([march, april], "vllm") == [april]


def test_vllm_0_12_met_its_prompts_again(tmp_path: Path) -> None:
    """Of Llama and Qwen3-235B; not of Qwen3-32B, whose were of one length, nor under another version."""
    other = {"isl": 2000, "backend_version": "0.14.0"}
    qwen = [{"model_path": f"Qwen/Qwen3-{size}", "backend_version": "0.12.0"} for size in ("235B-A22B-FP8", "32B")]
    llama = {"model_path": "nvidia/Llama-3.1-8B-Instruct-FP8", "backend_version": "0.12.0"}
    plain = {"silicon_data_source": "source_file=/runs/mine.csv"}
    qwen[1]["isl"] = 996
    found = silicon_points(sample(tmp_path, *({**row, **plain} for row in (llama, *qwen, {**llama, **other}))))
    assert [point.distinct_prompts for _, point in found.points] == [100, 100, 0, 0]
    of_one_length = [point.max_num_batched_tokens for _, point in found.points if point.least_share == 1]
    assert of_one_length == [1504]  # 4 clients, 996 tokens and 500, in blocks of 32


def test_aiconfigurators_own_runs_have_the_settings_of_its_evaluation(tmp_path: Path) -> None:
    """One length, a prompt and 500 tokens beside the batch, in blocks of 32; Llama's last seat; 50 rounds from March.

    Dynamo served 16 clients on two servers of two GPUs, where batch_size is of one GPU.
    """
    dense = {"tp_size": 2.0, "moe_tp_size": 1.0, "moe_quant_mode": None, "backend": "trtllm", "isl": 2026}
    old = dense | {"silicon_data_source": "source_file=/runs/mine.csv", "backend_version": "1.0.0rc3"}
    notes = "source_file=/mine.csv; silicon_concurrency=16; measured=2026-{}; image=ai-dynamo/tensorrtllm-runtime:1"
    dynamo = dense | {"model_path": "Qwen/Qwen3-32B", "backend_version": "1.2.0", "batch_size": 4.0}
    rows = [
        old | {"model_path": "meta-llama/Llama-3.1-8B-Instruct"}, old | {"model_path": "Qwen/Qwen3-32B"},
        *(dynamo | {"silicon_data_source": notes.format(day)} for day in ("01-25", "03-23")),
    ]  # fmt: skip
    found = [silicon_points(sample(tmp_path / str(number), row)).points for number, row in enumerate(rows)]
    llama, qwen, before, late = (points[0][1] for points in found)
    clients = llama.concurrency
    assert [point.least_share for point in (llama, qwen, before, late)] == [1.0] * 4
    assert (llama.max_num_seqs, qwen.max_num_seqs, late.max_num_seqs) == (clients - 1, clients, 8)
    assert (clients, llama.max_num_batched_tokens, late.max_num_batched_tokens) == (8, 2560, 2560)
    assert [point.requests for point in (llama, before, late)] == [0, 0, 800]
    assert (late.concurrency, late.replicas) == (16, 2)


@pytest.mark.parametrize("version", ["1.1.0rc2.post2", "1.2.0rc6.post2", "1.2.0rc6.post3"])
def test_prompts_of_tensorrt_llm_fit_into_a_step(tmp_path: Path, version: str) -> None:
    """It does not cut them, and one beyond the budget would be cut by the model."""
    rows = [DEEPSEEK | SHORT, DEEPSEEK | LONG_PROMPT, DEEPSEEK | LONG_PROMPT | FP4, DEEPSEEK | {"isl": 15000},
            DEEPSEEK | LONG_PROMPT | {"model_path": "openai/gpt-oss-120b"}]  # fmt: skip
    for number, row in enumerate(rows):
        point = exported(tmp_path / str(number), **(row | {"backend_version": version, "batch_size": 4.0}))
        assert point.max_num_batched_tokens >= point.prompt_tokens, row


def test_gpt_oss_on_h200_launches_triton(tmp_path: Path) -> None:
    """By moe_config.backend of the scripts; on B200 TensorRT-LLM's own experts."""
    gpt = {"model_path": "openai/gpt-oss-120b", "backend": "trtllm", "backend_version": "1.1.0rc2"}
    assert exported(tmp_path / "a", **gpt, system="h200_sxm").engine == "trtllm_triton"
    assert not exported(tmp_path / "b", **gpt, system="b200_sxm").engine


def test_experts_are_cut_at_blocks_or_not_at_all(tmp_path: Path) -> None:
    """MiniMax's 1,536 over 4 ranks are three blocks of 128 each; over 8 they are spread whole, but not in nvfp4."""
    minimax = {"model_path": "MiniMaxAI/MiniMax-M2.5"}
    eight = {**minimax, "tp_size": 8.0, "moe_tp_size": 8.0}
    fp4 = {"system": "b200_sxm", "gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"}
    found = silicon_points(sample(tmp_path, minimax, eight, {**eight, **fp4}))
    assert [point.enable_expert_parallel for _, point in found.points] == [False, True, False]


DEEPSEEK = {"model_path": "deepseek-ai/DeepSeek-R1", "backend": "trtllm", "backend_version": "1.2.0rc6.post2",
            "system": "b200_sxm", "tp_size": 8.0, "moe_tp_size": 8.0}  # fmt: skip
FP4 = {"gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4"}
SHORT, LONG_ANSWER, LONG_PROMPT = ({"isl": isl, "osl": osl} for isl, osl in ((1024, 1024), (1024, 8192), (8192, 1024)))


@pytest.mark.parametrize(("loads", "changes"), [
    ({63: False, 64: True}, SHORT), ({127: False, 128: True, 256: False}, LONG_ANSWER),
    ({63: False, 64: True}, LONG_PROMPT), ({64: False}, SHORT | {"system": "h200_sxm"}),
    ({64: False}, SHORT | {"backend_version": "1.1.0rc2.post2"}),
    ({4: False, 64: False}, SHORT | FP4), ({4: True, 64: True}, SHORT | FP4 | {"moe_tp_size": 1.0, "moe_ep_size": 8.0}),
    ({64: False}, LONG_ANSWER | FP4 | {"moe_tp_size": 1.0, "moe_ep_size": 8.0}),
])  # fmt: skip
def test_scripts_capture_prompts_at_some_loads(
    tmp_path: Path, loads: dict[int, bool], changes: dict[str, object]
) -> None:
    """DeepSeek under TensorRT-LLM 1.2 on B200: of fp8 by load and lengths, of nvfp4 with experts over eight GPUs."""
    for clients, captured in loads.items():
        point = exported(tmp_path / str(clients), **(DEEPSEEK | {"batch_size": float(clients)} | changes))
        assert point.engine == ("trtllm_piecewise" if captured else ""), clients


@pytest.mark.parametrize(("loads", "changes"), [
    ({4: False, 8: True}, SHORT), ({8: False, 16: True}, LONG_ANSWER), ({16: False, 32: True}, LONG_PROMPT),
    ({16: False, 32: True, 64: True, 128: True, 256: False}, SHORT | FP4),
    ({32: False, 64: True, 128: False}, LONG_ANSWER | FP4), ({64: False}, LONG_PROMPT | FP4),
])  # fmt: skip
def test_scripts_with_drafts_capture_at_other_loads(
    tmp_path: Path, loads: dict[int, bool], changes: dict[str, object]
) -> None:
    """The MTP image's, without data-parallel attention; with it, of nvfp4 alone and not at 128 clients."""
    drafted = DEEPSEEK | {"backend_version": "1.2.0rc6.post3"}
    for clients, captured in loads.items():
        point = exported(tmp_path / str(clients), **(drafted | {"batch_size": float(clients)} | changes))
        assert point.engine == ("trtllm_piecewise" if captured else ""), clients
        assert point.num_speculative_tokens == 3
    ranks = {"tp_size": 1.0, "attention_dp_size": 8.0, "moe_tp_size": 1.0, "moe_ep_size": 8.0}
    for number, (clients, formats) in enumerate(((64.0, FP4), (128.0, FP4), (64.0, {}))):
        row = drafted | SHORT | ranks | formats | {"batch_size": clients / 8}
        assert bool(exported(tmp_path / f"ranks{number}", **row).engine) == (number == 0)


def test_prompts_of_tensorrt_llm_are_whole(tmp_path: Path) -> None:
    """One at a time under 1.1 in fp8, whose budget is a prompt's."""
    old = exported(tmp_path / "old", **(DEEPSEEK | SHORT | {"backend_version": "1.1.0rc2.post2", "batch_size": 32.0}))
    new = exported(tmp_path / "new", **(DEEPSEEK | SHORT | {"batch_size": 32.0}))
    assert (old.max_num_batched_tokens, old.max_num_seqs) == (1152, 1152)
    assert (new.max_num_batched_tokens, new.max_num_seqs) == (8192, 2048)
    assert old.scheduler_options == new.scheduler_options == "enable_chunked_context=false"
