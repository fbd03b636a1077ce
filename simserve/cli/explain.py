"""`simserve explain SYSTEM`: what a scheduler or router models, from its own source."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from simserve.errors import UnknownName


def explain(
    system: Annotated[str | None, typer.Argument(help="Scheduler or router; none: list them.")] = None,
) -> None:
    """Print the citation, the claim, what is modelled and what is simplified in a system."""
    from simserve.policies import ROUTERS
    from simserve.systems import SCHEDULERS

    if system is None:
        typer.echo(f"schedulers: {', '.join(SCHEDULERS.names())}\nrouters: {', '.join(ROUTERS.names())}")
    elif system in SCHEDULERS.names():
        typer.echo(_page(SCHEDULERS.get(system), with_module=True))
    elif system in ROUTERS.names():
        typer.echo(_page(ROUTERS.get(system), with_module=False))
    else:
        raise UnknownName("system", system, [*SCHEDULERS.names(), *ROUTERS.names()])


def _page(part: type, *, with_module: bool) -> str:
    """The module's text for a system file (one file is one system), else the class's; then the knobs."""
    from simserve.sim.plan import knobs

    module = inspect.getmodule(part)
    about_module = inspect.getdoc(module) if with_module and module is not None else None
    text = about_module or inspect.getdoc(part) or ""
    lines = [text.strip()]
    table = knobs(part)
    if table:
        lines += ["", "Knobs:"]
    for name, knob in table.items():
        choices = ", ".join(map(str, knob["choices"]))
        values = f"one of {choices}" if choices else f"{knob['low']} to {knob['high']}"
        lines.append(f"  {name} = {knob['default']}: {knob['doc']} ({values})")
    return "\n".join(lines)
