"""Where the measured data and step logs are, for tests that need them."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_process() -> Iterator[None]:
    """Searches that do not say how many processes play in this one: starting others takes longer than tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simserve.explore.executors.cpus", lambda: 1)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured data beside the checkout; a test that needs it is skipped without it.

    SIMSERVE_REQUIRE_DATA=1 makes its absence a failure, so that continuous integration cannot pass by skipping.
    """
    if not SHARED.is_dir():
        if os.environ.get("SIMSERVE_REQUIRE_DATA"):
            pytest.fail(f"{SHARED} is missing")
        pytest.skip("the folder of measured data is not beside this checkout")
    return SHARED


@dataclass
class Seen:
    """What happened on a page: messages of errors, addresses that were asked for besides the page's own host."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Tab:
    """A page in Chromium, at the size and in the colours that were last asked for."""

    def __init__(self, browser: Any) -> None:
        self._browser, self._context = browser, None
        self.page: Any = None

    def open(self, place: Path | str, *, width: int = 1366, height: int = 900, dark: bool = False) -> Seen:
        """Load a file or an address and wait until its scripts have run and its figures are drawn."""
        self.close()
        address = place.resolve().as_uri() if isinstance(place, Path) else place
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", is_mobile=width < 600
        )
        self.page, seen = self._context.new_page(), Seen()
        own = address if isinstance(place, Path) else address.partition("#")[0]
        self.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        self.page.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("request", lambda r: None if r.url.startswith((own, "data:", "blob:"))
                     else seen.requests.append(r.url))  # fmt: skip
        self.page.goto(address)
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")
        return seen

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(script)

    def close(self) -> None:
        """Away with the page."""
        if self._context is not None:
            self._context.close()
            self._context = None


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """A tab of a headless Chromium; skipped without one, but a failure with SIMSERVE_REQUIRE_BROWSER=1.

    The one of the environment variable CHROMIUM, or the first on the PATH. Closed with the module, for while Playwright
    runs no other event loop can.
    """
    found = [path for name in (os.environ.get("CHROMIUM", ""), *CHROMIUM) if name and (path := shutil.which(name))]
    if not found:
        if os.environ.get("SIMSERVE_REQUIRE_BROWSER"):
            pytest.fail("no Chromium on the PATH, nor named by CHROMIUM")
        pytest.skip("no Chromium on the PATH, nor named by CHROMIUM")
    from playwright.sync_api import sync_playwright

    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=switches)
        own = Tab(browser)
        yield own
        own.close()
        browser.close()
