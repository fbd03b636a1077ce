"""The addresses of the page; every mistake is an answer {message, field, line} with status 422."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from simserve.asked.unexpected import in_words
from simserve.errors import SimserveError, SpecError
from simserve.report.save import make_folder, write_atomic
from simserve.ui import answers, asking
from simserve.ui.guard import REPORT_POLICY, Guard
from simserve.ui.searches import DONE, FILES, RUNNING, STUDY, Searches

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLL_S = 0.2
_GRACE_S = 5
_UPLOAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:csv|csv\.gz|json|jsonl)")


def make_app(folder: Path, searches: Searches) -> FastAPI:
    """The application over a folder of searches."""
    app = FastAPI(title="simserve", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)
    app.exception_handler(SimserveError)(_mistake)
    app.exception_handler(RequestValidationError)(_odd)
    app.exception_handler(Exception)(_unexpected)
    _page(app)
    _ask(app, folder, searches)
    _watch(app, searches)
    _read(app, searches)
    return app


async def _mistake(_: Request, error: Exception) -> Response:
    assert isinstance(error, SimserveError)
    return JSONResponse(asking.problem(error), status_code=422)


async def _odd(_: Request, error: Exception) -> Response:
    return JSONResponse({"message": "no such address", "field": ""}, status_code=422)


async def _unexpected(_: Request, error: Exception) -> Response:
    """What no other handler knows, in a line; 500 for a fault of ours."""
    text, ours = in_words(error)
    return JSONResponse({"message": text, "field": ""}, status_code=500 if ours else 422)


class Server(uvicorn.Server):
    """Serves until Ctrl-C; pages that watch a search are let go of first, for a server waits for them."""

    def __init__(self, folder: Path, searches: Searches) -> None:
        app = make_app(folder, searches)
        super().__init__(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=_GRACE_S))
        self._searches = searches

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C and its like."""
        self._searches.closing = True
        super().handle_exit(sig, frame)


def _page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> Response:
        return FileResponse(STATIC / "page.html", media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        known = {path.name: path for path in STATIC.iterdir()}
        if name not in known:
            raise SpecError("no such file", value=name)
        return FileResponse(known[name], media_type=TYPES[known[name].suffix])

    @app.get("/plotly.js")
    def plotly() -> Response:
        from plotly.offline import get_plotlyjs

        return Response(get_plotlyjs(), media_type="text/javascript")

    @app.get("/api/choices")
    def choices() -> dict[str, Any]:
        return asking.choices()


def _ask(app: FastAPI, folder: Path, searches: Searches) -> None:
    @app.post("/api/study")
    async def study(request: Request) -> dict[str, str]:
        form = await _object(request)
        return {"yaml": await run_in_threadpool(asking.study_text, form, folder)}

    @app.post("/api/searches")
    async def start(request: Request) -> dict[str, str]:
        text = str((await _object(request)).get("yaml", ""))
        name = await run_in_threadpool(asking.check_text, text, folder / "study")
        return {"name": await run_in_threadpool(searches.start, text, name)}

    @app.post("/api/files")
    async def upload(request: Request) -> dict[str, Any]:
        sent = await _object(request)
        return await run_in_threadpool(_kept, folder / FILES, str(sent.get("name", "")), str(sent.get("text", "")))


def _watch(app: FastAPI, searches: Searches) -> None:
    @app.get("/api/searches")
    def listing() -> list[dict[str, Any]]:
        return [_line(searches, name) for name in searches.names()]

    @app.get("/api/searches/{name}")
    def one(name: str) -> dict[str, Any]:
        text = (searches.place(name) / STUDY).read_text(encoding="utf-8")
        return {**_line(searches, name), "yaml": text, "slo": asking.slo_of(text), "message": searches.message(name),
                "resumable": searches.resumable(name)}  # fmt: skip

    @app.get("/api/searches/{name}/events")
    def events(name: str, request: Request) -> Response:
        searches.place(name)
        seen = request.headers.get("last-event-id", "0")
        start = int(seen) if seen.isdecimal() else 0
        return StreamingResponse(_events(searches, name, start), media_type="text/event-stream")

    @app.post("/api/searches/{name}/stop")
    def stop(name: str) -> dict[str, str]:
        searches.stop(name)
        return {"state": searches.state(name)}

    @app.post("/api/searches/{name}/resume")
    def resume(name: str) -> dict[str, str]:
        searches.resume(name)
        return {"state": searches.state(name)}


def _read(app: FastAPI, searches: Searches) -> None:
    @app.get("/api/searches/{name}/result")
    def result(name: str) -> dict[str, Any]:
        return answers.overview(searches.place(name))

    @app.get("/api/searches/{name}/runs/{rank}")
    def run(name: str, rank: int) -> dict[str, Any]:
        return answers.details(searches.place(name), rank)

    @app.get("/files/{name}/{file:path}")
    def file(name: str, file: str) -> Response:
        found = FileResponse(answers.servable(searches.place(name), file))
        if found.media_type == "text/html":
            found.headers["Content-Security-Policy"] = REPORT_POLICY
        return found


async def _object(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; SpecError for anything else."""
    try:
        sent = await request.json()
    except ValueError:
        raise SpecError("is no JSON") from None
    if not isinstance(sent, dict):
        raise SpecError("must be an object")
    return sent


def _line(searches: Searches, name: str) -> dict[str, Any]:
    """A search in the list: its state, and what it recommends if it is done."""
    state = searches.state(name)
    found: dict[str, Any] = {"name": name, "state": state}
    if state == DONE:
        try:
            seen = answers.overview(searches.place(name))
        except SimserveError as error:
            return {"name": name, "state": "unreadable", "lead": str(error)}
        best = None if seen["recommended"] is None else seen["runs"][seen["recommended"]]
        found |= {"lead": seen["lead"], "model": seen["model"], "best": best}
    return found


async def _events(searches: Searches, name: str, seen: int) -> AsyncIterator[str]:
    """Lines of progress as they come, after the first `seen` bytes, then the state in which the search ended."""
    while True:
        state = await run_in_threadpool(searches.state, name)
        lines, seen = await run_in_threadpool(searches.progress, name, seen)
        for place, line in lines:
            yield f"id: {place}\ndata: {json.dumps(line)}\n\n"
        if searches.closing:
            return
        if state != RUNNING:
            told = {"state": state, "message": searches.message(name), "resumable": searches.resumable(name)}
            yield f"event: end\ndata: {json.dumps(told)}\n\n"
            return
        await asyncio.sleep(_POLL_S)


def _kept(folder: Path, name: str, text: str) -> dict[str, Any]:
    """Keep an uploaded trace or config.json; its path, and what it is. SpecError if simserve cannot read it.

    A file is called after its content besides, so that no other one takes its place under a search that uses it.
    """
    from simserve.spec.model import load_model
    from simserve.workload.columns import trace_columns

    if not _UPLOAD.fullmatch(name):
        raise SpecError("must be called something like trace.csv or config.json", value=name)
    data = text.encode("utf-8", errors="replace")
    stem, _, suffix = name.partition(".")
    own = f"{'model' if stem == 'config' else stem}-{hashlib.sha256(data).hexdigest()[:8]}"
    is_model = name.endswith(".json")
    path = folder / own / "config.json" if is_model else folder / f"{own}.{suffix}"
    new = not path.exists()
    make_folder(path.parent)
    write_atomic(path, data)
    try:
        if is_model:
            return {"path": str(path.parent), "about": load_model(str(path.parent)).name, "field": "model"}
        trace_columns(path)
    except SimserveError:
        if new:
            path.unlink()
        raise
    return {"path": str(path), "about": f"{text.count(chr(10)):,} lines", "field": "trace"}
