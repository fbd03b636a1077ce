"""Executors: every result once whatever the workers, inputs sent once to each, deaths survived and counted."""

import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from simserve.errors import Infeasible, LawBroken, SimserveError, SpecError, UnknownName
from simserve.explore import sharing
from simserve.explore.executors import ATTEMPTS, make

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


class Counted:
    """Inputs that write a line whenever a process unpickles them."""

    def __init__(self, log: Path) -> None:
        self.log, self.numbers = log, np.arange(1000)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        note(self.log, os.getpid())


def note(log: Path, word: object) -> None:
    """A line, complete even if several processes write."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{word}\n".encode())
    os.close(descriptor)


def lines(log: Path) -> list[str]:
    """What was noted so far."""
    return log.read_text().splitlines() if log.is_file() else []


def told(shared: Any, task: int) -> Any:
    """The sum of the inputs, the task, and who played it."""
    time.sleep(0.02)
    return int(shared.numbers.sum()) + task, os.getpid(), bool(shared.numbers.flags.writeable)


def deadly(log: Path, task: str) -> Any:
    """Dies as often as the task's number says, by SIGKILL."""
    name, times = task.split("-")
    note(log, task)
    if lines(log).count(task) <= int(times):
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def slow(log: Path, task: int) -> Any:
    """Says who plays, then takes a while."""
    note(log, f"{task} {os.getpid()}")
    time.sleep(0.5)
    return str(task)


def full(_: Any, task: int) -> Any:
    """Python's own out of memory, which leaves the worker alive, for one of the tasks."""
    if task == 1:
        raise MemoryError
    return str(task)


def raising(_: Any, error: Exception) -> Any:
    """What a bug or a missing table does."""
    raise error


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_has_its_result(jobs: int, tmp_path: Path) -> None:
    """Ten tasks, ten results, each under its index; the executor can be used again."""
    with make(told, Counted(tmp_path / "log"), jobs=jobs) as executor:
        for _ in range(2):
            found = dict(executor.run(range(10)))
            assert [499_500 + i for i in range(10)] == [found[i][0] for i in range(10)]
    assert executor.workers == jobs


def test_inputs_reach_each_worker_once_and_uncopied(tmp_path: Path) -> None:
    """Twenty tasks on two workers unpickle the inputs twice; the arrays are views of one file."""
    with make(told, Counted(tmp_path / "log"), jobs=2) as executor:
        found = [result for _, result in executor.run(range(20))]

    assert {str(pid) for _, pid, _ in found} == set(lines(tmp_path / "log"))
    assert len(lines(tmp_path / "log")) == 2
    assert not any(writeable for _, _, writeable in found)


def test_shared_inputs_are_what_was_written() -> None:
    """Arrays of every length and alignment, beside things that are no arrays; the file goes away."""
    thing = {"a": np.arange(3, dtype=np.int8), "b": np.linspace(0, 1, 7), "c": ("x", None), "d": np.zeros(0)}
    shared = sharing.write(thing)
    found = shared.read()
    shared.remove()

    assert all(np.array_equal(found[key], thing[key]) for key in "abd")
    assert (found["c"], found["b"].flags.aligned, shared.folder.exists()) == (("x", None), True, False)


def test_a_task_outlives_the_death_of_its_worker(tmp_path: Path) -> None:
    """One worker died under 'a', two under 'c': both have results, and nothing else was played twice."""
    with make(deadly, tmp_path / "log", jobs=2) as executor:
        found = dict(executor.run(["a-1", "b-0", "c-2", "d-0"]))

    assert found == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert Counter(lines(tmp_path / "log")) == {"a-1": 2, "b-0": 1, "c-2": 3, "d-0": 1}


def test_a_task_that_kills_every_worker_has_failed(tmp_path: Path) -> None:
    """After ATTEMPTS deaths the reason is the result; the others are as they would be without it."""
    with make(deadly, tmp_path / "log", jobs=2) as executor:
        found = dict(executor.run(["a-99", "b-0", "c-0"]))

    assert found[0] == f"its worker died {ATTEMPTS} times (SIGKILL(-9), perhaps out of memory)"
    assert (found[1], found[2], len(lines(tmp_path / "log"))) == ("b", "c", ATTEMPTS + 2)


def test_a_worker_killed_from_outside(tmp_path: Path) -> None:
    """kill -9 while four tasks are under way: that one is played again, no other."""
    log = tmp_path / "log"

    def kill() -> None:
        while not lines(log):
            time.sleep(0.01)
        os.kill(int(lines(log)[0].split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with make(slow, log, jobs=2) as executor:
        found = dict(executor.run(range(4)))
    killer.join()
    plays = Counter(line.split()[0] for line in lines(log))

    assert found == {i: str(i) for i in range(4)}
    assert sorted(plays.values()) == [1, 1, 1, 2]


def test_out_of_memory_in_a_worker_is_a_death(tmp_path: Path) -> None:
    """The configuration that needs too much fails; the search goes on."""
    with make(full, None, jobs=2) as executor:
        found = dict(executor.run([0, 1]))

    assert found == {0: "0", 1: f"its worker died {ATTEMPTS} times (out of memory)"}


ERRORS = [
    SpecError("wrong", file="a.yaml", line=3, key="k", value=1, nearest="l"),
    UnknownName("GPU", "h1000", ["h100", "l40s"]),
    Infeasible("too large"),
    LawBroken("time", "went backwards", time_ns=3, request=1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_come_back_whole(error: SimserveError) -> None:
    """An error that crosses a process keeps its class, sentence and parts."""
    found = pickle.loads(pickle.dumps(error))

    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_work_ends_the_run(jobs: int) -> None:
    """As it does without workers: it is no death."""
    with make(raising, None, jobs=jobs) as executor, pytest.raises(UnknownName, match="unknown GPU 'h1000'"):
        list(executor.run([ERRORS[1], ERRORS[1]]))


def test_a_run_that_is_left_stops_its_workers(tmp_path: Path) -> None:
    """Leaving the context, by Ctrl-C for one, ends what is under way."""
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), make(slow, tmp_path / "log", jobs=2) as executor:  # noqa: PT012
        for _ in executor.run(range(40)):
            raise KeyboardInterrupt
    pids = {int(line.split()[1]) for line in lines(tmp_path / "log")}

    assert time.monotonic() - start < 15
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_died_before_it_had_a_task(tmp_path: Path) -> None:
    """Workers start at once; one that is killed while it waits is replaced when its turn comes."""
    with make(slow, tmp_path / "log", jobs=2) as executor:
        (first,) = [result for _, result in executor.run([0], process)]
        os.kill(first, signal.SIGKILL)
        while alive(first):
            time.sleep(0.01)
        (second,) = [result for _, result in executor.run([0], process)]

    assert second != first


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_may_have_its_own_work(jobs: int, tmp_path: Path) -> None:
    """The inputs are the executor's."""
    with make(deadly, "the inputs", jobs=jobs) as executor:
        assert dict(executor.run([1, 2], both)) == {0: ("the inputs", 1), 1: ("the inputs", 2)}


def process(inputs: Any, task: int) -> int:
    """Who plays it."""
    return os.getpid()


def both(inputs: Any, task: int) -> Any:
    """What the work is given."""
    return inputs, task
