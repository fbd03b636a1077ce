"""A result as the page shows it: the answer, every run in a row, and all of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from simserve.errors import SpecError
from simserve.explore.limits import limits
from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.result import SearchResult, describe, missed, nothing_meets
from simserve.explore.saved import Saved, read_saved
from simserve.report.words import in_ms, number, rests_on, scope_line, ties_line, verdict

_ROW = ("num_gpus", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "usd_per_hour", "usd_per_million_tokens")
_SOURCES = ("measured", "interpolated", "transferred", "modelled")


def overview(folder: Path) -> dict[str, Any]:
    """The answer and a row for each run; SpecError if there is no result."""
    saved = read_saved(folder)
    document, result = saved.document, _result(saved)
    front = set(document["front"])
    return {
        "name": document["name"], "model": document["model"], "objective": document["objective"],
        "recommended": document["recommended"],
        "lead": describe(saved.outcome) if result.recommended is not None else _upper(nothing_meets(result)),
        "scope": ". ".join(line for line in (scope_line(result), ties_line(result)) if line),
        "slo": document["provenance"]["study"].get("slo"),
        "rejected": [[row["configurations"], row["reason"]] for row in document["rejected"]],
        "runs": [_row(run, place in front) for place, run in enumerate(saved.runs)],
        "files": sorted(_files(folder)),
    }  # fmt: skip


def details(folder: Path, rank: int) -> dict[str, Any]:
    """All of one run, 1 is the best: why it is as it is, its bounds, interval, sources, deployment, launch command."""
    saved = read_saved(folder)
    if not 1 <= rank <= len(saved.runs):
        raise SpecError(f"there are {len(saved.runs)} runs", key="rank", value=rank)
    run = saved.runs[rank - 1]
    told, energy = limits(run), run.energy
    return {
        "configuration": describe(run), "verdict": verdict(run) if run.meets_slo else missed(run),
        "tiles": _tiles(run), "why": [told.summary, *(f"{limit.text}." for limit in told.found)],
        "latencies": {name: run.metrics[f"{name}_ms"] for name in ("ttft", "tpot", "itl", "e2e", "queueing")
                      if run.metrics.get(f"{name}_ms")},
        "interval": _interval(run),
        "sources": [[name, run.sources[name]] for name in _SOURCES if run.sources.get(name)],
        "memory": [[name, size] for name, size in run.memory_bytes.items()],
        "energy": None if energy is None else f"{energy.watts_per_gpu:.0f} W per GPU, "
                  f"{energy.joules_per_token:.3g} J per token (modelled, +-{100 * energy.error:.0f} %)",
        "deployment": yaml.safe_dump(run.deployment.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
        "launch": "\n".join(saved.document["runs"][rank - 1].get("launch") or []),
    }  # fmt: skip


def _result(saved: Saved) -> SearchResult:
    """As much of the search's result as its sentences need."""
    document = saved.document
    given_up = [None] * len(document["pruned"])
    return SearchResult("search", document["name"], saved.runs, [], document["configurations"],
                        document["provenance"], saved.objective, given_up)  # type: ignore[arg-type]  # fmt: skip


def _row(run: Outcome, on_front: bool) -> dict[str, Any]:
    found = {name: getattr(run, name) for name in _ROW}
    late = {name: None if (found[name] or 0) >= NEVER_MS else found[name] for name in ("ttft_ms", "tpot_ms")}
    return {**found, **late, "configuration": describe(run), "meets_slo": run.meets_slo, "front": on_front,
            "verdict": verdict(run)}  # fmt: skip


def _tiles(run: Outcome) -> list[list[str]]:
    found = [[number(run.tokens_per_s_per_gpu, 4), "tokens/s per GPU"]]
    found += [[in_ms(s.value_ms), f"{s.name.upper()} P{s.percentile:g}, bound {s.bound_ms:g} ms"] for s in run.slo]
    if not run.slo:
        found += [[in_ms(run.ttft_ms), "TTFT P90"], [in_ms(run.tpot_ms), "TPOT P90"]]
    found += [[number(run.usd_per_million_tokens), "USD per million tokens"],
              [f"{run.num_gpus}", f"GPU{'s' if run.num_gpus > 1 else ''}, {run.usd_per_hour:.2f} USD/h"]]  # fmt: skip
    return found


def _interval(run: Outcome) -> dict[str, Any] | None:
    """The 90 % interval of the recommended run, and what it rests on."""
    own = run.interval
    if own is None:
        return None
    named = {"ttft_ms.p90": "TTFT P90, ms", "tpot_ms.p90": "TPOT P90, ms", "e2e_ms.mean": "E2E mean, ms"}
    ranges = [[title, *own.ranges[name]] for name, title in named.items() if name in own.ranges]
    return {"ranges": ranges, "rests_on": sorted({rests_on(source, own.half_width) for source in own.sources.values()})}


def _files(folder: Path) -> list[str]:
    """What can be looked at or kept: results, launch files; not the journal and the page's own."""
    own = ("result.json", "runs.csv", "runs.parquet", "provenance.json", "launch.sh", "report.html", "study.yaml")
    return [name for name in own if (folder / name).is_file()] + [
        f"launch/{path.name}" for path in (folder / "launch").glob("*") if path.is_file()
    ]


def servable(folder: Path, name: str) -> Path:
    """A file of a result; SpecError for any other."""
    if name not in _files(folder):
        raise SpecError("no such file of a result", value=name)
    return folder / name


def _upper(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
