"""Paper studies: find them, play their runs, hold what comes out against what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from simserve.check.judge import Verdict, within
from simserve.check.metrics import check_metric, numbers
from simserve.errors import Infeasible, UnknownName
from simserve.explore.provenance import versions
from simserve.explore.runner import play, prepare, simulated
from simserve.metrics import compute
from simserve.paths import data_files
from simserve.spec.paper import BEST, LARGEST, Paper, PaperRun, QuantitySpec, TermSpec, Value

FOLDER = "papers"  # of studies/
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Played:
    """What a run came to: its numbers by name, or in `why` the reason why it cannot exist; provenance of its study."""

    run: str
    at: Value | None
    numbers: Numbers | None
    why: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One quantity of one study with its verdict."""

    study: str
    quantity: QuantitySpec
    verdict: Verdict

    @property
    def ours(self) -> float | None:
        """None where a run that it needs cannot exist."""
        return self.verdict.measured if isinstance(self.verdict.measured, int | float) else None

    @property
    def ok(self) -> bool:
        """Ours lies within the expected range."""
        return self.verdict.status == "passed"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `simserve reproduce --json` is a list of these."""
        q = self.quantity
        published = list(q.published) if isinstance(q.published, tuple) else q.published
        return {
            "study": self.study, "quantity": q.name, "published": published, "ours": self.ours, "low": q.expect[0],
            "high": q.expect[1], "ok": self.ok, "unit": q.unit, "source": q.source, "note": self.verdict.message,
        }  # fmt: skip


@dataclass(frozen=True)
class Reproduced:
    """A paper study that was played."""

    paper: Paper
    played: tuple[Played, ...]
    rows: tuple[Row, ...]

    def series(self) -> dict[str, list[tuple[Value, float]]]:
        """By swept run, (value of the sweep, the metric of the plot) where the run can exist."""
        sweep = self.paper.spec.sweep
        if sweep is None:
            return {}
        return {
            run: [(p.at, p.numbers[sweep.metric]) for p in self.played
                  if p.run == run and p.at is not None and p.numbers is not None and sweep.metric in p.numbers]
            for run in sweep.runs
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: what the study says, and the numbers of every run."""
        return {
            **self.paper.spec.model_dump(mode="json"), "rows": [row.to_dict() for row in self.rows],
            "played": [{"run": p.run, "at": p.at, "numbers": None if p.numbers is None else dict(p.numbers),
                        "infeasible": p.why or None} for p in self.played],
        }  # fmt: skip


def paper_files() -> dict[str, Path]:
    """Name -> file of every paper study that comes with simserve, and the user's own."""
    return {path.stem: path for path in reversed(list(data_files("studies"))) if path.parent.name == FOLDER}


def find_papers(asked: Sequence[str]) -> list[Path]:
    """Files by name or path, all for none; UnknownName for another name."""
    known = dict(sorted(paper_files().items()))
    found: dict[Path, None] = {}
    for name in asked or known:
        path = Path(name)
        if name in known:
            found[known[name]] = None
        elif path.suffix or path.exists() or len(path.parts) > 1:
            found[path] = None
        else:
            raise UnknownName("paper study", name, known)
    return list(found)


def check_metrics(paper: Paper) -> None:
    """Before any work: SpecError at its key for a metric that no run has."""
    studies = {run.run: run.study for run in paper.runs}
    for index, quantity in enumerate(paper.spec.quantities):
        for key, term in _terms(quantity):
            if term.metric != LARGEST:
                check_metric(term.metric, f"quantities[{index}].of{key}.metric", studies[term.run])
    if paper.spec.sweep is not None:
        check_metric(paper.spec.sweep.metric, "sweep.metric", studies[paper.spec.sweep.runs[0]])


def reproduce(paper: Paper, done: Callable[[PaperRun], None] = lambda run: None) -> Reproduced:
    """Play every run once, in order, and judge the quantities; done: called after each."""
    played = []
    for run in paper.runs:
        played.append(_play(run, paper.path.parent, paper.spec.warmup_fraction))
        done(run)
    name, found = paper.spec.name, tuple(played)
    return Reproduced(paper, found, tuple(Row(name, q, _judge(q, found)) for q in paper.spec.quantities))


def provenance_of(found: Iterable[Reproduced]) -> dict[str, Any]:
    """Versions, and by study and run what each rests on."""
    studies = {
        one.paper.spec.name: [{"run": p.run, "at": p.at, **p.provenance} for p in one.played] for one in found
    }  # fmt: skip
    return {**versions(), "studies": studies}


def _play(run: PaperRun, base_dir: Path, warmup_fraction: float = 0.0) -> Played:
    inputs = prepare(run.study, base_dir=base_dir)
    try:
        played = play(inputs)
        if warmup_fraction:
            gpus, slo = played.num_gpus, run.study.slo
            metrics = compute(played.trace, num_gpus=gpus, slo=slo, warmup_fraction=warmup_fraction)
            played = replace(played, metrics=metrics)
        result = simulated(inputs, played)
    except Infeasible as error:
        return Played(run.run, run.at, None, str(error))
    return Played(run.run, run.at, numbers(result.runs[0]), provenance=result.provenance)


def _judge(quantity: QuantitySpec, played: Sequence[Played]) -> Verdict:
    """Within the expected range; a run that cannot exist says why."""
    of = quantity.of
    above = value_of(of, played)
    below = max((value for term in of.divisors if (value := value_of(term, played)) is not None), default=None)
    ours = None
    if above is not None and (of.over is None or below):
        ours = (above / (below or 1.0) - of.minus) * of.times
    verdict = within(quantity.name, ours, quantity.bound)
    why = next((p.why for _, term in _terms(quantity) for p in played if p.run == term.run and p.why), "")
    return verdict if ours is not None or not why else Verdict(
        verdict.name, verdict.status, None, verdict.expected, message=f"{verdict.message}: {why}"
    )  # fmt: skip


def value_of(term: TermSpec, played: Sequence[Played]) -> float | None:
    """The number of a term; None if its run cannot exist there, or has no such number."""
    own = [p for p in played if p.run == term.run]
    if term.metric == LARGEST:
        found = [p.at for p in own if p.numbers is not None and isinstance(p.at, int | float)]
        return max(found, default=None)
    known = {p.at: p.numbers.get(term.metric.removeprefix("metrics.")) for p in own if p.numbers is not None}
    if term.crosses is not None:
        return _crossing(known, term.crosses)
    if term.at == BEST:
        return max((value for value in known.values() if value is not None), default=None)
    return known.get(term.at if term.at in known else None)


def _crossing(known: Mapping[Value | None, float | None], bound: float) -> float | None:
    """Where a metric first gets past a bound, on a line between neighbouring values of the sweep; None if nowhere."""
    points = [(at, value) for at, value in known.items() if isinstance(at, int | float) and value is not None]
    for (left, before), (right, after) in pairwise(sorted(points)):
        if min(before, after) <= bound <= max(before, after) and before != after:
            return left + (bound - before) / (after - before) * (right - left)
    return None


def _terms(quantity: QuantitySpec) -> list[tuple[str, TermSpec]]:
    """The term above the line and the one below, with their keys."""
    return [("", quantity.of), *((".over", term) for term in quantity.of.divisors)]
