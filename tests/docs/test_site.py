"""The built site: complete, its links resolve, it asks no foreign host, what it says of systems is theirs."""

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from simserve.systems import SCHEDULERS, SYSTEMS

pytestmark = pytest.mark.xdist_group("site")  # which is built once
ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    """`mkdocs build --strict` into `folder`. With --quiet it would not count warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)

    assert (done.returncode, [line for line in done.stderr.splitlines() if "WARNING" in line]) == (0, [])
    return folder


class Page(HTMLParser):
    """Ids, links, and addresses that a browser asks for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and LOADED[tag] in found:
            self.loaded.append(found[LOADED[tag]])
        if tag == "link" and FETCHED_LINKS & set(found.get("rel", "").split()):
            self.loaded.append(found["href"])


@cache
def page(path: Path) -> Page:
    """A page, read once."""
    found = Page()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def broken(site: Path) -> list[str]:
    """Internal links whose file or anchor is missing, external ones that are no address."""
    found = []
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # its addresses are of the root of a server
            continue
        for link in page(path).links + page(path).loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                well_formed = (
                    re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?|localhost(:\d+)?", parts.netloc) and " " not in link
                )
                found += [] if well_formed else [f"{path.name}: {link}"]
                continue
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchored = not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in page(target).ids
            if not target.is_file() or not anchored:
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def test_every_link_and_anchor_resolves(site: Path) -> None:
    """Also those that the hooks wrote, which MkDocs does not know."""
    assert broken(site) == []


def test_the_link_check_can_fail(tmp_path: Path) -> None:
    """A missing file, a missing anchor and an address that is none are found."""
    links = ('<a id="here">', '<a href="#here">', '<a href="#nowhere">', '<a href="gone.html">', '<a href="http://x">')
    (tmp_path / "a.html").write_text("".join(links), encoding="utf-8")

    assert broken(tmp_path) == ["a.html: #nowhere", "a.html: gone.html", "a.html: http://x"]


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """The settings of the site, on a page with a link and an anchor that are not there."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    own = {"docs_dir": str(tmp_path / "docs"), "hooks": [], "nav": None, "plugins": ["search"], "extra_css": []}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[a](gone.md) [b](#nowhere)\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**settings, **own}), encoding="utf-8")

    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")

    assert done.returncode != 0
    assert "'gone.md'" in done.stderr
    assert "'#nowhere'" in done.stderr


def test_no_page_asks_a_foreign_host(site: Path) -> None:
    """Scripts, styles, pictures and fonts are the site's own."""
    pages = list(site.rglob("*.html"))
    asked = {address for path in pages for address in page(path).loaded if urlsplit(address).netloc}
    foreign = re.compile(r"(url\(|@import)[\s\"']*(https?:)?//")
    styles = [path for path in site.rglob("*.css") if foreign.search(path.read_text())]

    assert asked == set()
    assert styles == []


def test_every_system_has_a_page_with_its_knobs(site: Path) -> None:
    """One page per file of simserve/systems; the index names every scheduler and system."""
    files = {path.stem for path in (ROOT / "simserve" / "systems").glob("*.py")} - {"__init__"}
    index = (site / "systems" / "index.html").read_text(encoding="utf-8")
    orca = (site / "systems" / "orca.html").read_text(encoding="utf-8")

    assert files == {path.stem for path in (site / "systems").glob("*.html")} - {"index"}
    assert [name for name in (*SCHEDULERS.names(), *SYSTEMS.names()) if f"<code>{name}</code>" not in index] == []
    assert "Simplified" in orca
    assert "max_num_batched_tokens" in orca


def test_no_mark_is_left(site: Path) -> None:
    """Every `generated` mark and snippet was replaced."""
    left = [path.name for path in site.rglob("*.html") if re.search(r"generated: |--8&lt;--", path.read_text())]

    assert left == []
