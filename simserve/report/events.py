"""A trace as tracks of slices and counters, for viewers: instances, resources, requests."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from simserve.sim.request import Outcome
from simserve.sim.trace import Trace
from simserve.units import NS_PER_MS

INSTANCES, RESOURCES, REQUESTS = "instances", "resources", "requests"
Value = int | float | str


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that lasted; an instant if end_ns == start_ns."""

    name: str
    start_ns: int
    end_ns: int
    args: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Track:
    """A lane of slices that do not overlap, or a counter: (ns, value) from then on."""

    group: str
    name: str
    slices: list[Slice] = field(default_factory=list)
    counter: list[tuple[int, int]] = field(default_factory=list)


def tracks(trace: Trace) -> list[Track]:
    """One lane and three counters per instance, one lane per resource (more where it is shared), one per request."""
    return [*_instances(trace), *resource_tracks(trace), *_requests(trace)]


def kind(tokens: int, decode_tokens: int, running: int) -> str:
    """'decode' for a step of at most one token per request, 'prefill' if none goes on decoding, else 'mixed'."""
    return "decode" if tokens <= running else "prefill" if not decode_tokens else "mixed"


def _instances(trace: Trace) -> Iterator[Track]:
    names = ("instance", "start_ns", "end_ns", "steps", "first_dt_ns", "last_dt_ns", "tokens", "decode_tokens",
             "running", "waiting", "used_blocks", "preempted")  # fmt: skip
    rows = list(zip(*(trace.steps[name].tolist() for name in names), strict=True))
    for index in range(len(trace.total_blocks)):
        own = [dict(zip(names, row, strict=True)) for row in rows if row[0] == index]
        depth = trace.depths[index] if trace.depths else 1
        names_of = [f"instance {index}", *(f"instance {index} in flight {i}" for i in range(1, depth))]
        lanes = [Track(INSTANCES, name) for name in names_of]
        counters = {name: Track(INSTANCES, f"instance {index} {name.replace('_', ' ')}")
                    for name in ("running", "waiting", "used_blocks")}  # fmt: skip
        for place, row in enumerate(own):
            label = f"{kind(row['tokens'], row['decode_tokens'], row['running'])} {row['tokens']}"
            if row["steps"] > 1:
                label += f" x {row['steps']} steps"
            args = {name: row[name] for name in names if name not in ("instance", "start_ns", "end_ns")}
            lanes[place % depth].slices.append(Slice(label, row["start_ns"], row["end_ns"], args))
            for name, track in counters.items():
                track.counter.append((row["start_ns"], row[name]))
        yield from (*lanes, *counters.values())


def resource_tracks(trace: Trace) -> Iterator[Track]:
    """Spans of one resource; those that overlap share it and get lanes beside it."""
    columns = (trace.spans[name].tolist() for name in ("start_ns", "end_ns", "resource", "request", "size_bytes"))
    rows = sorted(zip(*columns, strict=True))
    for index, name in enumerate(trace.resources):
        lanes: list[Track] = []
        free: list[tuple[int, int]] = []
        for start, end, resource, request, size in rows:
            if resource != index:
                continue
            if free and free[0][0] <= start:
                _, lane = heapq.heappop(free)
            else:
                lane = len(lanes)
                lanes.append(Track(RESOURCES, name if not lane else f"{name} #{lane + 1}"))
            heapq.heappush(free, (end, lane))
            args: dict[str, Value] = {"request": request, "size_bytes": size}
            label = f"request {request}" if request >= 0 else name
            lanes[lane].slices.append(Slice(label, start, end, {k: v for k, v in args.items() if v not in (-1, 0)}))
        yield from lanes


def _requests(trace: Trace) -> Iterator[Track]:
    names = list(trace.requests)
    for row in zip(*(trace.requests[name].tolist() for name in names), strict=True):
        r = dict(zip(names, row, strict=True))
        yield Track(REQUESTS, f"request {r['id']}", list(phases(r, trace.end_ns)))


def phases(r: dict[str, int], end_ns: int) -> Iterator[Slice]:
    """What a request of `Trace.requests` went through: queued, prefill, KV transfer, decode."""
    args: dict[str, Value] = {
        "instance": r["instance"], "prompt_tokens": r["prompt_tokens"], "output_tokens": r["output_tokens"],
        "cached_tokens": r["cached_tokens"], "preemptions": r["preemptions"],
    }  # fmt: skip
    if r["outcome"] == Outcome.REJECTED:
        yield Slice("rejected", r["arrival_ns"], r["arrival_ns"], args)
        return
    if r["first_token_ns"] >= 0:
        args["ttft_ms"] = (r["first_token_ns"] - r["arrival_ns"]) / NS_PER_MS
    if r["finish_ns"] >= 0:
        args["e2e_ms"] = (r["finish_ns"] - r["arrival_ns"]) / NS_PER_MS
    marks = [("queued", r["arrival_ns"]), ("prefill", r["first_scheduled_ns"])]
    if r["prefill_instance"] >= 0:
        marks += [("KV transfer", r["first_token_ns"]), ("decode", r["kv_arrived_ns"])]
    else:
        marks += [("decode", r["first_token_ns"])]
    begun = [(name, begin) for name, begin in marks if begin >= 0]
    ends = [*(begin for _, begin in begun[1:]), r["finish_ns"] if r["finish_ns"] >= 0 else end_ns]
    for (name, begin), end in zip(begun, ends, strict=True):
        if end > begin:
            yield Slice(name, begin, end, args)
