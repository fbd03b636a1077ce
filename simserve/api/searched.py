"""The deployment to run: `search`, and its result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.api import display
from simserve.api.simulated import Simulation
from simserve.api.study import Study, StudyLike, at_least_one, load_study
from simserve.errors import SpecError, UnknownName

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from simserve.explore.explained import Explanation as _Found
    from simserve.explore.objective import Outcome
    from simserve.explore.result import SearchResult
    from simserve.explore.runner import Inputs, Progress


@dataclass(frozen=True)
class Explanation:
    """Why a result is what it is: what the winner beat, what binds, what more would buy, how sure the numbers are.

    found: the same as data.
    """

    found: _Found

    def to_pandas(self) -> pd.DataFrame:
        """One row per thing that could be bought, with what it would bring."""
        import pandas as pd

        return pd.DataFrame(self.found.rows())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return self.found.to_dict()

    def __str__(self) -> str:
        from simserve.report.explained import print_explanation

        return display.printed(print_explanation, self.found)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class Search:
    """A search that was made; `print` shows what `simserve search` prints, a notebook a page.

    study: what was asked; result: what was found, `runs` the best first.
    """

    study: Study
    result: SearchResult = field(repr=False)
    inputs: Inputs = field(repr=False, compare=False)

    @property
    def runs(self) -> tuple[Outcome, ...]:
        """The simulated configurations, the best first."""
        return tuple(self.result.runs)

    @property
    def recommended(self) -> Outcome | None:
        """The configuration to run; None when none meets the SLO."""
        return self.result.recommended

    @property
    def ties(self) -> tuple[Outcome, ...]:
        """Configurations that tie with the recommended one."""
        return tuple(self.result.ties)

    @property
    def front(self) -> tuple[Outcome, ...]:
        """The Pareto front among those that meet the SLO."""
        return tuple(self.result.front)

    def to_pandas(self) -> pd.DataFrame:
        """One row per simulated configuration, the best first: the columns of runs.csv, indexed by rank.

        `.attrs["descriptions"]` says what each column is, with its unit.

        >>> import simserve
        >>> found = simserve.search("quickstart", requests=100)
        >>> bool(found.to_pandas()["meets_slo"].iloc[0])
        True
        """
        import pandas as pd

        from simserve.report.tables import DESCRIBED, rows

        table = pd.DataFrame(rows(self.result)).set_index("rank")
        table.attrs["descriptions"] = {name: DESCRIBED[name] for name in table if name in DESCRIBED}
        return table

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `simserve search --json`; see `simserve.report.document`."""
        from simserve.report.document import document

        return document(self.result)

    def plot_pareto(self) -> Figure:
        """Throughput per GPU of every simulated configuration against TPOT, tokens/s of a user, or TTFT.

        MissingData if fewer than two have a latency.
        """
        from simserve.errors import MissingData
        from simserve.report.figures import pareto

        drawn = pareto(self.result)
        if drawn is None:
            raise MissingData("fewer than two configurations have a latency to draw them at")
        return display.figure(drawn)

    def simulate(self, rank: int = 1) -> Simulation:
        """The run of a rank (1 is the best) once more, with its trace. SpecError if there is none."""
        from simserve.explore.runner import replay

        outcome = self._run(rank)
        own = {"deployment": outcome.deployment.model_dump(mode="json", exclude_unset=True), "search": None}
        inputs = replace(self.inputs, study=self.inputs.study.model_copy(
            update={"deployment": outcome.deployment, "search": None}
        ))  # fmt: skip
        return Simulation(self.study.change(own), outcome, inputs, replay(self.inputs, outcome))

    def explain(self) -> Explanation:
        """What `simserve explain` says of the result: plays the winner and its neighbours again.

        >>> import simserve
        >>> found = simserve.search("quickstart", requests=100, progress=False)
        >>> "What binds" in str(found.explain())
        True
        """
        from simserve.explore.explained import explain
        from simserve.explore.saved import FILE, Saved

        document = self.to_dict()
        chosen = document["recommended"] or 0
        return Explanation(explain(Saved(self.study.folder / FILE, document, list(self.runs), chosen)))

    def launch(self, *frameworks: str, rank: int = 1) -> dict[str, str]:
        """Launch files of a run, name -> text: of vllm, sglang, trtllm, dynamo and llm-d, or of those named.

        >>> import simserve
        >>> found = simserve.search("quickstart", requests=100)
        >>> "vllm serve" in found.launch("vllm")["vllm.sh"]
        True
        """
        from simserve.report.launch import FRAMEWORKS, launch_files

        for name in frameworks:
            if name not in FRAMEWORKS:
                raise UnknownName("framework", name, FRAMEWORKS)
        return launch_files(self._run(rank), self.result.provenance, name=self.result.name,
                            workload=self.inputs.workload, frameworks=frameworks or FRAMEWORKS)  # fmt: skip

    def _run(self, rank: int) -> Outcome:
        if not isinstance(rank, int) or not 1 <= rank <= len(self.runs):
            raise SpecError(f"there are {len(self.runs)} runs", key="rank", value=rank)
        return self.runs[rank - 1]

    def save(self, folder: Path | str) -> Path:
        """What `simserve search -o FOLDER` writes: result.json, runs.csv, provenance, launch files, report.html."""
        from simserve.report.series import top_series

        return display.save(self.result, top_series(self.inputs, self.result), Path(folder), self.inputs)

    def __str__(self) -> str:
        from simserve.report.terminal import print_search

        return display.printed(print_search, self.result)

    def _repr_html_(self) -> str:
        return display.answer(self.result)


def search(
    study: StudyLike, *, requests: int | None = None, jobs: int | None = None, out_dir: Path | str | None = None,
    resume: bool = False, progress: bool | Progress = True,
) -> Search:  # fmt: skip
    """Find the deployment that meets the SLO at the highest throughput per GPU, or by the study's own objective.

    study: as `load_study` takes it, with a `search` section; requests: simulate only the first so many; jobs:
    processes (default: one per CPU, at most a batch of trials); out_dir: where the journal lies that `resume` takes up,
    None keeps trials in memory; progress: a bar, none, or a function of (done, of, latest outcome). The same study and
    seed give the same result for any `jobs`. Raises SpecError, UnknownName, MissingData for what cannot be read,
    Infeasible when no configuration is possible; a result in which nothing meets the SLO is still a result.

    >>> import simserve
    >>> found = simserve.search("quickstart", requests=100)
    >>> found.recommended.meets_slo
    True
    """
    from simserve.explore.executors import cpus
    from simserve.explore.runner import run_search

    asked = load_study(study)
    if asked.spec.search is None:
        raise SpecError("there is no 'search' section; use simserve.simulate, or add one", file=asked.file or None)
    if resume and out_dir is None:
        raise SpecError("needs out_dir, where the journal of the search lies", key="resume")
    inputs = asked.inputs(asked.spec.search.requests if requests is None else requests)
    workers = min(cpus(), asked.spec.search.batch) if jobs is None else at_least_one("jobs", jobs)
    with _reported(progress) as report:
        result = run_search(inputs, out_dir=None if out_dir is None else Path(out_dir), resume=resume, progress=report,
                            jobs=workers)  # fmt: skip
    return Search(asked, result, inputs)


def _reported(progress: bool | Progress) -> AbstractContextManager[Progress | None]:
    """The caller's own function, a bar, or nothing."""
    from simserve.report.progress import progress_bar

    if not isinstance(progress, bool) and not callable(progress):
        raise SpecError("must be True, False or a function", key="progress", value=progress)
    return progress_bar() if progress is True else nullcontext(progress or None)
