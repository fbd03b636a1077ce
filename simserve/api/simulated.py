"""What one deployment does with a workload: `simulate`, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.api import display
from simserve.api.study import Study, StudyLike, load_study

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from simserve.explore.objective import Outcome
    from simserve.explore.result import SearchResult
    from simserve.explore.runner import Inputs
    from simserve.metrics import Metrics
    from simserve.report.series import Series
    from simserve.run import RunResult
    from simserve.sim.trace import Trace


@dataclass(frozen=True)
class Simulation:
    """A deployment that was played; `print` shows what `simserve simulate` prints, a notebook a page.

    study: what was asked; outcome: the numbers that a search judges by, with the 90 % prediction interval if it was
    worked out.
    """

    study: Study
    outcome: Outcome
    inputs: Inputs = field(repr=False, compare=False)
    run: RunResult = field(repr=False, compare=False)

    @property
    def metrics(self) -> Metrics:
        """All metrics, each with its unit in its name; definitions in `simserve.metrics`."""
        return self.run.metrics

    @property
    def trace(self) -> Trace:
        """All that happened, in nanoseconds: requests, steps, KV cache."""
        return self.run.trace

    @property
    def meets_slo(self) -> bool:
        """Every bound of the SLO holds and nobody was turned away."""
        return self.outcome.meets_slo

    def to_pandas(self) -> pd.DataFrame:
        """One row per request: arrival_s, prompt_tokens, output_tokens, cached_tokens, preemptions, outcome, and in ms
        queueing, ttft, tpot, e2e; NaN where a request has no such value.

        >>> import simserve
        >>> run = simserve.simulate("quickstart", requests=50, interval=False)
        >>> len(run.to_pandas())
        50
        """
        import pandas as pd

        from simserve.metrics import latencies_ms
        from simserve.sim.request import Outcome as Ending
        from simserve.units import NS_PER_S

        rows, late = self.trace.requests, latencies_ms(self.trace)
        columns: dict[str, Any] = {"id": rows["id"], "arrival_s": rows["arrival_ns"] / NS_PER_S}
        columns |= {name: rows[name] for name in ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions")}
        columns["outcome"] = [Ending(int(value)).name.lower() for value in rows["outcome"]]
        columns |= {f"{name}_ms": late[name] for name in ("queueing", "ttft", "tpot", "e2e")}
        table = pd.DataFrame(columns)
        table.loc[table["outcome"] != "finished", ["queueing_ms", "ttft_ms", "tpot_ms", "e2e_ms"]] = float("nan")
        return table

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `simserve simulate --json`; see `simserve.report.document`."""
        from simserve.report.document import document

        return document(self.result)

    def save(self, folder: Path | str) -> Path:
        """What `simserve simulate -o FOLDER` writes: result.json, runs.csv, provenance, report.html; the folder."""
        return display.save(self.result, [self._series], Path(folder), self.inputs)

    def plot_latencies(self, latency: str = "ttft") -> Figure:
        """The share of requests within a latency (ttft, tpot, itl or e2e), with the bound of the SLO."""
        from simserve.errors import UnknownName
        from simserve.report.figures import distributions

        drawn = distributions([self._series])
        if latency not in drawn:
            raise UnknownName("latency", latency, drawn)
        return display.figure(drawn[latency])

    def plot_over_time(self) -> Figure:
        """Requests that wait and that are in progress, and the KV cache in use."""
        from simserve.report.figures import over_time

        return display.figure(over_time([self._series]))

    def plot_breakdown(self) -> Figure:
        """Shares of the busy time by kind of operation. MissingData where it is not known, as of offline systems."""
        from simserve.errors import MissingData
        from simserve.report.figures import breakdown

        drawn = breakdown([self._series])
        if drawn is None:
            raise MissingData("the time of this run by kind of operation is not known")
        return display.figure(drawn)

    @cached_property
    def result(self) -> SearchResult:
        """The same as the result of a search with one run."""
        from simserve.explore.runner import simulated

        return simulated(self.inputs, self.run, self.outcome.interval)

    @cached_property
    def _series(self) -> Series:
        from simserve.report.series import series

        return series(self.run, self.outcome)

    def __str__(self) -> str:
        from simserve.report.terminal import print_simulation

        return display.printed(print_simulation, self.result)

    def _repr_html_(self) -> str:
        return display.answer(self.result)


def simulate(study: StudyLike, *, requests: int | None = None, interval: bool = True) -> Simulation:
    """Play the one deployment of a study: `study.deployment` against `study.workload`.

    study: as `load_study` takes it; requests: only the first so many; interval: work out the 90 % prediction interval,
    two more runs or four. Raises SpecError, UnknownName, MissingData for what cannot be read, Infeasible (which byte
    count or divisor) for what cannot exist.

    >>> import simserve
    >>> run = simserve.simulate("quickstart", requests=100, interval=False)
    >>> run.metrics.finished, run.outcome.num_gpus
    (100, 1)
    """
    from dataclasses import replace

    from simserve.explore.runner import play, simulated, with_interval

    asked = load_study(study)
    inputs = asked.inputs(requests)
    run = play(inputs)
    outcome = simulated(inputs, run).runs[0]
    found = replace(outcome, interval=with_interval(inputs, run)) if interval else outcome
    return Simulation(asked, found, inputs, run)
