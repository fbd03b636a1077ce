"""All launch files of one configuration, for the folder `launch` beside a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError, UnknownName
from simserve.report.launch import dynamo, llmd, sglang, trtllm, vllm
from simserve.report.launch.bench import FILE, bench_script
from simserve.report.launch.framework import nothing_to_launch, simulated_as
from simserve.report.launch.placement import node_count, servers
from simserve.report.launch.requests_file import requests_of
from simserve.report.launch.served import Served, served_model

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.workload.requests import RequestSet

FRAMEWORKS = ("vllm", "sglang", "trtllm", "dynamo", "llm-d")


def launch_files(
    run: Outcome, provenance: Mapping[str, Any], *, name: str, workload: RequestSet | None,
    frameworks: tuple[str, ...] = FRAMEWORKS,
) -> dict[str, str]:  # fmt: skip
    """File name -> text: those of the frameworks, bench.sh, and the requests if they are in hand.

    name: of the study, which Kubernetes objects are called after. SpecError where no framework has the scheduler.
    """
    if (problem := nothing_to_launch(run.deployment)) is not None:
        raise SpecError(problem)
    model = served_model(provenance)
    makers = {
        "vllm": lambda: {"vllm.sh": vllm.launch_script(model, run, name="vllm.sh")},
        "sglang": lambda: sglang.files(model, run),
        "trtllm": lambda: trtllm.files(model, run),
        "dynamo": lambda: dynamo.files(model, run, name),
        "llm-d": lambda: llmd.files(model, run, name),
    }
    files: dict[str, str] = {}
    for framework in frameworks:
        if framework not in makers:
            raise UnknownName("framework", framework, FRAMEWORKS, key="--framework")
        files |= makers[framework]()
    requests = None if workload is None else requests_of(workload, run.deployment.block_size)
    files["bench.sh"] = bench_script(model, run, provenance, requests, frameworks)
    return files if requests is None else {**files, FILE: requests.text}


def launch_lines(model: Served, run: Outcome) -> list[str]:
    """The shell lines that start the framework that was simulated, then comments; one comment where there is none."""
    if (problem := nothing_to_launch(run.deployment)) is not None:
        return [f"# {problem}"]
    makers = {"vllm": vllm.launch_lines, "sglang": sglang.lines, "trtllm": trtllm.lines}
    return makers[simulated_as(run.deployment)](model, run)


def launch_script(model: Served, run: Outcome) -> str:
    """launch.sh: starts the framework that was simulated; for others than vLLM by the script in `launch`."""
    own = simulated_as(run.deployment)
    if own == "vllm":
        return vllm.launch_script(model, run)
    usage = "" if node_count(servers(run)) == 1 else "# on every node: launch.sh NODE\n"
    return f'#!/bin/sh\n{usage}exec sh "$(dirname "$0")/launch/{own}.sh" "$@"\n'
