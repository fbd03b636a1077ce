"""A Ray cluster as executor: tasks of one CPU each on whatever nodes there are; inputs lie in Ray's object store."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any, Self

from simserve.errors import MissingData, SpecError
from simserve.explore.executors import Mortal, Work, WorkerDied
from simserve.version import __version__

_FLAG = "--ray"
_HERE = ("auto", "local")
_ANSWER_S = 5.0  # how long the head of a cluster may take to accept a connection [guessed]
_DATA = "SIMSERVE_DATA"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_kept: dict[str, Any] = {}  # the inputs that this worker process took out of the object store, by id


class RayCluster(Mortal):
    """At most `jobs` tasks at a time on the cluster at `address`, or as many as it has CPUs if 0."""

    name = "ray"

    def __init__(self, work: Work, shared: Any, address: str, jobs: int) -> None:
        self._work, self._shared, self._address, self._jobs = work, shared, address, jobs
        self.workers = jobs
        self._inputs: Any = None
        self._remote: Any = None
        self._ours = False

    def __enter__(self) -> Self:
        ray = _import_ray()
        if not ray.is_initialized():
            _connect(ray, self._address, self._jobs)
            self._ours = True
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus == 0:
            raise SpecError("the Ray cluster has no CPUs", file=_FLAG, value=self._address)
        self.workers = self._jobs or cpus
        self._inputs = ray.put(self._shared)
        # Retries are ours, so that they are bounded whatever the cause and equal on every executor.
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_play)
        return self

    def __exit__(self, *error: object) -> None:
        self._inputs = self._remote = None
        if self._ours:
            _import_ray().shutdown()

    def _start(self, work: Work, task: Any) -> Any:
        return self._remote.remote(work, [self._inputs], task, __version__)

    def _finished(self, handles: list[Any]) -> list[Any]:
        done, _ = _import_ray().wait(handles, num_returns=1)
        return list(done)

    def _fetch(self, handle: Any) -> Any:
        ray = _import_ray()
        try:
            result = ray.get(handle)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                raise WorkerDied("out of memory") from None
            raise _incomplete(error.cause) or error.cause from None
        except ray.exceptions.RayError as error:
            raise _incomplete(error) or WorkerDied(_cause(error)) from None
        return result

    def _give_up(self, handles: list[Any]) -> None:
        for handle in handles:
            _import_ray().cancel(handle, force=True)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingData("Ray is not installed; `pip install 'simserve[ray]'`") from None
    return ray


def _connect(ray: Any, address: str, jobs: int) -> None:
    """Join the cluster, or start one here; SpecError in one line if there is none."""
    import logging

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address not in _HERE:
        _answers(address)
    if address == "local":
        options |= {"num_cpus": jobs or None, "include_dashboard": False}
    if _DATA in os.environ:
        options["runtime_env"] = {"env_vars": {_DATA: _absolute(os.environ[_DATA])}}
    _hush()
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = "none is running here" if address == "auto" else str(error)
        raise SpecError(f"cannot join the Ray cluster: {why}", file=_FLAG, value=address) from None


def _hush() -> None:
    """Ray prints every death of a worker to stdout, where `--json -` writes, and has no option against it."""
    from importlib import import_module

    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _answers(address: str) -> None:
    """Ask first: Ray itself takes half a minute to find that nobody is there, and may end the process."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise SpecError("the address of a Ray cluster is host:port, 'auto' or 'local'", file=_FLAG, value=address)
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        raise SpecError(f"cannot join the Ray cluster: {why.lower()}", file=_FLAG, value=address) from None


def _absolute(paths: str) -> str:
    return os.pathsep.join(str(Path(path).expanduser().resolve()) for path in paths.split(os.pathsep) if path)


def _incomplete(error: BaseException) -> SpecError | None:
    """The error to raise if a node could not even import what it was asked to run."""
    if not re.search(r"No module named|failed to import on the worker", str(error)):
        return None
    missing = re.search(r"No module named '([^']+)'", str(error))
    what = f" ({missing[0]})" if missing else ""
    return SpecError(f"simserve {__version__} is not installed on every node of the Ray cluster{what}", file=_FLAG)


def _cause(error: BaseException) -> str:
    """The class of Ray's error in words: 'worker crashed', 'out of memory', 'node died'."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _play(work: Work, inputs: list[Any], task: Any, version: str) -> Any:
    """Runs on a worker; the inputs are fetched once per process. A list, lest Ray fetches them for every task."""
    import ray

    if version != __version__:
        raise SpecError(f"a node of the Ray cluster has simserve {__version__}, the driver {version}", file=_FLAG)
    key = inputs[0].hex()
    if key not in _kept:
        _kept.clear()
        _kept[key] = ray.get(inputs[0])
    return work(_kept[key], task)
