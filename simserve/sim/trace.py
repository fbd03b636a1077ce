"""What happened in a run, as columns: one row per request, one row per step or run of equal steps.

`requests`: id, arrival_ns, first_scheduled_ns, first_token_ns, finish_ns (-1 when it never happened),
prompt_tokens, output_tokens (generated), instance (-1 if none took it), preemptions, outcome (`Outcome`),
cached_tokens (found in the prefix cache, or fetched from the offload tiers, by the first admission), prefill_instance
(which handed it over, -1 if none did), kv_arrived_ns (when KV was last fetched for it, -1 if never).

`steps`: instance, start_ns, end_ns, steps (k steps of the same batch in the row), first_dt_ns, last_dt_ns
(their durations lie on a line between the two), tokens (scheduled per step), decode_tokens (tokens sampled
per step whose predecessor came at the end of the step before, so that their ITL is the step's duration),
running, waiting, used_blocks, last_used_blocks (when the first and the last step of the row start),
preempted.

`spans`: what kept a resource (an index into `resources`: GPU lanes, PCIe, links) busy: start_ns, end_ns, request
(-1: none in particular), size_bytes (0: no transfer). Steps of one segment on a GPU of their own are in `steps` only.

`itl_gaps_ns`: the inter-token gaps that `steps` does not cover (after a preemption or a skipped step).
Nothing is stored per token. `depths`: steps that each instance may have in flight (empty: one). `hosts`: what each
instance with KV on a host did with it; `transfers`: what moved between stages, None without any; `denoising`: what each
instance of a diffusion model did. Its requests get tokens by blocks: the first token is the first block, and gaps are
between blocks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from simserve.sim.denoise import DenoiseUse
from simserve.sim.handover import TransferUse
from simserve.sim.hybrid import HostUse

REQUEST_COLUMNS = (
    "id", "arrival_ns", "first_scheduled_ns", "first_token_ns", "finish_ns",
    "prompt_tokens", "output_tokens", "instance", "preemptions", "outcome", "cached_tokens",
    "prefill_instance", "kv_arrived_ns",
)  # fmt: skip
STEP_COLUMNS = (
    "start_ns", "end_ns", "steps", "first_dt_ns", "last_dt_ns", "tokens", "decode_tokens",
    "running", "waiting", "used_blocks", "last_used_blocks", "preempted",
)  # fmt: skip
pack_request = Struct(f"{len(REQUEST_COLUMNS)}q").pack  # a row as the bytes that an array("q") takes
pack_step = Struct(f"{len(STEP_COLUMNS)}q").pack

SPAN_COLUMNS = ("resource", "start_ns", "end_ns", "request", "size_bytes")

Note = Callable[[int, int, int, int], None]  # (start_ns, end_ns, request, size_bytes)
Columns = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Trace:
    """The record of one run; see the module docstring for the columns."""

    requests: Columns
    steps: Columns
    itl_gaps_ns: NDArray[np.int64]
    total_blocks: list[int]
    end_ns: int
    truncated: int = field(default=0)
    resources: list[str] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    spans: Columns = field(default_factory=lambda: columns(array("q"), SPAN_COLUMNS))
    hosts: list[HostUse] = field(default_factory=list)
    denoising: list[DenoiseUse] = field(default_factory=list)
    transfers: TransferUse | None = None


class Spans:
    """Gathers what keeps resources busy; for pictures and checks, never for decisions."""

    def __init__(self) -> None:
        self.resources: list[str] = []
        self._log = array("q")

    def of(self, resource: str) -> Note:
        """A function that notes the spans of one resource."""
        if resource not in self.resources:
            self.resources.append(resource)
        index = self.resources.index(resource)
        return lambda start_ns, end_ns, request, size_bytes: self._log.extend(
            (index, start_ns, end_ns, request, size_bytes)
        )

    def table(self) -> Columns:
        """The spans, in the order in which they ended."""
        return columns(self._log, SPAN_COLUMNS)


def columns(log: array[int], names: Sequence[str]) -> Columns:
    """A flat row-major log as one int64 array per column."""
    table = np.frombuffer(log, dtype=np.int64).reshape(-1, len(names)) if len(log) else None
    empty = np.empty(0, dtype=np.int64)
    return {n: (empty if table is None else table[:, i].copy()) for i, n in enumerate(names)}


def step_columns(logs: Sequence[array[int]]) -> Columns:
    """The step logs of all instances as one table, ordered by instance and time."""
    parts = [columns(log, STEP_COLUMNS) for log in logs]
    owner = [np.full(len(p["start_ns"]), i, dtype=np.int64) for i, p in enumerate(parts)]
    table: Columns = {"instance": np.concatenate(owner) if owner else np.empty(0, dtype=np.int64)}
    for name in STEP_COLUMNS:
        table[name] = np.concatenate([p[name] for p in parts])
    return table
