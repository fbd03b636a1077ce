"""`simserve explain SYSTEM`: what a scheduler or router models, from its own source."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from simserve.errors import UnknownName
from simserve.registry import Registry


def explain(
    system: Annotated[
        str | None, typer.Argument(help="Scheduler, system, router or eviction order; none: list them.")
    ] = None,
) -> None:
    """Print the citation, the claim, what is modelled and what is simplified in a system."""
    from simserve.policies import EVICTIONS, ROUTERS
    from simserve.systems import SCHEDULERS, SYSTEMS

    kinds: dict[str, Registry[Any]] = {
        "schedulers": SCHEDULERS, "systems with pools": SYSTEMS, "routers": ROUTERS, "eviction orders": EVICTIONS,
    }  # fmt: skip
    if system is None:
        typer.echo("\n".join(f"{kind}: {', '.join(parts.names())}" for kind, parts in kinds.items()))
        return
    for parts in kinds.values():
        if system in parts.names():
            typer.echo(_page(parts.get(system), with_module=parts in (SCHEDULERS, SYSTEMS)))
            return
    raise UnknownName("system", system, [name for parts in kinds.values() for name in parts.names()])


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
