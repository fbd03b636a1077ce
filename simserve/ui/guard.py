"""Who may talk to the page: this machine, on purpose. No other site, no name that leads here by a trick."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 64 << 20  # of an upload
PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
# A report has its script in itself; it may run, but neither reach the page around it nor ask for anything.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors 'self'"
)


def host_of(address: str) -> str:
    """The name in 'host:port', without brackets; '' for what is none."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def refusal(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """(status, why) if a request is not served: another Host, another site's Origin, no JSON, too much of it."""
    if host_of(headers.get("host", "")) not in LOOPBACK:
        return 403, "this page answers on this machine alone"
    if method in ("GET", "HEAD"):
        return None
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return 403, "another site asked"
    if headers.get("content-type", "").partition(";")[0] != "application/json":
        return 415, "must be JSON"
    if not headers.get("content-length", "").isdecimal():
        return 411, "without a length"
    if int(headers["content-length"]) > MOST_BYTES:
        return 413, f"more than {MOST_BYTES >> 20} MiB"
    return None


class Guard(BaseHTTPMiddleware):
    """Refuses, and says in every answer what the browser may do with it."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """See `refusal`."""
        refused = refusal(request.method, dict(request.headers))
        if refused is not None:
            return JSONResponse({"message": refused[1]}, status_code=refused[0])
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response
