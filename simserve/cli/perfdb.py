"""`simserve perfdb`: the measured kernel tables, and building them anew from their source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        framework = " ".join(str(entry[k]) for k in ("framework", "framework_version") if k in entry)
        shown.add_row(t.device, t.family, f"{t.rows:,}", f"{t.size_bytes:,}", package, framework)
    Console().print(shown)


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
