"""Chromium without a window, driven through its DevTools protocol over a pipe: opens a page, says what went wrong.

    with Browser(find_browser()) as browser:
        seen = browser.open(page, width=390, height=844, dark=True)
        seen.errors, seen.requests, browser.evaluate("document.title"), browser.screenshot()

The protocol over a pipe needs no library: messages are JSON, each ended by a zero byte, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def find_browser() -> str | None:
    """The Chromium of the environment variable CHROMIUM, or the first on the PATH; None without one."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


@dataclass
class Seen:
    """What happened while a page loaded: messages of errors, addresses that were asked for besides the page itself."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """One Chromium with one tab, ended with the `with` block. TimeoutError if it does not answer in `patience_s`."""

    def __init__(self, path: str, patience_s: float = 60.0) -> None:
        self._path, self._patience_s = path, patience_s
        self._number, self._buffer = 0, b""
        self._session = ""
        self._seen, self._page = Seen(), ""
        self._loaded = False

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="simserve.", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [self._path, *_SWITCHES, f"--user-data-dir={self._profile.name}", "about:blank"]
        # the shell puts the two ends where Chromium looks for them
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command], pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self._attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def _attach(self) -> None:
        targets = self._ask("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1366, height: int = 900, dark: bool = False) -> Seen:
        """Load a file and wait until its scripts have run and its figures are drawn."""
        self._seen, self._page, self._loaded = Seen(), page.resolve().as_uri(), False
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=self._page)
        deadline = time.monotonic() + self._patience_s
        while not self._loaded:
            self._note(self._receive(deadline))
        settle = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"
        self.evaluate(settle)
        return self._seen

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise; RuntimeError if it throws."""
        answer = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(_thrown(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG, below the fold as well."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number, deadline = self._number, time.monotonic() + self._patience_s
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error'].get('message')}")
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError(f"{self._path} does not answer")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError(f"{self._path} ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what an event tells of errors and requests; addresses inside the page (data:, blob:) are none."""
        method, told = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self._seen.errors.append(_thrown(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert", "warning"):
            self._seen.errors.append(" ".join(str(a.get("value", a.get("description", ""))) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self._seen.errors.append(str(told["entry"]["text"]))
        elif method == "Network.requestWillBeSent":
            address = str(told["request"]["url"])
            if address != self._page and not address.startswith(("data:", "blob:")):
                self._seen.requests.append(address)


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
