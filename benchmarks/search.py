"""How fast a search is: `python benchmarks/search.py [--peer-python PATH] [--only TASK] [--json OUT]`.

Each task is a whole run of `simserve search`, a process per CPU, at most 8: imports, screen of the space, simulation of
the promising part under Optuna, files and page written. Its bar is met if it ends in time and its ten best were each
simulated and keep the SLO at its percentile. With `--peer-python`, a Python that has aiconfigurator 0.12.0, its own
command line answers beside it. It is asked for the highest throughput per GPU under the same TTFT and TPOT, which it
judges by means and at a load of its own choice; simserve for the highest under `rate` requests/s, at the 90th
percentile.

Besides: configurations per second of the screen over a space of pools in pairs, price curves included, and simulations
per second and core at 2,000 requests of the quickstart study's load.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from peers import PeerMissing, aiconfigurator

from simserve.errors import SimserveError

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
TOP = 10
SCREEN_BAR, SIMULATED_BAR, REQUESTS = 100_000, 8.0, 2000


@dataclass(frozen=True)
class Task:
    """A model on at most `gpus` GPUs: prompts of `isl` tokens of which `prefix` are common, outputs of `osl`.

    rate: requests/s; bar_s: whole process; as_peer: the bar is the peer's time, where that is measured beside.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    isl: int
    osl: int
    prefix: int
    ttft_ms: int
    tpot_ms: int
    rate: float
    bar_s: float
    experts: bool = False
    as_peer: bool = False

    def study(self) -> dict[str, Any]:
        """The study file: what the command line searches without one, over powers of two."""
        counts = [n for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64) if n <= self.gpus]
        sizes: dict[str, Any] = {"tensor_parallel_size": [1, 2, 4, 8]}
        if self.experts:
            groups = [size for size in (1, 2, 4, 8, 16, 32) if size <= self.gpus]
            sizes |= {"data_parallel_size": groups, "enable_expert_parallel": True}
        prompt = {"kind": "fixed", "value": self.isl - self.prefix}
        workload: dict[str, Any] = {
            "arrivals": {"kind": "poisson", "rate_rps": self.rate}, "prompt_tokens": prompt,
            "output_tokens": {"kind": "fixed", "value": self.osl}, "requests": 600,
        }  # fmt: skip
        if self.prefix:
            workload["prefixes"] = {"count": 1, "tokens": {"kind": "fixed", "value": self.prefix}}
        space = {
            "mode": ["aggregated", "disaggregated"], "engine": "vllm", "gpu": self.gpu, "dtype": "fp8_block", **sizes,
            "replicas": counts, "max_num_batched_tokens": [2048, 8192], "max_num_seqs": [64, 256],
            "router": "least_loaded", "prefill": {"max_num_seqs": 256}, "decode": {"max_num_batched_tokens": 2048},
        }  # fmt: skip
        return {
            "name": self.name, "model": self.model, "workload": workload,
            "slo": {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "percentile": 90},
            "deployment": {"enable_prefix_caching": bool(self.prefix)},
            "search": {"space": space, "max_gpus": self.gpus, "trials": 24, "prune": True},
        }  # fmt: skip


TASKS = {
    task.name: task
    for task in (
        Task("qwen3-32b", "Qwen/Qwen3-32B-FP8", "h200_sxm", 32, 4000, 500, 500, 300, 10, 20.0, 9.0, as_peer=True),
        Task("deepseek-v3", "deepseek-ai/DeepSeek-V3", "h200_sxm", 64, 4000, 500, 0, 2000, 50, 10.0, 25.0, True),
        Task("qwen3-235b", "Qwen/Qwen3-235B-A22B-FP8", "h200_sxm", 32, 4000, 500, 0, 1000, 30, 8.0, 30.0, True),
    )
}  # fmt: skip


def timed(command: Sequence[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """(the process, its wall seconds, its CPU seconds)."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(task: Task) -> Row:
    """One search."""
    with tempfile.TemporaryDirectory(prefix="simserve-search-") as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(yaml.safe_dump(task.study(), sort_keys=False))
        command = [sys.executable, "-m", "simserve", "search", "study.yaml", "-o", "out"]
        done, wall, cpu = timed(command, folder)
        if not (folder / "out" / "result.json").is_file():
            raise SystemExit(done.stderr.strip())
        found = json.loads((folder / "out" / "result.json").read_text())
    runs = found["runs"]
    best = runs[found["recommended"]] if found["recommended"] is not None else None
    return {
        "wall_s": wall, "cpu_s": cpu, "configurations": found["configurations"], "simulated": len(runs),
        "pruned": len(found["pruned"]), "top": sum(run["meets_slo"] for run in runs[:TOP]),
        "best": best and {"gpus": best["num_gpus"], "tokens_per_s_per_gpu": best["tokens_per_s_per_gpu"],
                          "ttft_ms": best["ttft_ms"], "tpot_ms": best["tpot_ms"]},
    }  # fmt: skip


def screen() -> Row:
    """Configurations per second of feasibility and screen."""
    from simserve.explore.candidates import candidates
    from simserve.explore.runner import prepare
    from simserve.explore.space import from_study
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    study = TASKS["qwen3-32b"].study()
    study["workload"]["requests"] = 10
    study["search"]["max_gpus"] = 128
    limits = {"max_num_batched_tokens": [1024, 2048, 4096, 8192, 16384], "max_num_seqs": [64, 128, 256, 512]}
    counts = list(range(1, 65))
    study["search"]["space"] |= {**limits, "replicas": counts, "router": ["round_robin", "least_loaded"]}
    study["search"]["space"] |= {"prefill": {"max_num_seqs": 256}, "decode": {"max_num_batched_tokens": 2048}}
    inputs = prepare(parse(StudySpec, study), base_dir=None)
    begin, cpu = time.perf_counter(), time.process_time()
    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"configurations": found.configurations, "wall_s": wall, "cpu_s": cpu, "per_s": found.configurations / wall}


def simulated() -> Row:
    """Simulations per second of CPU, evaluated as a search does, cost tables compiled before."""
    from simserve.explore.evaluate import evaluate
    from simserve.explore.runner import prepare
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.study import load_study

    inputs = prepare(load_study(ROOT / "studies" / "quickstart.yaml"), base_dir=None, requests=REQUESTS)
    asked = [DeploymentSpec(gpu="h100_sxm", replicas=n, max_num_batched_tokens=b) for n in (1, 2) for b in (2048, 8192)]
    for deployment in asked:
        evaluate(inputs.model, deployment, inputs.workload.head(50), inputs.study.slo)
    begin = time.process_time()
    for deployment in asked:
        evaluate(inputs.model, deployment, inputs.workload, inputs.study.slo)
    seconds = time.process_time() - begin
    return {"candidates": len(asked), "requests": REQUESTS, "cpu_s": seconds, "per_s": len(asked) / seconds}


def show(name: str, row: Row) -> None:
    """One line per side."""
    best = row.get("best")
    found = f"; best {best['gpus']} GPUs, {best['tokens_per_s_per_gpu']:,.0f} tokens/s/GPU" if best else ""
    if row.get("mode"):
        found = f"; best {row['mode']}, {row['output_tokens_per_s_per_gpu']:,.0f} output tokens/s/GPU"
    print(f"{name:28} {row['wall_s']:7.1f} s wall {row['cpu_s']:7.1f} s CPU{found}", flush=True)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and judge everything."""
    found: dict[str, Any] = {"tasks": {}, "bars": {}}
    for name in options.only or TASKS:
        task = TASKS[name]
        sides = {"simserve": ours(task)}
        show(f"{name} simserve", sides["simserve"])
        if options.peer_python is not None:
            sides["aiconfigurator"] = aiconfigurator.search(options.peer_python, asdict(task), timed)
            show(f"{name} AIConfigurator", sides["aiconfigurator"])
        found["tasks"][name] = {"task": asdict(task), **sides}
        own = sides["simserve"]
        bar_s = sides["aiconfigurator"]["wall_s"] if task.as_peer and "aiconfigurator" in sides else task.bar_s
        found["bars"][name] = own["wall_s"] <= bar_s and own["top"] == TOP
        print(f"  {own['configurations']:,} configurations, {own['simulated']} simulated, {own['pruned']} given up, "
              f"{own['top']} of the {TOP} best meet the SLO; bar {bar_s:.1f} s")  # fmt: skip
    if not options.only:
        found["screen"], found["simulated"] = screen(), simulated()
        found["bars"] |= {"screen": found["screen"]["per_s"] >= SCREEN_BAR,
                          "simulated": found["simulated"]["per_s"] >= SIMULATED_BAR}  # fmt: skip
        print("screen: {configurations:,} configurations in {wall_s:.2f} s, {per_s:,.0f}/s".format(**found["screen"]))
        print("simulated: {per_s:.1f} candidates/s/core at {requests:,} requests".format(**found["simulated"]))
    for name, met in found["bars"].items():
        print(f"{name}: {'met' if met else 'missed'}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or end with one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer-python", type=Path, help="the Python that has aiconfigurator 0.12.0")
    parser.add_argument("--only", choices=[*TASKS], action="append", help="one task (repeat for several)")
    parser.add_argument("--json", type=Path, help="save all numbers here")
    options = parser.parse_args(arguments)
    try:
        if options.peer_python is not None:
            aiconfigurator.check(options.peer_python)
        found = report(options)
    except (SimserveError, PeerMissing) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
