"""`simserve capacity`: the highest load that given GPUs bear within the SLO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.flags import Flags, weights_formats
from simserve.asked.names import located
from simserve.cli import answers
from simserve.cli import options as opt
from simserve.cli.study_file import study_file
from simserve.errors import Infeasible
from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.explore.capacity import Capacity
    from simserve.explore.repeats import Repeat
    from simserve.explore.runner import Inputs
    from simserve.report.answers import Answer
    from simserve.spec.study import StudySpec



def capacity(
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
    seeds: answers.Seeds = 5,
    tolerance: Annotated[
        float, typer.Option(help="Of each seed's bracket, in percent of the load.", rich_help_panel="Runs")
    ] = 2.0,
    confidence: answers.Confidence = 95.0,
    jobs: answers.Jobs = 1,
    json_out: opt.Json = None,
    out: opt.OutDir = None,
) -> None:
    """Find the highest load at which a study's one deployment keeps its SLO, by bisection over several seeds.

    The load is the arrival rate (of a trace: its rate), or the concurrency of a closed loop; the study's is where the
    search begins.

    Examples:
      # how much load the study's deployment bears
      simserve capacity quickstart
      # no file
      simserve capacity --model meta-llama/Llama-3.1-8B --gpu h100_sxm --rate 4 --isl 1000 --osl 200 --ttft 500
    """
    from simserve.cli.simulate import asked_deployment

    study = study_file(study)
    given = locals()
    flags = Flags(**{name: given[name] for name in Flags.__dataclass_fields__})
    assumed, moe_dtype = (None, None) if study is not None else weights_formats(model)
    deployment = {
        "gpu": gpu, "tensor_parallel_size": tp, "replicas": replicas, "dtype": dtype or assumed, "moe_dtype": moe_dtype,
        "max_num_batched_tokens": max_num_batched_tokens, "max_num_seqs": max_num_seqs, "router": router,
        "scheduler": scheduler, "kv_cache_dtype": kv_cache_dtype,
    }  # fmt: skip
    relative = answers.share(tolerance, "--tolerance")
    asked = asked_deployment(study, flags, deployment, "capacity")
    answers.check_answer_targets(out, json_out)
    limit = flags.requests if study is not None else None
    with located(study):
        inputs, played, found = _find(asked, study, limit, seeds, relative, confidence / 100, answers.processes(jobs))
    _show(inputs, played, found, out, json_out)


def _find(
    asked: StudySpec, study: Path | None, limit: int | None, seeds: int, tolerance: float, confidence: float, jobs: int
) -> tuple[Inputs, list[Repeat], Capacity]:
    from simserve.explore.capacity import Deployed
    from simserve.explore.capacity import capacity as find
    from simserve.explore.feasible import split
    from simserve.explore.repeats import repeats
    from simserve.explore.runner import prepare

    inputs = prepare(asked, base_dir=opt.base_dir(study), requests=limit)
    split(inputs.model, [inputs.study.deployment], longest_tokens=inputs.load.shortest_tokens)
    played = repeats(inputs.study, seeds, base_dir=opt.base_dir(study), requests=limit)
    arrivals = inputs.study.workload.arrivals
    play = Deployed(inputs.model, inputs.study.deployment, inputs.study.slo)
    with make_console(stderr=True).status("searching the load"):
        found = find(play, played, rate_rps=arrivals.rate_rps if arrivals is not None else None,
                     tolerance=tolerance, confidence=confidence, jobs=jobs)  # fmt: skip
    return inputs, played, found


def _show(inputs: Inputs, played: list[Repeat], found: Capacity, out: Path | None, json_out: str | None) -> None:
    from simserve.report.questions import print_capacity

    console = make_console()
    if json_out != "-":
        print_capacity(console, inputs.study.name, inputs.study.deployment, inputs.study.slo, found)
    answers.store_answer(console, _answer(inputs, played, found), out, json_out)
    if (problem := found.problem()) is not None:
        raise Infeasible(f"no bracket was found: {problem}")


def _answer(inputs: Inputs, played: list[Repeat], found: Capacity) -> Answer:
    from simserve.report.answers import answer

    study = inputs.study
    content: dict[str, Any] = {
        "deployment": study.deployment.model_dump(mode="json"), "num_gpus": study.deployment.num_gpus,
        "slo": None if study.slo is None else study.slo.model_dump(mode="json"),
        "seeds": [r.seed for r in played], **found.to_dict(),
    }  # fmt: skip
    record = answers.provenance_of(inputs, played)
    return answer("capacity", study.name, inputs.model.name, record, content, found.rows())
