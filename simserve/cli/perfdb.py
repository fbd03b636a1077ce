"""`simserve perfdb`: the measured kernel tables, and building them anew from their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from simserve.cli import complete
from simserve.cli.app import App
from simserve.cli.collect import collect
from simserve.errors import SpecError
from simserve.report.console import make_console

HELP = """Kernel tables: list, show, query, plot, validate, build, collect.

Examples:
  # list them
  simserve perfdb
  # one of them
  simserve perfdb show h100_sxm gemm
  # the price of one operation
  simserve perfdb query h100_sxm gemm m=512 n=4096 k=14336
"""
app = App(help=HELP)
app.command("collect")(collect)


@app.callback(invoke_without_command=True)
def _top(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_tables()


@app.command("list")
def list_tables() -> None:
    """One line per table: device, family, rows, size, origin.

    Examples:
      # all of them
      simserve perfdb list
      # those of one GPU
      simserve perfdb list | grep h100_sxm
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from simserve.perf.store import list_tables as all_tables

    shown = Table(box=SIMPLE_HEAD)
    for header in ("device", "table", "rows", "KB", "source"):
        shown.add_column(header, no_wrap=header != "source", justify="right" if header in ("rows", "KB") else "left")
    for t in all_tables():
        entry = t.provenance
        package = " ".join(str(entry[k]) for k in ("package", "package_version") if k in entry)
        source = ": ".join(word for word in (package, _frameworks(entry)) if word)
        shown.add_row(t.device, t.family, f"{t.rows:,}", f"{t.size_bytes / 1000:,.0f}", source)
    make_console().print(shown)


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
    """Build the tables of a source into the perfdb folder, with their provenance.

    Examples:
      # the tables that ship
      simserve perfdb build --from aiconfigurator
      # of one GPU, elsewhere
      simserve perfdb build --from aiconfigurator --device h100_sxm -o my-data/perfdb
    """
    from simserve.asked.flags import words
    from simserve.perf.importers import importer

    if out.exists() and not out.is_dir():
        raise SpecError("is no folder", key="--out", value=str(out))
    try:
        written = importer(source)(words(device), out, package_dir)
    except (KeyError, AttributeError) as error:
        raise SpecError(f"its files are not as expected: {error}", key="--from", value=source) from None
    for path in written:
        typer.echo(f"wrote {path}")


Device = Annotated[
    str, typer.Argument(help="Device, e.g. h100_sxm; `simserve perfdb list`.", autocompletion=complete.devices)
]
FamilyName = Annotated[str, typer.Argument(help="Table family, e.g. gemm.", autocompletion=complete.families)]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the family.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("show")
def show(device: Device, family: FamilyName, as_json: AsJson = False) -> None:
    """Rows, ranges of the keys, source, licence, what was dropped, and the left-out error of one table.

    Examples:
      # matrix products on an H100
      simserve perfdb show h100_sxm gemm
      # the same for a program
      simserve perfdb show h100_sxm gemm --json
    """
    from simserve.perf.store import show as shown

    found = shown(device, family)
    if as_json:
        _print_json(found)
        return
    typer.echo(f"{device} {family}: {found['rows']:,} rows")
    for name, values in found["columns"].items():
        listed = values.get("values")
        span = "" if listed else f"{values['distinct']} values, {values['min']} to {values['max']}"
        typer.echo(f"  {name}: {span or ', '.join(map(str, listed))}")
    for name, value in found["provenance"].items():
        typer.echo(f"  {name}: {value}")


@app.command("query")
def query(device: Device, family: FamilyName, keys: Keys = None, as_json: AsJson = False) -> None:
    """The price of one operation, with its source and the error of its table.

    Examples:
      # a matrix product in bf16
      simserve perfdb query h100_sxm gemm m=512 n=4096 k=14336
      # and in fp8
      simserve perfdb query h100_sxm gemm m=512 n=4096 k=14336 dtype=fp8
    """
    from simserve.perf.query import query as price_of

    price = price_of(device, family, _pairs(keys))
    if as_json:
        _print_json(asdict(price))
        return
    error = "" if price.error_fraction is None else f", left-out error {100 * price.error_fraction:.1f} % (median)"
    typer.echo(f"{price.ns / 1000:.3f} us  {price.source} from {price.table}{error}")
    if price.note:
        typer.echo(f"  {price.note}")


@app.command("plot")
def plot(
    device: Device,
    family: FamilyName,
    keys: Keys = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="FILE.png, .svg or .pdf.")] = Path("kernels.png"),
) -> None:
    """Draw one table: a heat map over its last two keys, grey where nobody measured; KEY=VALUE fixes others.

    Examples:
      # a heat map
      simserve perfdb plot h100_sxm gemm -o gemm.png
      # at one value of k
      simserve perfdb plot h100_sxm gemm k=4096 -o gemm.svg
    """
    from simserve.report.kernel_plot import kernel_picture
    from simserve.report.save import check_targets, write_atomic
    from simserve.report.timeline import check_timeline

    check_timeline(out)
    check_targets(None, None, out)
    write_atomic(out, kernel_picture(device, family, {k: str(v) for k, v in _pairs(keys).items()}, out))
    typer.echo(f"wrote {out}")


def _pairs(keys: list[str] | None) -> dict[str, int | str]:
    """KEY=VALUE words; SpecError for a word without '='."""
    found: dict[str, int | str] = {}
    for word in keys or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise SpecError("must be KEY=VALUE", file="command line", key=word)
        found[name] = value
    return found


def _print_json(data: object) -> None:
    from simserve.report.document import json_safe
    from simserve.report.save import to_json

    typer.echo(to_json(json_safe(data)), nl=False)


@app.command("validate")
def validate(
    device: Annotated[
        list[str] | None, typer.Option(help="Devices (default: all with tables).", autocompletion=complete.devices)
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Families (default: all).", autocompletion=complete.families)
    ] = None,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="OUT", help="Write the rows to OUT; '-' prints them.")
    ] = None,
) -> None:
    """Leave rows and blocks of rows out of each table and predict them: how far off interpolation is, in percent.

    Examples:
      # all tables of one GPU
      simserve perfdb validate --device h100_sxm
      # one family of all GPUs, saved
      simserve perfdb validate --family gemm --json errors.json
    """
    from simserve.asked.flags import words
    from simserve.perf.leave_out import validate as validated
    from simserve.report.document import json_safe
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out)
    rows = [asdict(row) for row in validated(words(device), words(family))]
    if json_out is not None and json_out != "-":
        write_atomic(Path(json_out), to_json(json_safe(rows)))
    if json_out == "-":
        _print_json(rows)
        return
    _print_errors(rows)


def _print_errors(rows: list[dict[str, Any]]) -> None:
    """One line per table and kind of error; a bar holds for the median when a block is left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD)
    for header in ("device", "table", "left out", "median %", "p90 %", "signed %", "points", "bar %"):
        shown.add_column(header, no_wrap=header in ("device", "table"))
    for row in rows:
        error, bar = row["error"], row["bar"]
        numbers = [f"{100 * error[name]:.1f}" for name in ("median", "p90", "signed_median")]
        verdict = "" if bar is None else f"{100 * bar:g} {'met' if error['median'] <= bar else 'missed'}"
        kind = row["kind"].removeprefix("leave_").removesuffix("_out")
        shown.add_row(row["device"], row["family"], kind, *numbers, f"{error['points']:,}", verdict)
    missed = [row for row in rows if row["bar"] is not None and row["error"]["median"] > row["bar"]]
    console = make_console()
    console.print(shown)
    total = sum(row["bar"] is not None for row in rows)
    console.print(f"{total - len(missed)} of {total} bars met", highlight=False)
