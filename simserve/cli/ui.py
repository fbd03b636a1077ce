"""`simserve ui`: the page, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from simserve.errors import MissingData, SpecError

RESULTS = Path("simserve-results")


def ui(
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = 8765,
    host: Annotated[str, typer.Option(help="127.0.0.1, localhost or ::1; no other.")] = "127.0.0.1",
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the searches.")] = RESULTS,
    jobs: Annotated[int | None, typer.Option(help="Processes of a search (default: one per CPU).", min=1)] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Serve a page to ask for a search, watch it, and explore its result; Ctrl-C ends it.

    Examples:
      # at http://127.0.0.1:8765, in your browser
      simserve ui
      # with other results, for a browser at the other end of `ssh -L 8765:127.0.0.1:8765`
      simserve ui -o results --no-open
    """
    try:
        import fastapi  # noqa: F401
        import plotly  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingData(f"{error.name} is not installed; pip install 'simserve[ui]'") from None
    from simserve.report.save import make_folder
    from simserve.ui.guard import LOOPBACK
    from simserve.ui.searches import Searches
    from simserve.ui.server import Server

    if host not in LOOPBACK:
        raise SpecError(f"the page is for this machine alone: {', '.join(LOOPBACK)}", file="command line",
                        key="--host", value=host)  # fmt: skip
    make_folder(out)
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    searches = Searches(out.resolve(), jobs)
    server = Server(out.resolve(), searches)
    typer.echo(f"simserve: {address} (results in {out}; Ctrl-C ends it)")
    if show:
        typer.launch(address)
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # as Ctrl-C: searches end with the page
        signal.signal(number, _interrupted)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        searches.closing = True
        for name in searches.stop_all():
            again = f"cd {out / name} && simserve search study.yaml -o . --resume"
            typer.echo(f"simserve: stopped {name}; resume it on the page, or: {again}", err=True)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """A socket on the port, so that one that is taken is told before anything starts."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise SpecError(f"cannot be served at ({why}); --port 0 takes one that is free",
                        file="command line", key="--port", value=port) from None  # fmt: skip
