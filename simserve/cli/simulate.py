"""`simserve simulate`: one deployment, all its latencies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.flags import COMMAND_LINE, Flags, weights_formats, whole_command
from simserve.asked.names import check_names, located
from simserve.cli import options as opt
from simserve.cli.report_page import page_path, write_page
from simserve.cli.study_file import study_file
from simserve.errors import SpecError
from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.explore.result import SearchResult
    from simserve.sim.trace import Trace
    from simserve.spec.study import StudySpec

TraceOut = Annotated[
    Path | None,
    typer.Option(
        "--trace-out",
        help="Write all that happened for ui.perfetto.dev: FILE.perfetto-trace, or FILE.json for Chrome's format.",
        rich_help_panel="Output",
    ),
]
Timeline = Annotated[
    Path | None, typer.Option(help="Draw the run: FILE.png, .svg or .pdf.", rich_help_panel="Output")
]


def simulate(
    study: opt.Study = None,
    model: opt.Model = None,
    gpu: opt.Gpu = None,
    tp: opt.Tp = None,
    replicas: opt.Replicas = None,
    dtype: opt.Dtype = None,
    max_num_batched_tokens: opt.Tokens = None,
    max_num_seqs: opt.Seqs = None,
    router: opt.Router = None,
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
    json_out: opt.Json = None,
    html: opt.Html = None,
    no_html: opt.NoHtml = False,
    out: opt.OutDir = None,
    trace_out: TraceOut = None,
    timeline: Timeline = None,
    interval: Annotated[
        bool, typer.Option(help="Work out the prediction interval: two more runs or four.", rich_help_panel="Output")
    ] = True,
) -> None:
    """Simulate the one deployment of a study, or of the options, and print its metrics.

    Examples:
      # the deployment of a study
      simserve simulate quickstart
      # no file
      simserve simulate --model meta-llama/Llama-3.1-8B --gpu h100_sxm --rate 4 --isl 1000 --osl 200
      # a closed loop, drawn
      simserve simulate --model Qwen/Qwen3-8B --gpu l40s --concurrency 32 --isl 1000 --osl 200 --timeline run.png
    """
    study = study_file(study)
    given = locals()
    flags = Flags(**{name: given[name] for name in Flags.__dataclass_fields__})
    assumed, moe_dtype = (None, None) if study is not None else weights_formats(model)
    deployment = {
        "gpu": gpu, "tensor_parallel_size": tp, "replicas": replicas, "dtype": dtype or assumed, "moe_dtype": moe_dtype,
        "max_num_batched_tokens": max_num_batched_tokens, "max_num_seqs": max_num_seqs, "router": router,
        "scheduler": scheduler, "kv_cache_dtype": kv_cache_dtype,
    }  # fmt: skip
    page = page_path(html, out, no_html)
    _simulate(study, flags, deployment, json_out, out, trace_out, timeline, page, interval=interval)


def asked_deployment(
    study: Path | None, flags: Flags, deployment: dict[str, Any], command: str = "simulate"
) -> StudySpec:
    """The study in the file, or that of the options; deployment: those of its fields that options give."""
    if study is None and deployment["gpu"] is None:
        whole = whole_command(command, flags.model)
        raise SpecError(f"give a study file, or --model, --gpu and the other options; try: {whole}",
                        file=COMMAND_LINE)  # fmt: skip
    sections = {"deployment": {k: v for k, v in deployment.items() if v is not None}}
    names = {"tensor_parallel_size": "--tp"}
    other = {names.get(k, f"--{k.replace('_', '-')}"): v for k, v in deployment.items()}
    asked = opt.read_study(study, flags, sections, other)
    check_names(asked, study)
    return asked


def _simulate(
    study: Path | None, flags: Flags, deployment: dict[str, Any], json_out: str | None, out: Path | None,
    trace_out: Path | None, timeline: Path | None, page: Path | None, *, interval: bool,
) -> None:  # fmt: skip

    from simserve.cli.search import say_where, store
    from simserve.explore.runner import play, prepare, simulated, with_interval
    from simserve.report.save import check_targets
    from simserve.report.series import series
    from simserve.report.terminal import print_simulation
    from simserve.report.timeline import check_timeline

    asked = asked_deployment(study, flags, deployment)
    limit = flags.requests if study is not None else None
    check_timeline(timeline)
    check_targets(out, json_out, trace_out, timeline, page)
    with located(study):
        inputs = prepare(asked, base_dir=opt.base_dir(study), requests=limit)
        run = play(inputs)
    result = simulated(inputs, run, with_interval(inputs, run) if interval else None)
    console = make_console()
    where = store(result, out, json_out, inputs.workload)
    if json_out != "-":
        print_simulation(console, result)
        say_where(console, where)
    if page is not None:
        write_page(console, result, [series(run, result.runs[0])], page, quiet=json_out == "-")
    _draw(run.trace, result, trace_out, timeline)


def _draw(trace: Trace, result: SearchResult, trace_out: Path | None, timeline: Path | None) -> None:
    """Write the trace for a viewer and the picture, if they were asked for."""
    from simserve.explore.result import describe
    from simserve.report.perfetto import trace_bytes
    from simserve.report.save import write_atomic
    from simserve.report.timeline import timeline_bytes

    if trace_out is not None:
        write_atomic(trace_out, trace_bytes(trace, trace_out))
    if timeline is not None:
        write_atomic(timeline, timeline_bytes(trace, timeline, f"{result.name}: {describe(result.runs[0])}"))
