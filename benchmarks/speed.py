"""How fast the simulator is: `python benchmarks/speed.py TRACES [--million] [--json OUT] [--plot OUT.html]`.

TRACES is the folder with azure2023_conv.csv.gz and azure2023_code.csv.gz. Every scenario runs in a process of
its own on one core; imports and the compilation of cost tables are not counted. `events` are entries of the
simulation clock's heap, `steps` are engine steps. Growth curves: time against requests and output length.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simserve.perf.model import build_cost
from simserve.policies.routers import LeastLoaded
from simserve.sim.cluster import Cluster
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.systems.vllm import Vllm
from simserve.workload.azure import read_azure
from simserve.workload.requests import RequestSet

H100_BLOCKS = 29_144


def poisson(count: int, rate_rps: float, prompt: int, output: int) -> RequestSet:
    """`count` requests of equal lengths."""
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1e9 / rate_rps, count)).astype(np.int64)
    prompts, outputs = (np.full(count, n, dtype=np.int64) for n in (prompt, output))
    return RequestSet(arrivals, prompts, outputs, prompts * 0, None, {})


Scenario = tuple[Callable[[Path], RequestSet], int, int]  # load, replicas, blocks per replica

SCENARIOS: dict[str, Scenario] = {
    "azure conversation": (lambda d: read_azure(d / "azure2023_conv.csv.gz"), 1, H100_BLOCKS),
    "azure conversation, 2,000 blocks": (lambda d: read_azure(d / "azure2023_conv.csv.gz"), 1, 2_000),
    "azure code": (lambda d: read_azure(d / "azure2023_code.csv.gz"), 1, H100_BLOCKS),
    "overload with preemptions": (lambda _: poisson(5_000, 40, 512, 512), 1, 4_000),
    **{f"requests {n:,}": (lambda _, n=n: poisson(n, 8, 1024, 256), 1, H100_BLOCKS) for n in (1_000, 10_000, 100_000)},
    **{f"output length {n}": (lambda _, n=n: poisson(5_000, 1, 512, n), 1, H100_BLOCKS) for n in (64, 128, 256, 512)},
}
MILLION: Scenario = (lambda _: poisson(1_000_000, 64 * 8, 1024, 256), 64, H100_BLOCKS)


def measure(name: str, traces: Path) -> dict[str, Any]:
    """Run one scenario here."""
    load_of, replicas, blocks = MILLION if name == "million" else SCENARIOS[name]
    load = load_of(traces)
    cost = build_cost(
        load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm"), tensor_parallel_size=1, dtype="bf16",
        kv_cache_dtype="auto", max_num_batched_tokens=8192, max_num_seqs=256,
    )  # fmt: skip
    cluster = Cluster(LeastLoaded())
    for _ in range(replicas):
        cluster.add(Vllm(), cost, num_gpu_blocks=blocks, block_size=16)
    begin = time.perf_counter()
    trace = cluster.play(load)
    wall = time.perf_counter() - begin
    tokens = int((trace.requests["prompt_tokens"] + trace.requests["output_tokens"]).sum())
    return {
        "scenario": name, "requests": len(load), "wall_s": wall, "requests_per_s": len(load) / wall,
        "tokens_per_s": tokens / wall, "steps": int(trace.steps["steps"].sum()), "rows": len(trace.steps["steps"]),
        "preemptions": int(trace.requests["preemptions"].sum()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def measure_apart(name: str, traces: Path) -> dict[str, Any]:
    """Run one scenario in a process of its own."""
    command = [sys.executable, __file__, str(traces), "--only", name]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(out)
    return result


def exponent(rows: list[dict[str, Any]], prefix: str) -> float:
    """Slope of log wall time over the logarithm of the number in the scenario's name."""
    points = [(r["scenario"].removeprefix(prefix).replace(",", ""), r["wall_s"]) for r in rows
              if r["scenario"].startswith(prefix)]  # fmt: skip
    x, y = zip(*((math.log(float(n)), math.log(t)) for n, t in points), strict=True)
    return float(np.polyfit(x, y, 1)[0])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Wall time of each scenario as a bar chart."""
    import plotly.express as px

    px.bar(rows, x="wall_s", y="scenario", orientation="h", log_x=True).write_html(path)


def main() -> None:
    """Measure all scenarios, print the table, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--million", action="store_true", help="add 1,000,000 requests on 64 replicas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.traces)))
        return
    rows = []
    for name in [*SCENARIOS, *(["million"] if options.million else [])]:
        rows.append(measure_apart(name, options.traces))
        r = rows[-1]
        print(f"{name:34} {r['wall_s']:8.2f} s {r['requests_per_s']:10,.0f} requests/s "
              f"{r['tokens_per_s']:14,.0f} tokens/s {r['steps']:9,} steps {r['preemptions']:6,} preemptions "
              f"{r['peak_mb']:6.0f} MB", flush=True)  # fmt: skip
    print(f"growth exponent over requests {exponent(rows, 'requests '):.2f}, "
          f"over output length {exponent(rows, 'output length '):.2f}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
