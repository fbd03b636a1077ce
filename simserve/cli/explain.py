"""`simserve explain`: what a scheduler or router models, from its own source; or why a saved result is what it is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from simserve.asked.flags import COMMAND_LINE
from simserve.cli import answers, complete
from simserve.cli import options as opt
from simserve.errors import SpecError, UnknownName
from simserve.registry import Registry


def explain(
    system: Annotated[
        str | None,
        typer.Argument(help="Scheduler, system, router or eviction order; or a results folder; none: list them.",
                       autocompletion=complete.explained),
    ] = None,
    simulate: Annotated[
        bool, typer.Option(help="Of a result: play the winner and its neighbours again where the result is silent.")
    ] = True,
    json_out: opt.Json = None,
    out: opt.OutDir = None,
) -> None:
    """Print what a system models and what it simplifies; or why a saved result is what it is.

    Of a result: what the winner beat and by what, which constraint binds, what one more replica or a looser SLO would
    buy, and which numbers were measured.

    Examples:
      # list schedulers, systems, routers and eviction orders
      simserve explain
      # what a scheduler models, and its knobs
      simserve explain vllm
      # why a search found what it found
      simserve explain simserve-results/quickstart
    """
    from simserve.policies import EVICTIONS, ROUTERS
    from simserve.systems import SCHEDULERS, SYSTEMS

    kinds: dict[str, Registry[Any]] = {
        "schedulers": SCHEDULERS, "systems with pools": SYSTEMS, "routers": ROUTERS, "eviction orders": EVICTIONS,
    }  # fmt: skip
    parts = next((p for p in kinds.values() if system is not None and system in p.names()), None)
    if system is not None and parts is None and _is_path(system):
        _explain_result(Path(system), simulate, out, json_out)
        return
    if out is not None or json_out is not None:
        option = "--json" if json_out is not None else "--out"
        raise SpecError("is for a result; a system is only printed", file=COMMAND_LINE, key=option)
    if system is None:
        typer.echo("\n".join(f"{kind}: {', '.join(parts.names())}" for kind, parts in kinds.items()))
        return
    if parts is None:
        raise UnknownName("system", system, {name for parts in kinds.values() for name in parts.names()})
    typer.echo(_page(parts.get(system), with_module=parts in (SCHEDULERS, SYSTEMS)))
    if parts is SCHEDULERS and system in SYSTEMS.names():
        typer.echo("\n".join(_knob_lines("Knobs of the system (system_options):", SYSTEMS.get(system))))


def _is_path(text: str) -> bool:
    """What exists, or is written like a path."""
    return Path(text).exists() or text.endswith(".json") or "/" in text or "\\" in text


def _explain_result(path: Path, simulate: bool, out: Path | None, json_out: str | None) -> None:
    from simserve.explore.explained import explain as find
    from simserve.explore.saved import read_saved
    from simserve.report.answers import answer
    from simserve.report.console import make_console
    from simserve.report.explained import print_explanation

    saved = read_saved(path)
    answers.check_answer_targets(out, json_out)
    with make_console(stderr=True).status("simulating"):
        found = find(saved, simulate=simulate)
    console = make_console()
    if json_out != "-":
        print_explanation(console, found)
    document = saved.document
    record = document["provenance"]
    content = {"seeds": [record.get("seed")], **found.to_dict()}
    done = answer("explanation", str(document.get("name")), str(document.get("model")), record, content, found.rows())
    answers.store_answer(console, done, out, json_out)


def _page(part: type, *, with_module: bool) -> str:
    """The module's text for a system file (one file is one system), else the class's; then the knobs."""
    module = inspect.getmodule(part)
    about_module = inspect.getdoc(module) if with_module and module is not None else None
    text = about_module or inspect.getdoc(part) or ""
    return "\n".join([text.strip(), *_knob_lines("Knobs:", part)])


def _knob_lines(title: str, part: type) -> list[str]:
    """The knobs of a part, one a line; nothing if it has none."""
    from simserve.sim.plan import knobs

    table = knobs(part)
    lines = ["", title] if table else []
    for name, knob in table.items():
        choices = ", ".join(map(str, knob["choices"]))
        values = f"one of {choices}" if choices else f"{knob['low']} to {knob['high']}"
        lines.append(f"  {name} = {knob['default']}: {knob['doc']} ({values})")
    return lines
