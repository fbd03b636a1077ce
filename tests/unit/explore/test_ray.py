"""Searches on a Ray cluster of two workers, which the test starts and stops: the same result, and real kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from simserve import __version__

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
TRIALS = 12
# A head without CPUs and two nodes of one CPU each; it stays until its standard input is closed.
CLUSTER = """\
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
cluster.add_node(num_cpus=0, object_store_memory=80_000_000, include_dashboard=False)
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

# What tasks may come to; prints what became of each. `ghost` is a module that only the driver has.
FATES = """\
import json, os, sys, types
from simserve.errors import UnknownName
from simserve.explore import cluster, executors

ghost = types.ModuleType("simserve_ghost")
exec("def haunt(inputs, task): return task", ghost.__dict__)
sys.modules["simserve_ghost"] = ghost
inputs = {"reads": 0}

def counted(inputs, task):
    inputs["reads"] += 1
    return f"{os.getpid()} {inputs['reads']}"

def killed(inputs, task):
    os.kill(os.getpid(), 9)

def full(inputs, task):
    raise MemoryError

def wrong(inputs, task):
    raise UnknownName("GPU", "h1000", ["h100"])

found = {}
with executors.make(counted, inputs, ray=sys.argv[1]) as executor:
    found["counted"] = [result for _, result in executor.run(range(6))]
    for name, work in {"killed": killed, "full": full, "wrong": wrong, "ghost": ghost.haunt}.items():
        executor._work = work
        try:
            found[name] = dict(executor.run([0]))[0]
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    executor._work, cluster.__version__ = counted, "0.0.0"
    try:
        list(executor.run([0]))
    except Exception as error:
        found["version"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that knows simserve."""
    path = os.pathsep.join(p for p in sys.path if p)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_TMPDIR": folder}
    process = subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, stdin=subprocess.PIPE, cwd="/",
                               stdout=subprocess.PIPE, env={**os.environ, **quiet, "PYTHONPATH": path})  # fmt: skip
    assert process.stdout is not None
    lines = [next(line.strip() for line in iter(process.stdout.readline, "") if ":" in line)]
    yield lines[0]
    process.communicate("", timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_finds_the_same(searches: Any, whole: Any, cluster: str) -> None:
    """On two nodes every configuration is played once, by two workers, and the document is that of one process."""
    assert whole == searches.run("ray", "--ray", cluster)
    assert searches.execution == {"executor": "ray", "workers": 2, "storage": "journal"}
    assert (len(searches.plays()), searches.repeated()) == (TRIALS, 0)
    assert len({pid for pid, _ in searches.plays()}) == 2


def test_a_killed_ray_worker_costs_its_own_trial(searches: Any, whole: Any, cluster: str) -> None:
    """kill -9 of a worker process of Ray in the middle: one play more, the same result."""
    process = searches.start("hurt", "--ray", cluster, slow=(5,))
    searches.wait_for_plays(5, process)
    os.kill(searches.plays()[4][0], signal.SIGKILL)
    found = searches.end(process, "hurt")

    assert found == whole
    assert (len(searches.plays()), searches.repeated()) == (TRIALS + 1, 1)


def test_a_killed_driver_resumes_on_the_cluster(searches: Any, whole: Any, cluster: str) -> None:
    """kill -9 of the driver: the cluster drops its tasks, and the two in flight are played again."""
    process = searches.start("killed", "--ray", cluster, slow=(9, 10))
    searches.wait_for_plays(10, process)
    process.kill()
    process.communicate()
    found = searches.run("killed", "--ray", cluster, "--resume")

    assert found == whole
    assert (len(searches.plays()), searches.repeated()) == (TRIALS + 2, 2)


def test_what_tasks_on_a_cluster_come_to(cluster: str) -> None:
    """Inputs stay in each worker; deaths are counted; errors come back whole; nodes without simserve are named."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", FATES, cluster], text=True, capture_output=True, check=True,
                          env=environment, timeout=300)  # fmt: skip
    found = json.loads(done.stdout)
    by_worker: dict[str, list[int]] = {}
    for pid, reads in (line.split() for line in found.pop("counted")):
        by_worker.setdefault(pid, []).append(int(reads))

    # A worker that fetched the inputs anew for every task would count 1, 1, 1.
    assert all(sorted(reads) == list(range(1, len(reads) + 1)) for reads in by_worker.values())
    assert found == {
        "killed": "its worker died 3 times (worker crashed)",
        "full": "its worker died 3 times (out of memory)",
        "wrong": "UnknownName: unknown GPU 'h1000'; did you mean 'h100'?",
        "ghost": f"SpecError: --ray: simserve {__version__} is not installed on every node of the Ray cluster"
        " (No module named 'simserve_ghost')",
        "version": f"SpecError: --ray: a node of the Ray cluster has simserve {__version__}, the driver 0.0.0",
    }


@pytest.mark.parametrize(
    ("address", "fragment"),
    [
        ("127.0.0.1:1", "--ray: cannot join the Ray cluster: connection refused (got '127.0.0.1:1')"),
        ("ray://somewhere:1", "is host:port, 'auto' or 'local' (got 'ray://somewhere:1')"),
    ],
)
def test_no_cluster_is_one_line(searches: Any, address: str, fragment: str) -> None:
    """An address where nothing answers, or that is none, at once and without Ray's own messages."""
    process = searches.start("none", "--ray", address)
    _, errors = process.communicate(timeout=300)

    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert fragment in errors
