"""One page per file of `simserve/systems`: its header and its knobs, as `simserve explain` prints them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from typing import Any

import simserve.systems
from docsgen.markdown import cell, code, prose, table
from simserve.policies import EVICTIONS, ROUTERS
from simserve.registry import Registry
from simserve.sim.plan import knobs
from simserve.systems import SCHEDULERS, SYSTEMS

KINDS: dict[str, Registry[Any]] = {"scheduler": SCHEDULERS, "system with pools": SYSTEMS}
OTHERS: dict[str, Registry[Any]] = {"Routers": ROUTERS, "Eviction orders": EVICTIONS}
_HEAD = re.compile(r"^([A-Z][a-z]+)((?: \[[^\]]*\])?):(?=\s|$)")


@cache
def page_names() -> list[str]:
    """Modules of the package, one page each."""
    return sorted(module.name for module in pkgutil.iter_modules(simserve.systems.__path__))


def header(name: str) -> str:
    """The docstring of a system's file."""
    return inspect.getdoc(importlib.import_module(f"simserve.systems.{name}")) or ""


def parts(name: str) -> list[tuple[str, str, type]]:
    """(kind, registered name, class) of all that a file registers."""
    module = f"simserve.systems.{name}"
    return [
        (kind, part, registry.get(part))
        for kind, registry in KINDS.items() for part in registry.names() if registry.get(part).__module__ == module
    ]  # fmt: skip


def system_page(name: str) -> str:
    """Title, what it registers, the header's paragraphs, the knobs."""
    title, _, rest = header(name).partition("\n")
    short, _, long = title.partition(":")
    lines = [f"# {prose(short.rstrip('.'))}", ""]
    if long:
        lines += [f"*{prose(long.strip())}*", ""]
    registered = [f"{kind} `{part}`" for kind, part, _ in parts(name)]
    lines += [f"File `simserve/systems/{name}.py`; registers {', '.join(registered) or 'nothing'}.", ""]
    lines += [*paragraphs(rest), ""]
    for kind, part, cls in parts(name):
        found = knobs(cls)
        if found:
            lines += [f"## Knobs of the {kind} `{part}`", "", _where(kind), "", knob_table(cls), ""]
    return "\n".join(lines)


def _where(kind: str) -> str:
    if kind == "scheduler":
        return ("In a study: `max_num_batched_tokens` and `max_num_seqs` are keys of `deployment`, the others go under "
                "`deployment.scheduler_options`.")  # fmt: skip
    return "In a study they go under `deployment.system_options`."


def paragraphs(text: str) -> list[str]:
    """`Claim: ...` and the like as paragraphs with a bold beginning."""
    found: list[str] = []
    for line in text.strip().splitlines():
        head = _HEAD.match(line)
        if head:
            found.append(f"**{head[1]}**{prose(head[2])}: {prose(line[head.end() :].strip())}")
        elif not line.strip():
            found.append("")
        elif found and found[-1]:
            found[-1] += f"\n{prose(line.strip())}"
        else:
            found.append(prose(line.strip()))
    return [part for paragraph in found if paragraph for part in (paragraph, "")]


def knob_table(cls: type) -> str:
    """Name, type, default, range or choices, meaning."""
    rows = []
    for name, knob in knobs(cls).items():
        choices, default = knob["choices"], knob["default"]
        values = ", ".join(code(c) for c in choices) if choices else f"{knob['low']} to {knob['high']}"
        rows.append((code(name), type(default).__name__, code(default), values, cell(knob["doc"])))
    return table(("knob", "type", "default", "range", "meaning"), rows)


def index_page() -> str:
    """All schedulers and systems with their pages; routers and eviction orders with their knobs."""
    lines = ["# Systems", "", "One file of `simserve/systems` is one paper or engine; these pages are its header, as",
             "`simserve explain NAME` prints it. What each leaves out stands under *Simplified*.", ""]  # fmt: skip
    rows = []
    for name in page_names():
        title = header(name).partition("\n")[0].rstrip(".")
        short, _, long = title.partition(":")
        own = ", ".join(f"{code(part)} ({kind})" for kind, part, _ in parts(name))
        rows.append((f"[{cell(short)}]({name}.md)", own, cell(long.strip())))
    lines += [table(("page", "registers", "what it is"), rows), ""]
    for kind, registry in OTHERS.items():
        lines += [f"## {kind}", ""]
        about = [(part, registry.get(part)) for part in registry.names()]
        rows = [(code(part), cell((inspect.getdoc(cls) or "").replace("\n", " ")), _knobs(cls)) for part, cls in about]
        lines += [table(("name", "rule", "knobs"), rows), ""]
    return "\n".join(lines)


def _knobs(cls: type) -> str:
    return "; ".join(
        f"{code(name)} = {code(knob['default'])}: {cell(knob['doc'])}" for name, knob in knobs(cls).items()
    )
