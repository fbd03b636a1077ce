"""Searches as processes of their own that write down every play, so that tests can kill them and count."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: lognormal, mean: 300, std: 200, max: 2000}
  output_tokens: {kind: lognormal, mean: 60, std: 40, max: 300}
  requests: 60
slo: {ttft_ms: 500, tpot_ms: 40}
deployment: {gpu: l40s}
search:
  space:
    gpu: [h100_sxm, l40s]
    tensor_parallel_size: [1, 2]
    replicas: [1, 2, 3]
    max_num_batched_tokens: [2048, 8192]
    max_num_seqs: [64, 128]
    router: [round_robin, least_loaded]
  max_gpus: 4
  trials: 12
"""
# The command line with a play that says who plays what; some, by their number, wait for a kill to find them at it.
DRIVER = """\
import os, sys, time
from simserve.cli.main import main
from simserve.explore import runner

play, log, slow = runner._play, sys.argv[1], sys.argv[2].split(",")

def noted(inputs, deployment):
    line = f"{os.getpid()} {deployment.model_dump_json()}\\n"
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)
    if str(len(open(log).read().partition(line)[0].splitlines()) + 1) in slow:
        time.sleep(PAUSE_S)
    return play(inputs, deployment)

if __name__ == "__main__":
    runner._play = noted
    sys.exit(main(["search", *sys.argv[3:]]))
"""
TRIALS = 12
PAUSE_S = 3.0
PATIENCE_S = 300


class Searches:
    """Searches of one study in a folder: start, wait for so many plays, read what came out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "plays.log"
        self.environment: dict[str, str] = {}
        (folder / "tiny.yaml").write_text(STUDY)
        (folder / "driver.py").write_text(DRIVER.replace("PAUSE_S", str(PAUSE_S)))

    def start(self, name: str, *options: str, slow: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        """`simserve search tiny.yaml -o NAME --json NAME.json OPTIONS` in the background; `slow`: numbers of plays.

        One process where the options do not say how many.
        """
        options = options if {"--jobs", "--ray"} & set(options) else (*options, "--jobs", "1")
        command = [sys.executable, "driver.py", str(self.log), ",".join(map(str, slow)), "tiny.yaml", "-o", name,
                   "--json", f"{name}.json", *options]  # fmt: skip
        path = os.pathsep.join(p for p in sys.path if p)
        environment = {**os.environ, "PYTHONPATH": path, **self.environment}
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE)  # fmt: skip

    def run(self, name: str, *options: str) -> dict[str, Any]:
        """The document of a whole search, without what it says of its execution."""
        return self.end(self.start(name, *options), name)

    def end(self, process: subprocess.Popen[str], name: str) -> dict[str, Any]:
        """Wait for a search; its document, as `run`."""
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        self.execution = found["provenance"].pop("execution")
        return found

    def plays(self) -> list[tuple[int, str]]:
        """(process, configuration) of every play so far."""
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [(int(pid), what) for pid, what in (line.split(" ", 1) for line in lines)]

    def wait_for_plays(self, count: int, process: subprocess.Popen[str]) -> None:
        """Until so many plays have begun; fails if the search ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.plays()) < count:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def repeated(self) -> int:
        """Plays beyond the first of each configuration."""
        return sum(count - 1 for count in Counter(what for _, what in self.plays()).values())


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of the search when nothing happens to it: one process, no interruption."""
    searches = Searches(tmp_path_factory.mktemp("whole"))
    found = searches.run("whole")
    assert searches.execution == {"executor": "in-process", "workers": 1, "storage": "journal"}
    assert (len(searches.plays()), searches.repeated()) == (TRIALS, 0)
    return found


@pytest.fixture
def searches(tmp_path: Path) -> Searches:
    """In the test's own folder."""
    return Searches(tmp_path)
