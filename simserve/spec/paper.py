"""A paper study: what a publication measured, the runs that stand for it, and how far off ours may be.

    name: flexgen_t4
    paper: "Y. Sheng et al., FlexGen, ICML 2023"
    setting: what the paper says of its runs
    warmup_fraction: 0.25                      # optional: the first requests, left out of latencies
    unknown:                                   # what it leaves out
      - {what: disk bandwidth, chosen: 2 GB/s, why: "section 6"}
    base: {model: ..., workload: {...}, deployment: {...}}   # the fields of an ordinary study
    runs:                                      # name -> what each has different, key by key; null removes a key
      flexgen: {deployment: {max_num_seqs: 64}}
      accelerate: {deployment: {scheduler: static}}
    sweep:                                     # optional: one value at a time in all of these keys of some runs
      {key: [deployment.max_num_seqs, workload.requests], values: [4, 8, 16], runs: [flexgen]}
    quantities:
      - name: gain over Accelerate
        published: 0.5                         # or [low, high]
        of: {metric: output_tokens_per_s, run: flexgen, at: 8, over: accelerate, minus: 1}
        expect: [0.4, 0.6]                     # ends included
        source: "table 2"

A quantity is (metric / other metric - minus) x times. `at`: a value of the sweep, or best for the largest that the
metric has over it. `over`: a run, with the same metric and place, or the one of a list of runs that has the most of it,
such as the strongest baseline that can exist, or {metric, run, at}. The metric largest_feasible is the largest value of
the sweep at which the run can exist. `crosses` in place of `at`: the value of the sweep at which the metric first gets
past this number, on a line between neighbours, such as the load at which a latency is 1 s:

        of: {metric: normalized_latency_ms.mean, run: neo, crosses: 1000, over: vllm, minus: 1, times: 100}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from simserve.errors import SpecError, UnknownName
from simserve.spec.base import Located, Path_, Spec, dotted, parse, read_yaml
from simserve.spec.expect import BoundSpec
from simserve.spec.shapes import OrNull
from simserve.spec.study import Choices, Name, StudySpec

Text = Annotated[str, Field(min_length=1)]
Value = int | float | str
Range = tuple[float, float]
LARGEST = "largest_feasible"
BEST = "best"


class UnknownSpec(Spec):
    """Something that the paper does not say, what was chosen, and why."""

    what: Text
    chosen: Value
    why: Text


class PartSpec(Spec):
    """Fields of a study, complete or in part; checked as a study once a run is put together."""

    model: str | None = None
    workload: dict[str, Any] = Field(default_factory=dict)
    deployment: dict[str, Any] = Field(default_factory=dict)
    slo: dict[str, Any] | None = None
    seed: int | None = Field(default=None, ge=0)


Part = Annotated[PartSpec, BeforeValidator(lambda value: {} if value is None else value), OrNull()]


class TermSpec(Spec):
    """A number of a run; see the module docstring."""

    metric: Text
    run: Name
    at: Value | None = None
    crosses: float | None = None

    @model_validator(mode="after")
    def _one_place(self) -> TermSpec:
        if self.crosses is not None and (self.at is not None or self.metric == LARGEST):
            raise ValueError(f"crosses goes with neither at nor {LARGEST}")
        return self


class OfSpec(TermSpec):
    """What a quantity is in our runs; see the module docstring."""

    over: Name | tuple[Name, ...] | TermSpec | None = None
    minus: float = 0.0
    times: float = 1.0

    @property
    def divisors(self) -> tuple[TermSpec, ...]:
        """What may stand below the line, the largest does; a bare name has the metric and place of the term above."""
        if self.over is None or isinstance(self.over, TermSpec):
            return () if self.over is None else (self.over,)
        names = (self.over,) if isinstance(self.over, str) else self.over
        return tuple(TermSpec(metric=self.metric, run=run, at=self.at, crosses=self.crosses) for run in names)


class QuantitySpec(Spec):
    """One published number, or a range of them; expect: the ends within which ours must lie."""

    name: Text
    published: float | Range
    unit: str = ""
    of: OfSpec
    expect: Range
    source: Text

    @model_validator(mode="after")
    def _ends_in_order(self) -> QuantitySpec:
        for name, ends in (("expect", self.expect), ("published", self.published)):
            if isinstance(ends, tuple) and ends[0] > ends[1]:
                raise ValueError(f"{name}: the low end {ends[0]:g} is above the high end {ends[1]:g}")
        return self

    @property
    def bound(self) -> BoundSpec:
        """The same as a bound of `simserve check`."""
        return BoundSpec(min=self.expect[0], max=self.expect[1])


class SweepSpec(Spec):
    """Values that some runs get one after the other, in each of the keys; metric: what the plot shows; title: of it."""

    key: Choices[Text]
    values: tuple[Value, ...] = Field(min_length=1)
    runs: Choices[Name]
    metric: Text = "output_tokens_per_s"
    title: str = ""


class PaperSpec(Spec):
    """A paper study; see the module docstring."""

    name: Name = "paper"
    paper: Text
    setting: Text
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    unknown: tuple[UnknownSpec, ...] = ()
    base: PartSpec = PartSpec()
    runs: dict[Name, Part] = Field(min_length=1)
    sweep: SweepSpec | None = None
    quantities: tuple[QuantitySpec, ...] = Field(min_length=1)


@dataclass(frozen=True)
class PaperRun:
    """One study to play: that of a run, at a value of the sweep or None."""

    run: str
    at: Value | None
    study: StudySpec


@dataclass(frozen=True)
class Paper:
    """A paper study with all studies that it asks for; path: its file."""

    path: Path
    spec: PaperSpec
    runs: tuple[PaperRun, ...]


def load_paper(path: Path) -> Paper:
    """Read a paper study; SpecError naming file, line and key for whatever is wrong in it or in one of its runs."""
    located = read_yaml(path)
    if isinstance(located.data, dict) and "name" not in located.data:
        located = Located({"name": path.stem, **located.data}, located.lines, located.file)
    spec = parse(PaperSpec, located)
    _check_references(spec, located)
    return Paper(path, spec, tuple(_runs(spec, located)))


def _runs(spec: PaperSpec, located: Located) -> Iterator[PaperRun]:
    swept = spec.sweep.runs if spec.sweep is not None else ()
    for name in spec.runs:
        data = _over(located.data.get("base") or {}, located.data["runs"][name] or {})
        data = {"name": f"{spec.name}.{name}", **data}
        plain = _study(data, name, located)
        if spec.sweep is None or name not in swept:
            yield PaperRun(name, None, plain)
            continue
        for value in spec.sweep.values:
            yield PaperRun(name, value, _swept(data, spec.sweep, value, located))


def _study(data: dict[str, Any], run: str, located: Located) -> StudySpec:
    """The study of a run; a problem is where the run, or else the base, has the key."""
    places: dict[Path_, Path_] = {(): ("runs", run)}
    parts: tuple[Path_, ...] = (("base",), ("runs", run))
    for part in parts:
        places |= {path[len(part) :]: path for path in located.lines if path[: len(part)] == part}
    lines = {path: located.lines[place] for path, place in places.items() if place in located.lines}
    try:
        return parse(StudySpec, Located(data, lines, located.file))
    except SpecError as error:
        known = {dotted(path): dotted(place) for path, place in places.items()}
        parents = [key for key in known if error.key == key or (error.key or "").startswith((f"{key}.", f"{key}["))]
        parent = max(parents, key=len, default="")
        key = f"{known[parent]}{(error.key or '')[len(parent) :]}" if parent else f"runs.{run}.{error.key}"
        raise SpecError(error.problem, file=error.file, line=error.line, key=key, value=error.value,
                        nearest=error.nearest) from None  # fmt: skip


def _swept(data: dict[str, Any], sweep: SweepSpec, value: Value, located: Located) -> StudySpec:
    """The study of a run at one value of the sweep, whose key and values are then what may be wrong."""
    for key in sweep.key:
        own: Any = value
        for part in reversed(key.split(".")):
            own = {part: own}
        data = _over(data, own)
    try:
        return parse(StudySpec, Located(data, {}, located.file))
    except SpecError as error:
        line = located.lines.get(("sweep", "key"))
        raise SpecError(f"at {value!r}: {error.key}: {error.problem}", file=located.file, line=line, key="sweep.key",
                        nearest=error.nearest) from None  # fmt: skip


def _over(base: Any, own: Any) -> Any:
    """A mapping over another, key by key all the way down; null removes a key."""
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return own
    merged = {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}
    return {key: value for key, value in merged.items() if not (key in own and own[key] is None)}


def _check_references(spec: PaperSpec, located: Located) -> None:
    """UnknownName for a run that is not there, SpecError for a place that it has not."""
    for index, name in enumerate(spec.sweep.runs if spec.sweep is not None else ()):
        if name not in spec.runs:
            raise _unknown_run(name, spec, ("sweep", "runs", index), located)
    for index, quantity in enumerate(spec.quantities):
        place: Path_ = ("quantities", index, "of")
        _check_term(quantity.of, spec, place, located)
        for divisor in quantity.of.divisors:
            key, given = (*place, "over"), isinstance(quantity.of.over, TermSpec)
            if not given and divisor.run not in spec.runs:
                raise _unknown_run(divisor.run, spec, key, located)
            _check_term(divisor, spec, key, located, given=given)


def _check_term(term: TermSpec, spec: PaperSpec, place: Path_, located: Located, *, given: bool = True) -> None:
    """A swept run needs a place of the sweep, others have none; given: the study says it, it is not carried over."""
    if term.run not in spec.runs:
        raise _unknown_run(term.run, spec, (*place, "run"), located)
    sweep = spec.sweep if spec.sweep is not None and term.run in spec.sweep.runs else None
    line = _line(place, located)
    if sweep is None:
        if (term.at is not None and given) or term.crosses is not None or term.metric == LARGEST:
            raise SpecError(f"run {term.run} is not swept", file=located.file, line=line, key=dotted(place))
    elif term.crosses is not None:
        _check_numbers(sweep, dotted(place), line, located)
    elif term.metric != LARGEST and term.at not in (*sweep.values, BEST):
        known = ", ".join(map(str, (*sweep.values, BEST)))
        raise SpecError(f"at must be one of {known}", file=located.file, line=line, key=f"{dotted(place)}.at",
                        value=term.at)  # fmt: skip


def _check_numbers(sweep: SweepSpec, key: str, line: int | None, located: Located) -> None:
    """SpecError unless the values of the sweep are rising numbers, between which a metric can cross one."""
    numbers = [value for value in sweep.values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(sweep.values) or numbers != sorted(set(numbers)) or len(numbers) < 2:
        raise SpecError("crosses needs a sweep over rising numbers", file=located.file, line=line, key=f"{key}.crosses")


def _unknown_run(name: str, spec: PaperSpec, place: Path_, located: Located) -> UnknownName:
    return UnknownName("run", name, spec.runs, file=located.file, line=_line(place, located), key=dotted(place))


def _line(place: Path_, located: Located) -> int | None:
    return next((located.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in located.lines), None)
