"""`simserve hw`: the accelerators, hosts and links that are known, with the source of every number."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simserve.errors import UnknownName
from simserve.report.console import make_console

app = typer.Typer(help="Hardware: list it, show one with its sources.")


@app.command("list")
def list_hardware() -> None:
    """GPUs with memory, bandwidth, peak and price; then hosts and links by name."""
    from rich.table import Table

    from simserve.spec.hardware import gpu_names, host_names, link_names, load_gpu
    from simserve.units import format_bytes

    table = Table("GPU", "memory", "GB/s", "bf16 TFLOP/s", "fp8 TFLOP/s", "link", "USD/h")
    for name in gpu_names():
        g = load_gpu(name)
        peak = {t: f"{g.peak_flops[t] / 1e12:.0f}" if t in g.peak_flops else "-" for t in ("bf16", "fp8")}
        table.add_row(g.name, format_bytes(g.memory_bytes), f"{g.memory_bandwidth_bytes_per_s / 1e9:.0f}",
                      peak["bf16"], peak["fp8"], g.interconnect, f"{g.price_usd_per_hour:.2f}")  # fmt: skip
    console = make_console()
    console.print(table)
    console.print(f"hosts: {', '.join(host_names())}\nlinks: {', '.join(link_names())}", highlight=False)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="GPU, host or link.")]) -> None:
    """Every field of one description, each with its source."""
    spec = _load_any(name).model_dump(mode="json")
    sources = spec.pop("sources")
    for field, value in spec.items():
        entries = value.items() if isinstance(value, dict) else [(None, value)]
        for key, entry in entries:
            path = field if key is None else f"{field}.{key}"
            source = f"   [{sources[path]}]" if path in sources else ""
            typer.echo(f"{path}: {entry}{source}")


def _load_any(name: str) -> Any:
    from simserve.spec import hardware

    for load in (hardware.load_gpu, hardware.load_host, hardware.load_link):
        try:
            return load(name)
        except UnknownName:
            continue
    known = [*hardware.gpu_names(), *hardware.host_names(), *hardware.link_names()]
    raise UnknownName("GPU, host or link", name, known)
