"""Diffusion studies end to end: documents, pages, traces with content, efficiency, and what does not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.arch.diffusion import num_slots
from simserve.cli.main import main
from simserve.diffusion import check, denoises
from simserve.errors import Infeasible, SpecError
from simserve.run import RunResult, simulate
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.workload import WorkloadSpec
from simserve.systems import SCHEDULERS
from simserve.systems.dllm_serve import DllmServe
from simserve.testing.builders import load
from simserve.workload.build import build_workload

LLADA, LLAMA = "GSAI-ML/LLaDA-8B-Instruct", "meta-llama/Llama-3.1-8B"
STUDY = """\
name: small
model: {model}
workload:
  {kind}
  arrivals: {{kind: closed_loop, concurrency: 3}}
  prompt_tokens: {{kind: fixed, value: 512}}
  output_tokens: {{kind: fixed, value: 64}}
  requests: 5
slo: {{e2e_ms: 60000}}
deployment: {{gpu: l40s, {deployment}}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file of LLaDA on dLLM-Serve."""
    return written(tmp_path)


def written(
    folder: Path, model: str = LLADA, kind: str = "kind: diffusion", deployment: str = "scheduler: dllm_serve"
) -> Path:
    """The study, with other parts."""
    path = folder / "small.yaml"
    path.write_text(STUDY.format(model=model, kind=kind, deployment=deployment), encoding="utf-8")
    return path


def test_the_document_has_metrics_of_diffusion(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5 requests of 2 blocks of 32: 2 refreshes of 576 and 30 reuses of 32 each, one position a pass."""
    assert main(["simulate", str(study), "--json", "-"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    found = run["metrics"]["diffusion"]

    assert set(found) == {
        "steps", "requests_per_step", "query_tokens_per_step", "refresh_tokens", "tokens_per_step",
        "tail_ratio",
    }  # fmt: skip
    assert found["tokens_per_step"] == 1.0
    assert found["refresh_tokens"] == pytest.approx(2 * 576 / (2 * 576 + 30 * 32))
    assert found["steps"] * found["requests_per_step"] == pytest.approx(5 * 64)
    assert found["steps"] * found["query_tokens_per_step"] == pytest.approx(5 * 2 * (2 * 576 + 30 * 32))
    assert run["memory_bytes"]["kv_cache"] == (run["num_gpu_blocks"] - 1) * 128 * 1024**2
    assert run["metrics"]["output_tokens_per_s"] > 0


def test_a_report_is_written(study: Path, tmp_path: Path) -> None:
    """With its page, table and, of the run, a trace and a picture."""
    out = tmp_path / "out"
    files = ["--trace-out", str(tmp_path / "t.json"), "--timeline", str(tmp_path / "t.svg")]
    assert main(["simulate", str(study), "-o", str(out), *files]) == 0

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "LLaDA-8B-Instruct" in page
    assert "dllm_serve" in page
    found = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert found["runs"][0]["metrics"]["diffusion"]["steps"] > 0
    assert found["provenance"]["workload"]["diffusion"]["block_length"] == 32
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["traceEvents"]
    assert (tmp_path / "t.svg").stat().st_size > 1000


@pytest.mark.parametrize("name", [name for name in SCHEDULERS.names() if denoises(name)])
def test_every_system_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its header and knobs."""
    assert main(["explain", name]) == 0
    text = capsys.readouterr().out

    for word in ("Source: ", "Claim: ", "Modelled: ", "Simplified: ", "Reproduces: ", "block_length = "):
        assert word in text


def test_the_header_of_dllm_serve(capsys: pytest.CaptureFixture[str]) -> None:
    """Title, citation and the knobs that are its own."""
    main(["explain", "dllm_serve"])
    text = capsys.readouterr().out

    assert text.startswith("dLLM-Serve: phase-multiplexed serving of masked-diffusion language models")
    for word in ("arXiv 2512.17077", "max_num_logits = 1024", "retention_ratio = 0.5", "prune_logits = True"):
        assert word in text


NOT_WITH = "diffusion models are modelled on one GPU with KV in 16 bits, not with "
PARTS = "scheduler: dllm_serve, "


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"deployment": "scheduler: vllm"}, f"{LLADA} is a diffusion model; those who serve it are dllm_cache, "),
        ({"model": LLAMA, "kind": "kind: autoregressive"}, f"dllm_serve serves diffusion models, {LLAMA} decodes"),
        ({"model": LLAMA, "deployment": "scheduler: vllm"}, f"workload.kind: {LLAMA} needs autoregressive"),
        ({"kind": "kind: autoregressive"}, f"workload.kind: {LLADA} needs diffusion"),
        ({"deployment": PARTS + "enable_prefix_caching: true"}, NOT_WITH + "enable_prefix_caching"),
        ({"deployment": PARTS + "tensor_parallel_size: 2"}, NOT_WITH + "tensor_parallel_size"),
        ({"deployment": PARTS + "data_parallel_size: 2"}, NOT_WITH + "data_parallel_size"),
        ({"deployment": PARTS + "pipeline_parallel_size: 2"}, NOT_WITH + "pipeline_parallel_size"),
        ({"deployment": PARTS + "kv_cache_dtype: fp8"}, NOT_WITH + "kv_cache_dtype"),
        ({"deployment": PARTS + "swap_space_gib: 4"}, NOT_WITH + "swap_space_gib"),
        ({"deployment": PARTS + "num_speculative_tokens: 2"}, NOT_WITH + "num_speculative_tokens"),
        ({"deployment": PARTS + "system: distserve, pools: {prefill: {}, decode: {}}"}, NOT_WITH + "system"),
        ({"deployment": PARTS + "max_num_batched_tokens: 512"}, "576 tokens, more than max_num_batched_tokens 512"),
        ({"deployment": PARTS + "num_gpu_blocks: 2"}, "needs 288 slots of KV; a replica on l40s has 256"),
        ({"deployment": PARTS + "scheduler_options: {block_length: 2}"}, "block_length: must be a number from 4"),
        ({"deployment": PARTS + "scheduler_options: {blocks: 2}"}, "unknown knob of dllm_serve 'blocks'; did you mean"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    changes: dict[str, str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`simserve simulate`: exit code 2 and one line."""
    assert main(["simulate", str(written(tmp_path, **changes)), "--json", "-"]) == 2
    (line,) = capsys.readouterr().err.splitlines()

    assert problem in line


def deployed(**fields: Any) -> DeploymentSpec:
    """LLaDA's, on an L40S."""
    return parse(DeploymentSpec, {"gpu": "l40s", "scheduler": "dllm_serve", **fields})


def test_a_run_checks_what_a_study_would() -> None:
    """From Python too, before anything is built."""
    llada, llama, vllm = load_model(LLADA), load_model(LLAMA), deployed(scheduler="vllm")
    canvases, tokens = (load([(0, 9, 9)], confidence=c) for c in (ConfidenceSpec(), None))

    for model, deployment, requests in (
        (llada, vllm, canvases), (llama, deployed(), tokens), (llama, vllm, canvases), (llada, deployed(), tokens),
    ):  # fmt: skip
        with pytest.raises(SpecError):
            simulate(model, deployment, requests)
    with pytest.raises(Infeasible):
        simulate(llada, deployed(tensor_parallel_size=2), canvases)
    check(llada, deployed(), canvases=True)
    check(llama, vllm, canvases=False)


def played(requests: int = 4, **fields: Any) -> RunResult:
    """So many at once, 300 + 64 tokens."""
    run = simulate(load_model(LLADA), deployed(**fields), load([(0, 300, 64)] * requests, confidence=ConfidenceSpec()))
    laws.check(run.trace)
    return run


@pytest.mark.parametrize("name", [name for name in SCHEDULERS.names() if denoises(name)])
def test_every_system_serves_both_models(name: str) -> None:
    """All canvases are filled in."""
    requests = load([(0, 300, 64)] * 3, confidence=ConfidenceSpec())
    for model in (LLADA, "Dream-org/Dream-v0-Instruct-7B"):
        run = simulate(load_model(model), deployed(scheduler=name), requests)
        laws.check(run.trace)
        assert run.trace.requests["output_tokens"].tolist() == [64] * 3


def test_half_as_fast_kernels_do_not_make_twice_the_run() -> None:
    """The host's part of every step stays: 2 ms and 0.64 for each of 4 requests."""
    whole, half = (played(kernel_efficiency=e) for e in (1.0, 0.5))
    steps = whole.metrics.diffusion
    assert steps is not None
    host_ns = steps.steps * (2_000_000 + 4 * 640_000)

    assert 2 * whole.trace.end_ns - host_ns == pytest.approx(half.trace.end_ns, rel=1e-3)


def test_a_pool_has_the_pages_and_the_null_block() -> None:
    """One more than `num_slots` says, for the block that a ledger never hands out; or as many as asked for."""
    run = played(max_num_batched_tokens=2048)
    limits = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "dtype": "bf16", "gpu_memory_utilization": 0.8}

    assert run.num_gpu_blocks == 1 + num_slots(load_model(LLADA), load_gpu("l40s"), DllmServe().traits, **limits)
    assert run.trace.total_blocks == [run.num_gpu_blocks - 1]
    assert played(num_gpu_blocks=11).trace.total_blocks == [10]


def test_pruned_logits_leave_more_kv() -> None:
    """Of the same memory: unpruned logits of 2,048 tokens are 2.4 GiB, pruned ones 0.5: 15 or 16 pages of 128 MiB."""
    pruned, whole = (
        played(max_num_batched_tokens=2048, scheduler_options={"prune_logits": p}) for p in (True, False)
    )
    difference = (2048 * 10 - 1024 * 4) * 126_464 / (128 * 1024**2)

    assert pruned.num_gpu_blocks - whole.num_gpu_blocks in (int(difference), int(difference) + 1)


def test_a_trace_with_shared_blocks(tmp_path: Path) -> None:
    """Block ids say what prompts share; without prefix caching that changes nothing."""
    rows = [{"timestamp": 5 * i, "input_length": 600, "output_length": 64, "hash_ids": [4, 9 + i]} for i in range(4)]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    spec = {"kind": "diffusion", "trace": {"path": "m.jsonl", "format": "mooncake"}}
    requests = build_workload(WorkloadSpec.model_validate(spec), seed=0, base_dir=tmp_path)
    plain = load([(5_000_000 * i, 600, 64) for i in range(4)], confidence=ConfidenceSpec())

    assert requests.content is not None
    traces = [simulate(load_model(LLADA), deployed(), each).trace for each in (requests, plain)]
    assert traces[0].requests["finish_ns"].tolist() == traces[1].requests["finish_ns"].tolist()
    assert traces[0].requests["cached_tokens"].sum() == 0


@pytest.mark.parametrize(
    ("model", "kind", "limit", "problem"),
    [
        (LLADA, "kind: diffusion", 575, "max_model_len 575; the shortest has 576 tokens of prompt and canvas"),
        (LLAMA, "kind: autoregressive", 512,
         "max_model_len 512; the shortest has 513 tokens of prompt and one output token"),
    ],
)
def test_a_max_model_len_that_refuses_every_request_is_one_line(
    model: str, kind: str, limit: int, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """512 + 64 tokens each; a longer output of a model that decodes is cut, so there the prompts alone count."""
    scheduler = "scheduler: dllm_serve, " if model == LLADA else ""
    for asked, code in ((limit, 2), (limit + 1, 0)):
        path = written(tmp_path, model, kind, f"{scheduler}max_model_len: {asked}")
        assert main(["simulate", str(path), "--json", "-"]) == code
        captured = capsys.readouterr()
        assert captured.err.strip().endswith(f"every request is longer than {problem}") is (code == 2)
        assert len(captured.err.splitlines()) == (code == 2)
