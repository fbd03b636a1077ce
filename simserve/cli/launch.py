"""`simserve launch`: the files that start a configuration of a saved result, and the benchmark that checks it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simserve.asked.flags import words
from simserve.cli import complete


def launch(
    result: Annotated[Path, typer.Argument(help="result.json of `search` or `simulate`, or its folder.")],
    framework: Annotated[
        list[str] | None,
        typer.Option(help="vllm, sglang, trtllm, dynamo or llm-d (repeat, or separate by commas; default: all).",
                     autocompletion=complete.one_of(*complete.FRAMEWORKS)),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Which run, as in the table of the search (default: the recommended).", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder (default: `launch` beside the result).")
    ] = None,
) -> None:
    """Write launch files for vLLM, SGLang, TensorRT-LLM, NVIDIA Dynamo and llm-d, and bench.sh.

    What a framework cannot be told is a comment in its file. bench.sh plays the simulated requests against the server.

    Examples:
      # the recommended deployment, for all frameworks
      simserve launch simserve-results/quickstart
      # the second best, for vLLM
      simserve launch simserve-results/quickstart --framework vllm --rank 2
    """
    from simserve.explore.saved import read_saved, workload_of
    from simserve.report.launch import FRAMEWORKS, launch_files
    from simserve.report.launch.saved import run_of
    from simserve.report.save import make_folder, write_atomic

    saved = read_saved(result)
    beside = result if result.is_dir() else result.parent
    record = saved.document["provenance"]
    files = launch_files(
        run_of(saved, rank), record, name=str(saved.document.get("name")), workload=workload_of(saved),
        frameworks=tuple(words(framework, "--framework")) or FRAMEWORKS,
    )  # fmt: skip
    folder = out if out is not None else beside / "launch"
    make_folder(folder)
    for name, text in files.items():
        typer.echo(str(write_atomic(folder / name, text)))
