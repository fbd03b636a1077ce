"""What must hold in every run, checked on its trace. A broken law is a bug of the simulator or of a policy.

| law | statement |
| --- | --- |
| conservation | every request that arrived has exactly one outcome |
| causality | arrival <= first scheduled <= first token <= finish; none without its predecessor |
| tokens | the tokens scheduled are those of the requests, plus what preemption made to be computed again |
| lanes | no more steps of an instance at once than it has pipeline stages, in order; each lasts as its durations say |
| memory | used blocks lie between 0 and the total |
| work conservation | an instance that holds requests does not stand still |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserve.errors import LawBroken
from simserve.sim.request import Outcome
from simserve.sim.trace import Columns, Trace


def check(trace: Trace) -> None:
    """Raise LawBroken at the first law that the trace breaks."""
    for law in (conservation, causality, tokens, lanes, memory, work_conservation):
        law(trace)


def conservation(trace: Trace) -> None:
    """Every request once."""
    ids = trace.requests["id"]
    if len(np.unique(ids)) != len(ids):
        raise LawBroken("conservation", "a request has two outcomes")


def causality(trace: Trace) -> None:
    """Times of a request in order."""
    r = trace.requests
    finished = r["outcome"] == Outcome.FINISHED
    for earlier, later in (
        ("arrival_ns", "first_scheduled_ns"),
        ("first_scheduled_ns", "first_token_ns"),
        ("first_token_ns", "finish_ns"),
    ):
        happened = r[later] >= 0
        wrong = (happened & ((r[earlier] < 0) | (r[later] < r[earlier]))) | (finished & ~happened)
        _raise_first("causality", wrong, r["id"], f"{later} before {earlier}")


def tokens(trace: Trace) -> None:
    """Without preemption a request costs prompt + output - 1 - cached tokens, and one more where the process that
    decodes answers, for it computes the prompt's last token again; with it, at least that.

    With both there is no bound: a resumed request may find its own blocks in the cache.
    """
    r, s = trace.requests, trace.steps
    if (r["outcome"] == Outcome.UNFINISHED).any():
        return
    done = r["outcome"] == Outcome.FINISHED
    if trace.denoising:
        _positions(trace, int(r["output_tokens"][done].sum()))
        return
    needed = int((r["prompt_tokens"] + r["output_tokens"] - 1 - r["cached_tokens"])[done].sum())
    needed += trace.transfers.computed_again if trace.transfers is not None else 0
    scheduled = int((s["steps"] * s["tokens"]).sum())
    again = int(r["preemptions"].sum())
    if again and r["cached_tokens"].any():
        return
    if scheduled < needed or (again == 0 and scheduled != needed):
        raise LawBroken("tokens", f"{scheduled} tokens scheduled, {needed} needed, {again} preemptions")


def _positions(trace: Trace, output_tokens: int) -> None:
    """Steps have the query tokens of their passes; every position that came out was committed once, beside padding."""
    scheduled = int((trace.steps["steps"] * trace.steps["tokens"]).sum())
    queries = sum(sum(use.query_tokens.values()) for use in trace.denoising)
    committed = sum(use.committed for use in trace.denoising)
    if scheduled != queries or committed < output_tokens:
        raise LawBroken("tokens", f"{scheduled} tokens in steps, {queries} in passes; {committed} positions committed, "
                        f"{output_tokens} came out")  # fmt: skip


def lanes(trace: Trace) -> None:
    """Steps of one instance follow one another, of a pipelined one as many behind as it has stages."""
    s = trace.steps
    for index, depth in enumerate(trace.depths or [1] * len(trace.total_blocks)):
        own = s["instance"] == index
        start, end = s["start_ns"][own], s["end_ns"][own]
        overlap = start[depth:] < end[:-depth]
        _raise_first("lanes", overlap, start[depth:], "a step starts before the one before has ended")
        _raise_first("lanes", end[1:] <= end[:-1], start[1:], "a step overtakes another")
    one = s["steps"] == 1
    wrong = (s["end_ns"] <= s["start_ns"]) | (one & (s["end_ns"] - s["start_ns"] != s["first_dt_ns"]))
    _raise_first("lanes", wrong, s["start_ns"], "a step does not last as long as it costs")


def memory(trace: Trace) -> None:
    """Blocks in use are never negative nor more than there are."""
    s = trace.steps
    total = np.array(trace.total_blocks, dtype=np.int64)[s["instance"]]
    low, high = (f(s["used_blocks"], s["last_used_blocks"]) for f in (np.minimum, np.maximum))
    wrong = (low < 0) | (high > total)
    _raise_first("memory", wrong, s["start_ns"], "used blocks out of bounds")


def work_conservation(trace: Trace) -> None:
    """No instance stands still between two steps while a request that it can work on is in flight.

    It may while KV is on its way to it, or from it: those blocks keep others out.
    """
    s, r = trace.steps, trace.requests
    done, fetched = r["outcome"] == Outcome.FINISHED, r["kv_arrived_ns"] >= 0
    for index in range(len(trace.total_blocks)):
        own = s["instance"] == index
        start, end = s["start_ns"][own], s["end_ns"][own]
        stops = end[:-1][start[1:] > end[:-1]]
        here, handed_over = done & (r["instance"] == index), done & (r["prefill_instance"] == index)
        handed_here = here & (r["prefill_instance"] >= 0)
        present = (
            _inside(stops, r["arrival_ns"], r["finish_ns"], here & ~handed_here)
            + _inside(stops, r["kv_arrived_ns"], r["finish_ns"], handed_here)
            + _inside(stops, r["arrival_ns"], r["first_token_ns"], handed_over)
        )
        moving = _inside(stops, r["arrival_ns"], r["kv_arrived_ns"], (here | handed_over) & fetched)
        _raise_first("work conservation", (present > 0) & (moving == 0), stops, f"instance {index} stands still")


def _inside(
    times: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64], which: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each time how many of the intervals [begin, end) of `which` contain it."""
    begun = np.searchsorted(np.sort(begin[which]), times, side="right")
    return begun - np.searchsorted(np.sort(end[which]), times, side="right")


def expanded(steps: Columns) -> Columns:
    """Rows of several steps as one row per step: (instance, start_ns, duration_ns, tokens).

    Durations inside a row lie on a line, so a row whose cost is linear in the context expands exactly.
    """
    count = steps["steps"]
    row = np.repeat(np.arange(len(count)), count)
    duration = step_durations_ns(steps)
    begins = np.cumsum(duration) - duration
    offset = begins - np.repeat(begins[np.cumsum(count) - count], count) if len(row) else begins
    return {
        "instance": steps["instance"][row],
        "start_ns": steps["start_ns"][row] + offset,
        "duration_ns": duration,
        "tokens": steps["tokens"][row],
    }


def step_durations_ns(steps: Columns) -> NDArray[np.int64]:
    """How long each step of the rows took, in order."""
    count = steps["steps"]
    ends = np.cumsum(count)
    position = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count, count)
    span = np.maximum(count - 1, 1)
    rise = np.repeat(2 * (steps["last_dt_ns"] - steps["first_dt_ns"]), count) * position
    more: NDArray[np.int64] = (rise + np.repeat(span, count)) // np.repeat(2 * span, count)
    return np.repeat(steps["first_dt_ns"], count) + more


def _raise_first(law: str, wrong: NDArray[np.bool_], who: NDArray[np.int64], detail: str) -> None:
    """Raise for the first True of `wrong`, naming the entry of `who`."""
    found = np.flatnonzero(wrong)
    if len(found):
        raise LawBroken(law, f"{detail} ({int(who[found[0]])})")
