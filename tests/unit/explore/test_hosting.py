"""Whether keeping KV on a host pays, in words: from handmade outcomes, and from searches on an H100 and a T4."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simserve.explore.explained import explain
from simserve.explore.hosting import Hosting, hosting
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.result import SearchResult
from simserve.explore.runner import prepare, run_search
from simserve.explore.saved import Saved
from simserve.explore.values import value
from simserve.report.explained import print_explanation
from simserve.report.html import _hosting
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hybrid import HybridSpec
from simserve.spec.study import StudySpec

HYBRID = {"decode_gpu": 0.1, "decode_pipeline": 0.2, "decode_overlap": 0.7, "hosted_overlap": 0.8, "cpu_tokens": 0.4,
          "cpu_busy": 0.8, "cpu_wait": 0.0, "copy_wait": 0.0, "host_kv": 0.5}  # fmt: skip
USE: dict[str, Any] = {"pool": "", "busy": 1.0, "running": 40.0, "waits": {"kv": 0.5}, "resources": {"weights": 0.9},
                       "ridge_tokens": 200, "prompt_steps": 0.0, "time": {}}  # fmt: skip


def run(scheduler: str, per_gpu: float, kv_gib: float = 8, **other: Any) -> Outcome:
    """A run of a scheduler; with a host's numbers if it uses one."""
    deployment = DeploymentSpec(gpu="t4", scheduler=scheduler, hybrid=HybridSpec(host="xeon_gold_5320", kv_gib=kv_gib))
    metrics = {} if scheduler == "vllm" else {"hybrid": HYBRID}
    fields: dict[str, Any] = {
        "deployment": deployment, "num_gpus": 1, "num_gpu_blocks": 100, "tokens_per_s_per_gpu": per_gpu,
        "ttft_ms": 1.0, "tpot_ms": 1.0, "usd_per_hour": 1.0, "usd_per_million_tokens": 1.0, "slo": (),
        "turned_away": 0, "metrics": metrics, "usage": (USE,), **other,
    }  # fmt: skip
    return Outcome(**fields)


LATE = (SloValue("tpot", 90.0, 30.0, 20.0),)


def compared(*runs: Outcome) -> Hosting:
    """The first one against the best of each other strategy."""
    found = hosting(runs, runs[0])
    assert found is not None
    return found


def with_hybrid(**numbers: float) -> Outcome:
    """A run of apex with other numbers of its host."""
    return run("apex", 100.0, metrics={"hybrid": {**HYBRID, **numbers}})


def test_the_best_of_each_strategy_is_compared() -> None:
    """A strategy is a scheduler and its host memory; later runs of the same one are left out."""
    found = compared(run("apex", 150.0), run("apex", 140.0), run("apex", 120.0, 4), run("vllm", 100.0))
    names = [(other.name.split(" of")[0], other.place) for other in found.others]

    assert "pays: +50 % tokens/s/GPU with apex with 8 GiB of xeon_gold_5320 over vllm." in found.verdict
    assert names == [("apex with 4 GiB", 2), ("vllm", 3)]
    assert [round(other.gain, 2) for other in found.others] == [-0.2, -0.33]
    assert [other.hybrid for other in found.others] == [HYBRID, None]


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ((run("vllm", 130.0), run("neo", 100.0)), "does not pay: +30 %"),
        ((run("vllm", 100.5), run("neo", 100.0)), "makes no difference"),
        ((run("apex", 130.0), run("neo", 100.0)), "Every strategy keeps KV on a host"),
        ((run("vllm", 90.0), run("neo", 100.0, slo=LATE)), "does not pay: neo with 8 GiB of"),
        ((run("vllm", 77.0), run("apex", 100.0)), "does not pay: -23 % tokens/s/GPU with vllm over apex"),
    ],
)
def test_verdicts(runs: tuple[Outcome, ...], verdict: str) -> None:
    """By tokens/s/GPU against the best of the other kind, unless that misses the SLO."""
    assert verdict in compared(*runs).verdict


def test_one_that_misses_the_slo_says_by_how_much() -> None:
    """TPOT 30 where 20 are allowed: out, and why."""
    found = compared(run("vllm", 90.0), run("neo", 100.0, slo=(SloValue("tpot", 90.0, 30.0, 20.0),)))

    assert "does not pay" in found.verdict
    assert "does not meet the SLO" in found.verdict
    assert found.lines[-1].endswith("11 % more than the chosen one; its P90 TPOT is 30 ms, the bound 20 ms.")


@pytest.mark.parametrize(
    ("numbers", "limit"),
    [
        ({"cpu_wait": 0.2}, "the CPU's attention bandwidth: the GPU waits for it in 20 %"),
        ({"copy_wait": 0.2}, "PCIe: the GPU waits for copies of KV in 20 %"),
        ({}, "the CPU's attention bandwidth: it attends in 80 %"),
        ({"cpu_busy": 0.3}, "KV memory: requests wait because the GPU's blocks are full in 50 % of the time and 50 %"),
    ],
)
def test_what_limits_a_run_with_a_host(numbers: dict[str, float], limit: str) -> None:
    """Waits of the GPU first, then a busy CPU, then memory."""
    assert compared(with_hybrid(**numbers), run("vllm", 90.0)).chosen.limit.startswith(limit)


def test_what_limits_a_run_on_the_gpu_alone() -> None:
    """Nobody waits: the load, or what the steps wait for."""
    idle, busy = ({**USE, "waits": {"kv": 0.0}, "busy": share} for share in (0.4, 1.0))
    limits = [compared(run("vllm", 90.0, usage=(use,)), with_hybrid()).chosen.limit for use in (idle, busy)]

    assert limits == ["the load: the GPU stands still in 60 % of the time",
                      "the GPU's memory bandwidth, reading weights, 90 % of the time"]  # fmt: skip


def test_nothing_to_compare() -> None:
    """No host in any run, or one strategy alone."""
    alone, plain = run("apex", 1.0), run("vllm", 1.0)
    assert hosting([alone, run("apex", 0.5)], alone) is None
    assert hosting([plain, run("orca", 0.5)], plain) is None


def test_it_is_in_the_explanation_and_on_the_page() -> None:
    """As data, at the terminal, and in the report."""
    runs = [run("apex", 150.0), run("vllm", 100.0)]
    study = {"name": "s", "kind": "search", "objective": "throughput", "provenance": {}}
    found = explain(Saved(Path("r.json"), study, runs, 0), simulate=False)
    console = Console(record=True, width=300)
    print_explanation(console, found)
    page = _hosting(SearchResult("search", "s", runs))

    assert [value(one, "hybrid.cpu_tokens") for one in runs] == [0.4, None]
    assert found.to_dict()["hosting"]["others"][0]["name"] == "vllm"
    for text in (console.export_text(), page):
        assert "Hybrid execution pays: +50 %" in text
        assert "the CPU attends for 40 % of the tokens" in text
    assert not _hosting(SearchResult("search", "s", [replace(runs[1])]))


def test_the_verdict_goes_by_rank_whichever_run_is_asked_about() -> None:
    """The run that ranks first may have been chosen for another number, and the one asked about may miss the SLO."""
    runs = [run("vllm", 77.0), run("apex", 100.0), run("neo", 90.0, slo=LATE)]
    by_rank, asked, late = (hosting(runs, chosen) for chosen in (runs[0], runs[1], runs[2]))
    assert by_rank is not None
    assert asked is not None
    assert late is not None

    assert by_rank.verdict.endswith("of xeon_gold_5320, but vllm ranks first.")
    assert "does not pay: +30 % tokens/s/GPU with apex" in asked.verdict
    assert late.verdict.endswith("does not pay: neo with 8 GiB of xeon_gold_5320 does not meet the SLO, vllm does.")


SEARCHES: dict[str, dict[str, Any]] = {
    "h100": {
        "name": "h100", "model": "meta-llama/Llama-3.1-8B",
        "deployment": {"gpu": "h100_sxm", "hybrid": {"host": "xeon_gold_6342_x2", "kv_gib": 64}},
        "workload": {"arrivals": {"kind": "poisson", "rate_rps": 4.0}, "requests": 40,
                     "prompt_tokens": {"kind": "fixed", "value": 200}, "output_tokens": {"kind": "fixed", "value": 50}},
    },
    "t4": {
        "name": "t4", "model": "meta-llama/Llama-2-7b-hf",
        "deployment": {
            "gpu": "t4", "dtype": "fp16", "num_gpu_blocks": 145, "max_num_batched_tokens": 2048,
            "hybrid": {"host": "xeon_gold_6130_x2", "kv_gib": 32, "cpu_attention_bytes_per_s": 22e9},
        },
        "workload": {"arrivals": {"kind": "closed_loop", "concurrency": 100}, "requests": 100,
                     "prompt_tokens": {"kind": "fixed", "value": 373}, "output_tokens": {"kind": "fixed", "value": 50}},
    },
}  # fmt: skip


@pytest.mark.parametrize(("box", "verdict"), [("h100", "makes no difference"), ("t4", "pays: ")])
def test_a_search_decides_whether_a_host_pays(box: str, verdict: str) -> None:
    """Not where the GPU holds every request (the CPU never attends); on a T4 with its KV short it does."""
    space = {"scheduler": ["vllm", "apex", "neo"], "hybrid_kv_gib": [32.0]}
    study = parse(StudySpec, {**SEARCHES[box], "search": {"space": space, "trials": 3}})
    result = run_search(prepare(study, base_dir=None))
    best = result.recommended
    assert best is not None
    found = hosting(result.runs, best)
    assert found is not None

    assert f"Hybrid execution {verdict}" in found.verdict
    assert found.chosen.hosted == (box == "t4")
    if box == "h100":
        assert all(other.hybrid is not None and other.hybrid["cpu_tokens"] == 0 for other in found.others)
