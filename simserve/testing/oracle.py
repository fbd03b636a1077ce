"""Replay step logs of the real vLLM scheduler: `python -m simserve.testing.oracle FILE...`.

Each file (JSON, gzipped or not) is one scenario: config, requests, cost, steps, first_token_time,
finish_time. Prints `NAME: equal/total steps` per file and its first difference; exits with 1 on any.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import MissingData, SimserveError, SpecError
from simserve.policies.routers import RoundRobin
from simserve.sim.cluster import Cluster
from simserve.sim.plan import Plan
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.toy import ToyCost
from simserve.units import NS_PER_S, NS_PER_US, seconds_to_ns
from simserve.workload.requests import RequestSet

Log = dict[str, Any]
Step = dict[str, Any]


def read_log(path: Path) -> Log:
    """One scenario; MissingData or SpecError in one line if it cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MissingData(f"{path}: cannot read the step log ({error.strerror})") from None
    try:
        log: Log = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (ValueError, OSError, EOFError) as error:
        raise SpecError(f"not a step log ({error})", file=str(path)) from None
    missing = {"config", "requests", "cost", "steps"} - set(log)
    if missing:
        raise SpecError(f"the step log lacks {', '.join(sorted(missing))}", file=str(path))
    return log


def replay(log: Log) -> tuple[list[Step], Trace]:
    """Our steps for the requests of a log, in the log's own format, and the whole trace."""
    config, cost = log["config"], log["cost"]
    scheduler = Vllm(
        config["max_num_batched_tokens"], config["max_num_seqs"], config["policy"],
        config["long_prefill_token_threshold"], config["scheduler_reserve_full_isl"],
    )  # fmt: skip
    toy = ToyCost(
        seconds_to_ns(cost["base_s"]),
        seconds_to_ns(cost["per_scheduled_token_s"]),
        seconds_to_ns(cost["per_context_token_s"]),
    )
    load, ids = _load(log["requests"])
    steps: list[Step] = []

    def observe(start_ns: int, duration_ns: int, plan: Plan, free: int) -> None:
        steps.append({
            "t": start_ns / NS_PER_S, "dt": duration_ns / NS_PER_S,
            "tokens": {str(ids[r.id]): n for r, n in plan.tokens.items()},
            "preempted": [ids[r.id] for r in plan.preempted], "free": free,
        })  # fmt: skip

    cluster = Cluster(RoundRobin())
    blocks, size = config["num_gpu_blocks"], config["block_size"]
    cluster.add(scheduler, toy, num_gpu_blocks=blocks, block_size=size, observer=observe,
                enable_prefix_caching=config["enable_prefix_caching"])  # fmt: skip
    return steps, cluster.play(load)


def _load(requests: list[dict[str, Any]]) -> tuple[RequestSet, list[int]]:
    """The log's requests in order of arrival, and their ids."""
    order = sorted(requests, key=lambda r: seconds_to_ns(r["arrival"]))
    column: dict[str, Any] = {
        name: np.array([convert(r) for r in order], dtype=np.int64)
        for name, convert in (
            ("arrival_ns", lambda r: seconds_to_ns(r["arrival"])),
            ("prompt_tokens", lambda r: r["prompt_len"]),
            ("output_tokens", lambda r: r["output_len"]),
            ("priority", lambda r: r.get("priority", 0)),
        )
    }
    content = [tuple((c, n) for c, n in r["segments"]) for r in order]
    load = RequestSet(**column, concurrency=None, provenance={}, content=content)
    return load, [r["id"] for r in order]


def differences(log: Log) -> tuple[int, list[str]]:
    """How many steps are equal, and what differs, the first first."""
    ours, trace = replay(log)
    theirs: list[Step] = log["steps"]
    equal, found = 0, []
    for index, (mine, real) in enumerate(zip(ours, theirs, strict=False)):
        wrong = _step_difference(mine, real)
        if wrong is None:
            equal += 1
        else:
            found.append(f"step {index} at {real['t']} s: {wrong}")
    if len(ours) != len(theirs):
        found.append(f"{len(ours)} steps, {len(theirs)} in the log")
    return equal, found + _time_differences(log, trace)


def _step_difference(mine: Step, real: Step) -> str | None:
    """The first thing in which two steps differ: order counts in `tokens`, not in `preempted`."""
    for key, ours, theirs in (
        ("tokens", list(mine["tokens"].items()), list(real["tokens"].items())),
        ("preempted", sorted(map(str, mine["preempted"])), sorted(map(str, real["preempted"]))),
        ("free", mine["free"], real["free"]),
    ):
        if ours != theirs:
            return f"{key} {ours}, the log has {theirs}"
    for key in ("t", "dt"):
        if abs(mine[key] - real[key]) * NS_PER_S > NS_PER_US:
            return f"{key} {mine[key]} s, the log has {real[key]} s"
    return None


def _time_differences(log: Log, trace: Trace) -> list[str]:
    """First-token and finish times that are off by more than 1 us."""
    ids = [r["id"] for r in sorted(log["requests"], key=lambda r: seconds_to_ns(r["arrival"]))]
    found = []
    for key, column in (("first_token_time", "first_token_ns"), ("finish_time", "finish_ns")):
        real = log.get(key, {})
        for row, time_ns in zip(trace.requests["id"].tolist(), trace.requests[column].tolist(), strict=True):
            expected = real.get(str(ids[row]))
            if expected is not None and abs(time_ns - seconds_to_ns(expected)) > NS_PER_US:
                found.append(f"request {ids[row]}: {column} {time_ns}, the log has {expected} s")
    return found


def main(paths: list[str]) -> int:
    """Check each file; 0 if all are equal, 1 if one differs, 2 if one cannot be read."""
    if not paths:
        print("usage: python -m simserve.testing.oracle FILE...", file=sys.stderr)
        return 2
    worst = 0
    for path in paths:
        try:
            log = read_log(Path(path))
            equal, found = differences(log)
        except SimserveError as error:
            print(f"{path}: {error}", file=sys.stderr)
            worst = 2
            continue
        print(f"{log.get('name', path)}: {equal}/{len(log['steps'])} steps")
        if found:
            print(f"  first difference: {found[0]}")
            worst = max(worst, 1)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
