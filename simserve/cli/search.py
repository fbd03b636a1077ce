"""`simserve search`: the deployment to run for a load under an SLO."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.flags import AN_SLO, COMMAND_LINE, Flags, whole_command
from simserve.asked.names import check_names, located
from simserve.asked.space import SPACE_OPTIONS, space_sections
from simserve.cli import complete
from simserve.cli import options as opt
from simserve.cli.report_page import page_path, write_page
from simserve.cli.study_file import study_file
from simserve.errors import Infeasible, SpecError, UnknownName
from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.explore.result import SearchResult
    from simserve.explore.runner import Inputs
    from simserve.report.series import Series
    from simserve.workload.requests import RequestSet

_SPACE, _RUN = "Search space (repeat, or separate by commas)", "Search"
RESULTS = Path("simserve-results")
BEGIN = (
    "`simserve init` asks a few questions and writes a study; `simserve search quickstart` plays the example; "
    f"without a file: {whole_command('search', None)}"
)

Words = list[str] | None


def search(
    study: opt.Study = None,
    model: opt.Model = None,
    gpu: Annotated[
        Words, typer.Option(help="GPU types.", rich_help_panel=_SPACE, autocompletion=complete.gpus)
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs at most (default 8).", min=1, rich_help_panel=_SPACE)] = None,
    mode: Annotated[
        Words,
        typer.Option(help="aggregated, disaggregated, or both (default).", rich_help_panel=_SPACE,
                     autocompletion=complete.one_of(*complete.MODES)),
    ] = None,
    engine: Annotated[
        Words,
        typer.Option(help="vllm (default), sglang, trtllm.", rich_help_panel=_SPACE,
                     autocompletion=complete.one_of(*complete.ENGINES)),
    ] = None,
    tp: Annotated[Words, typer.Option(help="Tensor-parallel sizes.", rich_help_panel=_SPACE)] = None,
    dp: Annotated[
        Words, typer.Option(help="Data-parallel sizes of models with experts.", rich_help_panel=_SPACE)
    ] = None,
    replicas: Annotated[Words, typer.Option(help="Numbers of replicas.", rich_help_panel=_SPACE)] = None,
    dtype: Annotated[
        Words,
        typer.Option(help="bf16, fp16, fp8, fp8_block, nvfp4.", rich_help_panel=_SPACE,
                     autocompletion=complete.one_of(*complete.DTYPES)),
    ] = None,
    max_num_batched_tokens: Annotated[Words, typer.Option(help="Tokens per step.", rich_help_panel=_SPACE)] = None,
    max_num_seqs: Annotated[Words, typer.Option(help="Running requests.", rich_help_panel=_SPACE)] = None,
    router: Annotated[
        Words, typer.Option(help="Routers.", rich_help_panel=_SPACE, autocompletion=complete.routers)
    ] = None,
    scheduler: opt.Scheduler = None,
    kv_cache_dtype: opt.KvCacheDtype = None,
    trace: opt.Trace = None,
    trace_format: opt.TraceFormat = None,
    rate_scale: opt.RateScale = None,
    rate: opt.Rate = None,
    cv: opt.Cv = None,
    concurrency: opt.Concurrency = None,
    isl: opt.Isl = None,
    osl: opt.Osl = None,
    prefix: opt.Prefix = None,
    requests: opt.Requests = None,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    percentile: opt.Percentile = None,
    seed: opt.Seed = None,
    objective: Annotated[
        str | None,
        typer.Option(help="throughput per GPU (default), gpus, cost or front.", rich_help_panel=_RUN,
                     autocompletion=complete.one_of(*complete.OBJECTIVES)),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Configurations to simulate at most.", min=1, rich_help_panel=_RUN)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Configurations chosen together and simulated at once (default 8): as many workers are busy. "
                          "Another one gives other trials, the number of workers does not.",
                     min=1, rich_help_panel=_RUN),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Processes (default: one per CPU, at most a batch; 0: all).", min=0, rich_help_panel=_RUN),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Ray cluster: host:port, auto (runs here), local (start one).", rich_help_panel=_RUN),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Trials in journal:PATH or postgresql://... (default: journal in the output folder).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Take up the search in the output folder or storage.", rich_help_panel=_RUN)
    ] = False,
    progress_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a line of JSON for each trial that ends.", rich_help_panel=_RUN),
    ] = None,
    top: Annotated[int, typer.Option(help="Rows of the table.", min=1, rich_help_panel="Output")] = 10,
    json_out: opt.Json = None,
    html: opt.Html = None,
    no_html: opt.NoHtml = False,
    out: opt.OutDir = None,
) -> None:
    """Find the deployment that meets the SLO at the highest throughput per GPU, with the fewest GPUs, or at least cost.

    Examples:
      # the study that comes with simserve
      simserve search quickstart
      # your own study (`simserve init`), for the lowest cost
      simserve search study.yaml --objective cost -o results
      # no file
      simserve search --model Qwen/Qwen3-32B --gpu h200_sxm --gpus 8 --rate 4 --isl 2000 --osl 300 --ttft 500 --tpot 30
      # two GPU types, your own trace
      simserve search --model Qwen/Qwen3-32B --gpu h100,a100 --trace trace.csv --ttft 0.5s --tpot 30
    """
    study = study_file(study)
    given = locals()
    flags = Flags(**{name: given[name] for name in Flags.__dataclass_fields__})
    space_flags = {option: given[option.removeprefix("--").replace("-", "_")] for option in SPACE_OPTIONS}
    if study is None and model is None and gpu is None:
        raise SpecError(f"what to search? {BEGIN}")
    sections = space_sections(space_flags, trials, flags.model) if study is None else {}
    inputs = _inputs(study, flags, sections, space_flags, {"trials": trials, "objective": objective, "batch": batch})
    folder = out if out is not None else RESULTS / inputs.study.name
    assert inputs.study.search is not None
    how = {"jobs": _jobs(jobs, ray, inputs.study.search.batch), "ray": ray, "storage": storage, "resume": resume}
    page = page_path(html, folder, no_html)
    _search(inputs, study, folder, how, top=top, json_out=json_out, page=page, lines=progress_file)


def _inputs(
    study: Path | None,
    flags: Flags,
    sections: dict[str, Any],
    space_flags: dict[str, Any],
    override: dict[str, Any],
) -> Inputs:
    from simserve.explore.objective import OBJECTIVES
    from simserve.explore.runner import prepare

    asked = opt.read_study(study, flags, sections, space_flags)
    if asked.search is None:
        raise SpecError("there is no 'search' section; use `simserve simulate`, or add one", file=str(study))
    if override["objective"] not in (None, *OBJECTIVES):
        raise UnknownName("objective", override["objective"], OBJECTIVES, file=COMMAND_LINE, key="--objective")
    requests = asked.search.requests
    given = {key: value for key, value in override.items() if value is not None}
    asked = asked.model_copy(update={"search": asked.search.model_copy(update=given)})
    limit = flags.requests if study is not None else None
    check_names(asked, study)
    with located(study):
        return prepare(asked, base_dir=opt.base_dir(study), requests=limit or requests)


def _search(
    inputs: Inputs, study: Path | None, folder: Path, how: dict[str, Any], *, top: int, json_out: str | None,
    page: Path | None, lines: Path | None,
) -> None:  # fmt: skip

    from simserve.explore.result import nothing_meets
    from simserve.explore.runner import executor_for, run_search
    from simserve.report.progress import progress_bar
    from simserve.report.save import check_targets
    from simserve.report.series import top_series
    from simserve.report.terminal import print_search

    check_targets(folder, json_out, page, lines)
    drawn: list[Series] = []
    try:
        with located(study), executor_for(inputs, how["jobs"], how["ray"]) as executor:
            with progress_bar(lines=lines) as progress:
                result = run_search(
                    inputs, out_dir=folder, progress=progress, executor=executor, interval=page is None, **how
                )
            if page is not None:
                drawn = top_series(inputs, result, executor)
    except (KeyboardInterrupt, Exception) as error:
        if not interrupted(error):
            raise
        print(f"simserve: interrupted; resume with: {_again()}", file=sys.stderr)
        raise typer.Exit(130) from None
    if result.recommended is not None and drawn and drawn[0].outcome.interval is not None:
        result = result.with_interval(drawn[0].outcome.interval)
    console = make_console()
    where = store(result, folder, json_out, inputs.workload)
    if json_out != "-":
        print_search(console, result, top=top)
        say_where(console, where)
        if inputs.study.slo is None and not any(c.slo for c in inputs.study.workload.classes or ()):
            console.print(f"no SLO was given, so that throughput alone decided; e.g. {AN_SLO} bounds latencies",
                          highlight=False)  # fmt: skip
    if page is not None:
        write_page(console, result, drawn, page, quiet=json_out == "-")
    if result.recommended is None:
        raise Infeasible(nothing_meets(result))


def store(
    result: SearchResult, folder: Path | None, json_out: str | None, workload: RequestSet | None = None
) -> str:  # fmt: skip
    """Save to the folder, and the JSON document to where it was asked for; what lies where, in words.

    Before anything is printed: a terminal that goes away, or `| head`, takes nothing with it.
    """
    from simserve.report.document import document
    from simserve.report.save import save, to_json, write_atomic

    saved = save(result, folder, workload=workload) if folder is not None else []
    if json_out == "-":
        typer.echo(to_json(document(result)), nl=False)
    elif json_out is not None:
        write_atomic(Path(json_out), to_json(document(result)))
    if folder is None:
        return ""
    names = ", ".join(dict.fromkeys(path.relative_to(folder).parts[0] for path in saved))
    return f"saved in {folder}: {names}"


def say_where(console: Console, where: str) -> None:
    """What `store` returned, if anything."""
    if where:
        console.print(f"\n{where}", soft_wrap=True, highlight=False, markup=False)


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error, also where a library turned it into one of its own on the way."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _again() -> str:
    """The command that was typed, with --resume; a password in it as ***."""
    from simserve.explore.storage import masked

    words = ["simserve", *(masked(word) for word in sys.argv[1:] if word != "--resume"), "--resume"]
    return shlex.join(words)


def _jobs(jobs: int | None, ray: str | None, batch: int) -> int:
    """Without --jobs one process for each CPU, as many as a batch can use, or all of a cluster (0)."""
    from simserve.explore.executors import cpus

    if ray is not None:
        return jobs or 0
    return min(cpus(), batch) if jobs is None else jobs or cpus()
