"""What a kill -9 costs a search on processes of joblib: at most the trials in flight, never the result."""

import os
import signal
import time
from typing import Any

import pytest

TRIALS = 12


def gone(pids: set[int]) -> bool:
    """Whether these processes end by themselves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_one_and_four_workers_find_the_same(searches: Any, whole: Any) -> None:
    """Same seed: the same trials and the same document, every configuration played once."""
    assert whole == searches.run("four", "--jobs", "4")
    assert searches.execution == {"executor": "joblib", "workers": 4, "storage": "journal"}
    assert (len(searches.plays()), searches.repeated()) == (TRIALS, 0)


def test_a_killed_worker_costs_its_own_trial(searches: Any, whole: Any) -> None:
    """kill -9 of two workers in the middle: two plays more, the same result."""
    process = searches.start("hurt", "--jobs", "2", slow=(4, 10))
    for number in (4, 10):
        searches.wait_for_plays(number, process)
        os.kill(searches.plays()[number - 1][0], signal.SIGKILL)
    found = searches.end(process, "hurt")

    assert found == whole
    assert (len(searches.plays()), searches.repeated()) == (TRIALS + 2, 2)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_a_killed_driver_costs_what_was_in_flight(searches: Any, whole: Any) -> None:
    """kill -9 of the driver: its workers and files go, and the resumed search plays the two trials in flight again."""
    temporary = searches.folder / "tmp"
    temporary.mkdir()
    searches.environment["TMPDIR"] = str(temporary)
    process = searches.start("killed", "--jobs", "2", slow=(9, 10))
    searches.wait_for_plays(10, process)
    process.kill()
    process.communicate()
    workers = {pid for pid, _ in searches.plays()}
    found = searches.run("killed", "--jobs", "2", "--resume")

    assert gone(workers)
    assert not list(temporary.glob("simserve-*"))
    assert found == whole
    assert (len(searches.plays()), searches.repeated()) == (TRIALS + 2, 2)
