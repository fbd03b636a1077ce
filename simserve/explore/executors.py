"""Where the simulations of a search are played: in this process, in processes of joblib, on a Ray cluster.

All of them take `work(shared, task)`, a function of a module (`run` may be given another), and yield its results as
they come. `shared` reaches each worker once. A task whose worker dies (kill -9, out of memory, a lost node) is given to
another; when ATTEMPTS workers died under it, its result is the reason. An error that `work` raises ends the run, as it
does in-process.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

from simserve.explore import sharing

ATTEMPTS = 3  # workers that may die under one task [guessed]
_POLL_PARENT_S = 1.0
Work = Callable[[Any, Any], Any]
_shared: Any = None  # what this worker process was sent when it started


class Executor(Protocol):
    """Plays tasks; a context manager, inside of which `workers` is known."""

    name: str
    workers: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, tasks: Sequence[Any], work: Work | None = None) -> Iterator[tuple[int, Any]]:
        """(index of the task, its result or in a string why it has none) in order of completion."""
        ...


def make(work: Work, shared: Any, *, jobs: int = 1, ray: str | None = None) -> Executor:
    """The executor for `jobs` processes here, or at most `jobs` tasks at a time (0: one per CPU) on a Ray cluster.

    ray: host:port of the cluster's head, 'auto' for one that runs here, 'local' to start one.
    """
    if ray is not None:
        from simserve.explore.cluster import RayCluster

        return RayCluster(work, shared, ray, jobs)
    return Processes(work, shared, jobs) if jobs > 1 else InProcess(work, shared)


def cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class InProcess:
    """One task after another, here."""

    name, workers = "in-process", 1

    def __init__(self, work: Work, shared: Any) -> None:
        self._work, self._shared = work, shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""

    def run(self, tasks: Sequence[Any], work: Work | None = None) -> Iterator[tuple[int, Any]]:
        """In the order given."""
        for index, task in enumerate(tasks):
            yield index, (work or self._work)(self._shared, task)


class WorkerDied(Exception):
    """A worker was lost with its task; the message says what is known of the cause."""


class Mortal(ABC):
    """An executor whose workers can die; subclasses say how a task is started, awaited, fetched and given up."""

    name: str
    workers: int
    _work: Work

    def run(self, tasks: Sequence[Any], work: Work | None = None) -> Iterator[tuple[int, Any]]:
        """At most `workers` tasks are under way; one whose worker died waits for those that were not tried yet."""
        waiting, deaths = deque(range(len(tasks))), Counter[int]()
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    index = waiting.popleft()
                    running[self._start(work or self._work, tasks[index])] = index
                for handle in self._finished(list(running)):
                    index = running.pop(handle)
                    try:
                        yield index, self._fetch(handle)
                    except WorkerDied as error:
                        deaths[index] += 1
                        if deaths[index] < ATTEMPTS:
                            waiting.append(index)
                        else:
                            yield index, f"its worker died {ATTEMPTS} times ({error})"
        finally:
            self._give_up(list(running))

    @abstractmethod
    def _start(self, work: Work, task: Any) -> Any:
        """A handle of the task, which a worker has now."""

    @abstractmethod
    def _finished(self, handles: list[Any]) -> list[Any]:
        """Wait until at least one has ended, in one way or another."""

    @abstractmethod
    def _fetch(self, handle: Any) -> Any:
        """The result of one that has ended; raises WorkerDied, or what `work` raised."""

    @abstractmethod
    def _give_up(self, handles: list[Any]) -> None:
        """Stop those that are under way: nobody waits for them any more."""


class Processes(Mortal):
    """Processes of joblib (its loky), each a pool of its own: the death of one touches no task but its own.

    They start at once and import the simulator, while the driver still finds out what to play.
    """

    name = "joblib"

    def __init__(self, work: Work, shared: Any, jobs: int) -> None:
        self._work, self._shared, self.workers = work, shared, jobs
        self._inputs: sharing.Shared | None = None
        self._free: list[Any] = []
        self._busy: dict[Any, Any] = {}

    def __enter__(self) -> Self:
        self._inputs = sharing.write(self._shared)
        self._free = [self._pool() for _ in range(self.workers)]
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (*self._free, *self._busy.values()):
            pool.shutdown(wait=True, kill_workers=True)
        if self._inputs is not None:
            self._inputs.remove()

    def _pool(self) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        # Threads of the numerical libraries would compete for the CPUs that the processes have.
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        pool = ProcessPoolExecutor(1, initializer=_settle, initargs=(self._inputs, os.getpid()), env=threads)
        pool.submit(_warm)
        return pool

    def _start(self, work: Work, task: Any) -> Any:
        from joblib.externals.loky import BrokenProcessPool

        pool = self._free.pop()
        try:
            handle = pool.submit(_play, work, task)
        except BrokenProcessPool:  # its process died before it had a task
            pool = self._anew(pool)
            handle = pool.submit(_play, work, task)
        self._busy[handle] = pool
        return handle

    def _finished(self, handles: list[Any]) -> list[Any]:
        from joblib.externals.loky import FIRST_COMPLETED, wait

        done = wait(handles, return_when=FIRST_COMPLETED).done
        return [handle for handle in handles if handle in done]

    def _fetch(self, handle: Any) -> Any:
        from joblib.externals.loky import BrokenProcessPool

        pool = self._busy.pop(handle)
        try:
            result = handle.result()
        except (BrokenProcessPool, MemoryError) as error:
            self._free.append(self._anew(pool))
            raise WorkerDied(_cause(error)) from None
        self._free.append(pool)
        return result

    def _give_up(self, handles: list[Any]) -> None:
        for handle in handles:
            self._free.append(self._anew(self._busy.pop(handle)))

    def _anew(self, pool: Any) -> Any:
        pool.shutdown(wait=True, kill_workers=True)
        return self._pool()


def _cause(error: BaseException) -> str:
    """'SIGKILL(-9)' of loky's long message, or what else is known."""
    if isinstance(error, MemoryError):
        return "out of memory"
    codes = re.search(r"exit codes of the workers are \{(.+)\}", str(error))
    if codes is None:
        return "it ended unexpectedly"
    return codes[1] + (", perhaps out of memory" if "SIGKILL" in codes[1] else "")


def _settle(inputs: sharing.Shared, parent: int) -> None:
    """Begin a worker process: it has its inputs, leaves Ctrl-C to the driver, and ends when the driver is gone."""
    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _shared = inputs.read()


def _warm() -> None:
    """Import what any simulation needs, also what it would import at its first step."""
    for module in ("simserve.run", "simserve.metrics.energy", "pyarrow.parquet"):
        importlib.import_module(module)
    from simserve.policies import ROUTERS
    from simserve.systems import SCHEDULERS

    for parts in (ROUTERS, SCHEDULERS):
        parts.names()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_PARENT_S)
    os._exit(1)


def _play(work: Work, task: Any) -> Any:
    return work(_shared, task)
