"""The pages in a headless Chromium: no error on the console, no request to any address, figures drawn, choices work."""

from pathlib import Path
from typing import Any

import pytest

from simserve.cli.main import main

pytestmark = pytest.mark.xdist_group("report")  # which is made once
STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 6}
  prompt_tokens: {kind: fixed, value: 500}
  output_tokens: {kind: fixed, value: 50}
  requests: 60
slo: {ttft_ms: 500, tpot_ms: 15}
search:
  space: {gpu: [h100_sxm, l40s, a100_sxm], dtype: [bf16, fp8], replicas: [1, 2]}
  trials: 10
"""
DRAWN = "[...document.querySelectorAll('.figure')].filter(f => f.querySelector('.main-svg')).length"
WIDER = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small search."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "tiny.yaml").write_text(STUDY)
    assert main(["search", str(folder / "tiny.yaml"), "-o", str(folder)]) == 0
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(1366, 900, False), (390, 844, True)], ids=["laptop light", "phone dark"]
)
def test_the_report_opens(tab: Any, page: Path, width: int, height: int, dark: bool) -> None:
    """No error, no request, all seven figures, nothing wider than the screen, text that stands out from the page."""
    seen = tab.open(page, width=width, height=height, dark=dark)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")

    assert (seen.errors, seen.requests) == ([], [])
    assert tab.evaluate(DRAWN) == 7
    assert tab.evaluate(WIDER) <= 0
    assert background == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert tab.evaluate("document.getElementById('pareto')._fullLayout.font.color") == (
        "#e4e7eb" if dark else "#1d2126"
    )


EDGE = "Math.{}(...[...document.querySelectorAll('#pareto {}')].map(e => e.getBoundingClientRect().{}))"
RIGHT, LEFT = (EDGE.format(*p) for p in (("max", ".ytitle", "right"), ("min", ".ytick", "left")))
BOTTOM = "document.querySelector('#pareto .annotation').getBoundingClientRect().bottom"
STAR = "[...document.querySelectorAll('#pareto .points path')].at(-1).getBoundingClientRect().bottom"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_squeezed_or_covered(tab: Any, page: Path, width: int) -> None:
    """Titles beside numbers, the bound's name below the best mark, boxes of one width, room for long texts."""
    tab.open(page, width=width)
    long = "Math.min(...[...document.querySelectorAll('td.long')].filter(c => c.offsetWidth).map(c => c.offsetWidth))"
    tiles = "[...new Set([...document.querySelectorAll('.tile')].map(t => Math.round(t.offsetWidth)))]"
    names = "[...document.querySelectorAll('#facts td:first-child')].map(c => c.scrollWidth - c.clientWidth)"
    facts = "document.querySelector('#facts td:first-child').offsetWidth"

    assert tab.evaluate(RIGHT) <= tab.evaluate(LEFT)
    assert tab.evaluate(BOTTOM) > tab.evaluate(STAR)
    assert len(tab.evaluate(tiles)) == 1
    assert tab.evaluate(long) >= 240
    assert max(tab.evaluate(names)) == 0
    assert tab.evaluate(facts) >= 75


def test_choices_and_sorting_work(tab: Any, page: Path) -> None:
    """The axis of the front goes to tokens/s per user, a table to the order of its column and back."""
    seen = tab.open(page)
    tab.evaluate("document.querySelectorAll('input[name=pareto-view]')[1].click()")
    sort = "document.querySelectorAll('#runs th')[3].click();"
    column = "[...document.querySelectorAll('#runs tbody tr')].map(r => Number(r.cells[3].dataset.key))"
    up, down = (tab.evaluate(sort + column) for _ in range(2))

    assert "user" in tab.evaluate("document.getElementById('pareto')._fullLayout.xaxis.title.text")
    assert (up, down) == (sorted(up), sorted(up, reverse=True))
    assert len(up) == 10
    assert seen.errors == []


def test_the_accuracy_report_opens(tab: Any, tmp_path: Path) -> None:
    """The page of `simserve validate` as well."""
    records, page = tmp_path / "points.csv", tmp_path / "page.html"
    records.write_text("id,model,gpu,framework,concurrency,prompt_tokens,output_tokens,ttft_ms,tpot_ms\n"
                       "one,meta-llama/Llama-3.1-8B,h100_sxm,vllm,4,512,64,50,7\n")  # fmt: skip
    assert main(["validate", "--records", str(records), "--html", str(page)]) == 0
    seen = tab.open(page, dark=True)

    assert (seen.errors, seen.requests) == ([], [])
    assert tab.evaluate(DRAWN) >= 2


def test_what_must_not_be_is_seen(tab: Any, tmp_path: Path) -> None:
    """A thrown error, a message on the console, and an address that is asked for are each reported."""
    page = tmp_path / "bad.html"
    script = "console.error('told'); throw new Error('thrown')"
    page.write_text(f"<img src='http://127.0.0.1:9/x.png'><script>{script}</script>")
    seen = tab.open(page)

    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("told" in error for error in seen.errors)
    assert any("thrown" in error for error in seen.errors)
