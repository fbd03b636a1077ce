"""The step logs of the real vLLM scheduler are reproduced step by step."""

import copy
import gzip
import json
from pathlib import Path

import pytest

from simserve.testing.oracle import differences, main, read_log

NAMES = [
    "01-basic", "02-chunked-small-budget", "03-seq-limit", "04-kv-pressure-preemption",
    "05-kv-pressure-no-reserve", "06-prefix-shared", "07-prefix-eviction", "08-priority",
    "09-long-prefill-threshold", "10-block32", "11-azure-conv-500", "12-azure-code-300",
]  # fmt: skip


def log_path(shared: Path, name: str) -> Path:
    """The log called `name`."""
    return shared / "oracles" / "vllm_scheduler" / f"{name}.json.gz"


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_equal(shared: Path, name: str) -> None:
    """Token maps in order, preempted sets, free blocks, step times, first-token and finish times."""
    log = read_log(log_path(shared, name))

    equal, found = differences(log)

    assert (len(log["steps"]), []) == (equal, found)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("04-kv-pressure-preemption", "max_num_batched_tokens", 300),
     ("04-kv-pressure-preemption", "max_num_seqs", 4),
     ("04-kv-pressure-preemption", "num_gpu_blocks", 298),
     ("04-kv-pressure-preemption", "block_size", 15),
     ("05-kv-pressure-no-reserve", "scheduler_reserve_full_isl", True),
     ("06-prefix-shared", "enable_prefix_caching", False),
     ("07-prefix-eviction", "num_gpu_blocks", 498),
     ("08-priority", "policy", "fcfs"),
     ("09-long-prefill-threshold", "long_prefill_token_threshold", 0)],
)  # fmt: skip
def test_a_changed_rule_is_found(shared: Path, name: str, key: str, value: object) -> None:
    """The check can fail: with one setting changed the log is no longer reproduced."""
    log = copy.deepcopy(read_log(log_path(shared, name)))
    log["config"][key] = value

    equal, found = differences(log)

    assert equal < len(log["steps"])
    assert found


def test_the_command_reports_and_exits(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal logs exit with 0, a changed one with 1 and its first difference, an unreadable one with 2."""
    good = log_path(shared, "01-basic")
    log = json.loads(gzip.decompress(good.read_bytes()))
    log["steps"][5]["free"] += 1
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(log))

    codes = [main([str(good)]), main([str(good), str(changed)]), main([str(tmp_path / "none.json")])]

    out = capsys.readouterr()
    assert codes == [0, 1, 2]
    assert out.out.splitlines()[:3] == [
        "01-basic: 638/638 steps",
        "01-basic: 638/638 steps",
        "01-basic: 637/638 steps",
    ]
    assert out.out.splitlines()[3].startswith("  first difference: step 5 at ")
    assert "none.json" in out.err
