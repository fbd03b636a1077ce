"""Traces with block ids: pieces by hand, published hit rates, errors that name file and row."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from simserve.errors import SpecError
from simserve.spec.workload import WorkloadSpec
from simserve.workload.blocks import read_blocks
from simserve.workload.build import build_workload
from simserve.workload.requests import RequestSet

GOOD = {"timestamp": 3, "input_length": 700, "output_length": 5, "hash_ids": [4, 9]}


def written(path: Path, *rows: object) -> Path:
    """JSON lines; text stands as it is."""
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def test_mooncake_blocks_become_content(tmp_path: Path) -> None:
    """Milliseconds, two blocks of 512 of which the second holds 188 tokens; gzipped, limited, twice as fast."""
    rows = [GOOD, {**GOOD, "timestamp": 10, "input_length": 1024}, GOOD]
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(r) for r in rows).encode()))
    trace = {"path": "m.jsonl.gz", "format": "mooncake", "rate_scale": 2, "limit": 2}

    requests = build_workload(WorkloadSpec.model_validate({"trace": trace}), seed=0, base_dir=tmp_path)

    assert ([1_500_000, 5_000_000], [700, 1024]) == (requests.arrival_ns.tolist(), requests.prompt_tokens.tolist())
    assert [((4, 512), (9, 188)), ((4, 512), (9, 512))] == list(requests.content or [])


def test_what_no_block_covers_is_the_requests_own(tmp_path: Path) -> None:
    """Two full blocks of 16 and 3 tokens that nobody shares; a prompt below one block has none."""
    keys = {"req": 0, "arrival_ns": 7, "output_toks": 2}
    path = written(
        tmp_path / "b.jsonl", {**keys, "input_toks": 35, "hash16": [0, 1]}, "", {**keys, "input_toks": 5, "hash16": []}
    )

    requests = read_blocks(path, "blocks_jsonl")

    assert [7, 7] == requests.arrival_ns.tolist()
    assert [((0, 16), (1, 16), (-1, 3)), ((-3, 5),)] == list(requests.content or [])


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "t.jsonl: the file has no rows"),
     ([GOOD, "{"], "row 2: not a line of JSON"),
     ([[1]], "row 1: not a JSON object"),
     ([{**GOOD, "input_length": 0}], r"row 1: input_length: not a whole number from 1 to .* \(got 0\)"),
     ([{**GOOD, "output_length": 1.5}], r"row 1: output_length: not a whole number from 1 to .* \(got 1.5\)"),
     ([{**GOOD, "timestamp": -1}], r"row 1: timestamp: not a whole number from 0 to .* \(got -1\)"),
     ([{"timestamp": 1}], "row 1: input_length: the key is missing; the row has timestamp"),
     ([GOOD, {**GOOD, "timestamp": 2}], "row 2: timestamp: times go backwards"),
     ([{**GOOD, "hash_ids": [1, 2, 3]}], "row 1: hash_ids: 3 blocks of 512 tokens are more than a prompt of 700"),
     ([{**GOOD, "hash_ids": ["a"]}], "row 1: hash_ids: must be a list of block ids"),
     ([{**GOOD, "hash_ids": None}], "row 1: hash_ids: must be a list of block ids")],
)  # fmt: skip
def test_a_broken_trace_names_file_and_row(tmp_path: Path, rows: list[object], message: str) -> None:
    """One clear line."""
    with pytest.raises(SpecError, match=rf"t.jsonl.*{message}" if rows else message) as caught:
        read_blocks(written(tmp_path / "t.jsonl", *rows), "mooncake")
    assert "\n" not in str(caught.value)


def test_what_is_not_gzip_is_refused(tmp_path: Path) -> None:
    """One clear line."""
    with pytest.raises(SpecError, match=r"t.jsonl.gz: cannot be read .Not a gzipped file"):
        read_blocks(written(tmp_path / "t.jsonl.gz", GOOD), "mooncake")


def hit_rate(requests: RequestSet) -> float:
    """Blocks found by a cache that forgets nothing, over all blocks."""
    seen: set[int] = set()
    hits = blocks = 0
    for content in requests.content or []:
        ids = [i for i, _ in content if i >= 0]
        hits += next((n for n, i in enumerate(ids) if i not in seen), len(ids))
        blocks += len(ids)
        seen.update(ids)
    return hits / blocks


@pytest.mark.parametrize("name", ["conversation", "synthetic"])
def test_mooncake_hit_rates_are_the_published_ones(shared: Path, name: str) -> None:
    """Every token of every prompt is in a block; the infinite cache finds what the statistics say."""
    traces = shared / "data" / "traces"
    published = pd.read_csv(traces / "gt_trace_stats.csv").set_index("trace")

    requests = read_blocks(traces / f"mooncake_{name}_trace.jsonl.gz", "mooncake")

    expected = published.loc[f"mooncake_{name}"]
    assert len(requests) == expected["N"]
    assert requests.prompt_tokens.tolist() == [sum(n for _, n in c) for c in requests.content or []]
    assert hit_rate(requests) == pytest.approx(expected["prefix_hit_inf"], abs=5e-5)


def test_sharegpt_blocks_are_read(shared: Path) -> None:
    """300 requests whose prompts end in at most 15 tokens of their own."""
    path = shared / "data" / "traces" / "lss_sharegpt300_llama31_8b_hash16.jsonl.gz"

    requests = read_blocks(path, "blocks_jsonl")

    assert requests.prompt_tokens.tolist() == [sum(n for _, n in c) for c in requests.content or []]
    assert (300, 15) == (len(requests), max(n for c in requests.content or [] for i, n in c if i < 0))
