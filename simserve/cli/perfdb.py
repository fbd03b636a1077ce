"""`simserve perfdb`: the measured kernel tables, and building them anew from their source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Kernel tables: list them, build them from a source.")


@app.command("list")
def list_tables() -> None:
    """One line per table: device, family, rows, size, origin."""
    from rich.console import Console
    from rich.table import Table

    from simserve.perf.store import list_tables as all_tables

    shown = Table("device", "table", "rows", "bytes", "package", "framework")
    for t in all_tables():
        entry = t.provenance
        package = " ".join(str(entry[k]) for k in ("package", "package_version") if k in entry)
        shown.add_row(t.device, t.family, f"{t.rows:,}", f"{t.size_bytes:,}", package, _frameworks(entry))
    Console().print(shown)


def _frameworks(entry: Mapping[str, Any]) -> str:
    """What the rows were measured with: 'vllm 0.24.0, nccl 2.29.2'."""
    found: list[str] = []
    for source in entry.get("sources", ()):
        version = str(source.get("version", ""))
        # .../<software>/<version>/<file>: a library's own benchmark names the framework that ran it.
        folders = str(source.get("file", "")).split("/")[-3:-1]
        known = len(folders) == 2 and folders[1] == version
        name = folders[0] if known else str(source.get("framework", "")).lower()
        found.append(f"{name} {version}".strip())
    return ", ".join(dict.fromkeys(word for word in found if word))


@app.command("build")
def build(
    source: Annotated[str, typer.Option("--from", help="Where the numbers come from, e.g. aiconfigurator.")],
    device: Annotated[list[str] | None, typer.Option(help="Devices (default: all of the source).")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path("perfdb"),
    package_dir: Annotated[Path | None, typer.Option(help="An unpacked package, not the installed one.")] = None,
) -> None:
    """Build the tables of a source into the perfdb folder, with their provenance."""
    from simserve.cli.options import words
    from simserve.perf.importers import importer

    for path in importer(source)(words(device), out, package_dir):
        typer.echo(f"wrote {path}")
