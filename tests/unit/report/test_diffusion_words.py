"""Results of diffusion models speak of blocks, refreshes and what a system without a KV pool keeps."""

import csv
import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from simserve.explore.objective import Outcome
from simserve.explore.result import SearchResult
from simserve.report import figures, tables
from simserve.report.html import report_html
from simserve.report.series import PoolSeries, Series
from simserve.report.terminal import print_simulation
from simserve.report.words import denoising_line, memory_parts, terms, together
from simserve.spec.deployment import DeploymentSpec

DENOISING: dict[str, Any] = {
    "steps": 128, "requests_per_step": 12.0, "query_tokens_per_step": 974.4, "refresh_tokens": 0.612,
    "tokens_per_step": 1.0, "tail_ratio": 1.8,
}  # fmt: skip
LINE = ("diffusion: 12 requests and 974 query tokens a step, 61.2 % of the tokens in refreshes; 1 position a pass; "
        "p99 over median latency 1.8")  # fmt: skip
GIB = 1 << 30


def outcome(scheduler: str, memory: dict[str, int], denoising: dict[str, Any] | None = DENOISING) -> Outcome:
    """One run."""
    metrics: dict[str, Any] = {"ttft_ms": {"mean": 5.0}, "kv_occupancy_mean": 0.2, "kv_occupancy_peak": 0.5}
    return Outcome(
        deployment=DeploymentSpec(scheduler=scheduler), num_gpus=1, num_gpu_blocks=9551, tokens_per_s_per_gpu=10.0,
        ttft_ms=5.0, tpot_ms=1.0, usd_per_hour=1.0, usd_per_million_tokens=0.5, slo=(), turned_away=0,
        metrics={**metrics, **({"diffusion": denoising} if denoising else {})}, memory_bytes=memory,
    )  # fmt: skip


PAGED = outcome("sangam", {"weights": 15 * GIB, "activations": GIB, "kv_cache": 24 * GIB})
BATCH = outcome("vanilla_dllm", {"weights": 15 * GIB, "activations": 0, "batch": 24 * GIB})
DECODES = outcome("vllm", {"weights": 15 * GIB, "activations": 0, "kv_cache": 24 * GIB}, None)


def printed(run: Outcome) -> str:
    """A simulation at a wide terminal."""
    console = Console(width=200, record=True, file=io.StringIO())
    print_simulation(console, result(run))
    return console.export_text()


def result(*runs: Outcome) -> SearchResult:
    """A simulation of these."""
    return SearchResult("simulate", "demo", list(runs), provenance={"model": {"name": "llada-8b-instruct"}})


def drawn(run: Outcome) -> Series:
    """What a page draws of a run of two gaps."""
    pool = PoolSeries("", 1, [0.0, 1.0], [0, 0], [1, 1], [0.1, 0.2], [0.1, 0.2])
    return Series(run, 0.1, {"itl": ([1.0, 2.0], [0.5, 1.0])}, (pool,), {})


def test_the_line_has_singular_and_leaves_out_a_tail_that_is_none() -> None:
    """A pass commits 1 position, or 3.25 positions."""
    more = replace(BATCH, metrics={"diffusion": {**DENOISING, "tokens_per_step": 3.25, "tail_ratio": None}})

    assert denoising_line(BATCH) == LINE
    assert denoising_line(more).endswith("; 3.25 positions a pass")
    assert denoising_line(DECODES) == ""


def test_the_terminal_says_what_ttft_and_itl_are_and_prints_the_line() -> None:
    """For diffusion models alone."""
    meaning = "TTFT is the end of the first block, ITL the gap between blocks"

    assert meaning in printed(PAGED)
    assert LINE in printed(PAGED)
    assert "9551 KV blocks per replica" in printed(PAGED)
    assert "Quality is not judged: threshold 0.9" in printed(PAGED)
    assert [text in printed(DECODES) for text in (meaning, "diffusion", "Quality")] == [False] * 3


def test_a_system_without_a_pool_has_slots_of_its_batch() -> None:
    """Nothing of activations that it does not keep apart, no KV cache."""
    text = printed(BATCH)

    assert "9551 slots per replica" in text
    assert "memory of the batch in use: 20 % on average, 50 % at the peak" in text
    assert "memory per GPU: weights 15.0 GiB, KV, activations and logits of the batch 24.0 GiB" in text
    assert [word in text for word in ("KV cache", "kv cache", "KV blocks", "activations 0 B")] == [False] * 4
    assert "activations 0 B, kv cache 24.0 GiB" in memory_parts(DECODES.memory_bytes)


def test_the_page_speaks_of_blocks_and_refreshes() -> None:
    """In its texts and at the axes of its figures; other models' stay."""
    denoises, decodes = (report_html(result(run), [drawn(run)]) for run in (BATCH, DECODES))

    for new, old in (("gaps between blocks for ITL", "gaps between tokens for ITL"),
                     ("of steps of reuses alone", "of steps that only decode"),
                     ("Queue and memory of the batch over time", "Queue and KV cache over time"),
                     ("share of the slots in use", "share of the KV blocks in use")):  # fmt: skip
        assert (new in denoises, old in denoises) == (True, False)
        assert (new in decodes, old in decodes) == (False, True)
    assert LINE[1:] in denoises
    assert "TTFT is the end of the first block" in denoises
    assert figures.distributions([drawn(PAGED)])["itl"]["layout"]["yaxis"]["title"]["text"] == "gaps between blocks, %"
    both = figures.over_time([drawn(PAGED), drawn(BATCH)])
    assert both["layout"]["yaxis2"]["title"]["text"] == "KV blocks or slots in use, %"


def test_words_of_several_runs_come_once() -> None:
    """In the order of the runs."""
    assert together(terms(run).slots for run in (PAGED, BATCH, PAGED)) == "KV blocks or slots"


def test_csv_has_the_steps_only_where_there_are_diffusion_runs() -> None:
    """All columns described; the files of other models stay as they are."""
    (row,) = csv.DictReader(io.StringIO(tables.csv_text(result(PAGED))))
    (other,) = csv.DictReader(io.StringIO(tables.csv_text(result(DECODES))))

    assert {name: float(row[name]) for name in tables.DENOISING} == {
        f"diffusion_{name}": value for name, value in DENOISING.items()
    }
    assert [name for name in other if name.startswith("diffusion")] == []
    assert set(tables.DENOISING) <= set(tables.DESCRIBED)
