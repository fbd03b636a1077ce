"""The page in a real Chromium: ask, be told what is wrong, watch, stop, resume, explore, come back after a restart."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("ui")
WIDER = "document.documentElement.scrollWidth - window.innerWidth"
POINTS = "document.querySelectorAll('#{} .points path').length"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 32000,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "_name_or_path": "mine",
}  # fmt: skip


class Server:
    """`simserve ui` as a process over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self._process: Any = None

    def start(self) -> None:
        """Serve, at a port that is free."""
        command = [sys.executable, "-u", "-m", "simserve", "ui", "--no-open", "--port", "0", "--jobs", "1"]
        command += ["-o", str(self.folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = self._process.stdout.readline()
        self.address = re.search(r"http://\S+", said)[0]  # type: ignore[index]

    def stop(self) -> tuple[int, str]:
        """Ctrl-C: (exit code, what it said on stderr)."""
        self._process.send_signal(signal.SIGINT)
        _, said = self._process.communicate(timeout=60)
        return self._process.returncode, said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests here."""
    found = Server(tmp_path_factory.mktemp("ui"))
    found.start()
    yield found
    found.stop()


def until(tab: Any, script: str, patience_s: float = 60.0) -> None:
    """Wait for the page; its policy lets no script of ours wait inside it."""
    deadline = time.monotonic() + patience_s
    while not tab.evaluate(script):
        assert time.monotonic() < deadline, tab.page.inner_text("main")[:500]
        time.sleep(0.05)


def ready(tab: Any) -> None:
    """The form is filled in."""
    until(tab, "document.getElementById('yaml').value.includes('search:')")


def asked(tab: Any, **fields: str) -> None:
    """Fill fields in and search."""
    for name, text in fields.items():
        tab.page.fill(f"#{name}", text)
    tab.page.click("#search")


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(1280, 900, False), (390, 844, True)], ids=["laptop light", "phone dark"]
)
def test_from_the_form_to_the_report(tab: Any, server: Server, width: int, height: int, dark: bool) -> None:
    """Progress is seen, the answer is that of the result, every part of it can be looked at, nothing is too wide."""
    seen = tab.open(server.address, width=width, height=height, dark=dark)
    ready(tab)
    empty = tab.evaluate(WIDER)
    asked(tab, requests="150", trials="8", gpus="2")
    until(tab, "/of 8 deployments/.test(document.getElementById('status').textContent)")
    until(tab, "!document.getElementById('answer').hidden")
    until(tab, "document.querySelectorAll('#details li').length > 0")
    lead = tab.page.inner_text("#lead")
    rows = tab.page.locator("#runs tbody tr")
    tab.page.click("#runs th:nth-child(6) button")
    times = [float(row.split("\t")[5].replace(",", "")) for row in rows.all_inner_texts()]
    rows.nth(1).click()
    until(tab, "document.querySelectorAll('#details .tile').length > 0")
    tab.page.locator("#report").scroll_into_view_if_needed()
    frame = tab.page.frame_locator("#report")
    frame.locator("#pareto .main-svg").first.wait_for(timeout=30_000)

    assert empty <= 0
    assert tab.evaluate(WIDER) <= 0
    assert lead.startswith("Run 1 x ")
    assert frame.locator("p.lead strong").first.inner_text() == lead.removeprefix("Run ")
    assert times == sorted(times)
    assert 1 <= tab.evaluate(POINTS.format("front")) <= 8
    assert "vllm serve" in tab.page.inner_text("#details pre")
    assert "result.json" in tab.page.inner_text("#files")
    assert (seen.errors, seen.requests) == ([], [])


def test_a_mistake_is_told_beside_its_field(tab: Any, server: Server) -> None:
    """And gone when it is mended; nothing that was filled in is lost."""
    tab.open(server.address)
    ready(tab)
    tab.page.fill("#rate", "7")
    tab.page.fill("#model", "Qwen/Qwen3-32")
    told = tab.page.locator("#model + .because")
    told.wait_for()
    text = told.inner_text()
    tab.page.fill("#model", "Qwen/Qwen3-32B")
    told.wait_for(state="detached")

    assert "did you mean 'Qwen/Qwen3-32B'?" in text
    assert tab.page.input_value("#rate") == "7"
    assert "rate_rps: 7" in tab.page.input_value("#yaml")


def test_a_mistake_in_the_text_is_told_at_its_line(tab: Any, server: Server) -> None:
    """The line is selected; the fields of the form are not to blame."""
    tab.open(server.address)
    ready(tab)
    tab.page.click("#study summary")
    tab.page.fill("#yaml", tab.page.input_value("#yaml").replace("ttft_ms", "tttf_ms"))
    tab.page.click("#search")
    tab.page.locator("#yaml + .because").wait_for()
    chosen = "const y = document.getElementById('yaml'); y.value.slice(y.selectionStart, y.selectionEnd)"

    assert "did you mean 'ttft_ms'" in tab.page.inner_text("#yaml + .because")
    assert "tttf_ms" in tab.evaluate(f"(() => {{ {chosen.replace('; y', '; return y')} }})()")
    assert tab.page.locator(".because").count() == 1


def test_stop_and_resume_after_a_restart(tab: Any, server: Server) -> None:
    """Ctrl-C on the server stops its searches and says how to go on; the next one shows them, and resumes."""
    tab.open(server.address)
    ready(tab)
    asked(tab, requests="2000", trials="16")
    until(tab, "/^[2-9] of 16/.test(document.getElementById('status').textContent)")
    page = tab.evaluate("location.hash")
    code, said = server.stop()
    server.start()
    tab.open(f"{server.address}/#earlier")
    until(tab, "document.querySelectorAll('#searches tbody tr').length > 0")
    first = tab.page.locator("#searches tbody tr").first.inner_text()
    tab.page.locator("#searches a").first.click()
    tab.page.locator("#resume").wait_for()
    tab.page.click("#resume")
    until(tab, "!document.getElementById('answer').hidden", 120)

    assert code == 0
    assert f"stopped {page.removeprefix('#run=')}; resume it on the page" in said
    assert "stopped" in first
    assert 16 >= tab.page.locator("#runs tbody tr").count() >= 2


def test_a_model_and_a_trace_of_ones_own(tab: Any, server: Server, tmp_path: Path) -> None:
    """Files go in at the form; the study text names them; it can be edited by hand and asked again."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rows = "\n".join(f"{0.2 * i:.1f},{100 + i},{20 + i % 7}" for i in range(80))
    (tmp_path / "mine.csv").write_text(f"arrival,input_tokens,output_tokens\n{rows}\n")
    tab.open(server.address)
    ready(tab)
    tab.page.set_input_files("#config", tmp_path / "config.json")
    until(tab, "document.getElementById('model').value.includes('/files/model-')")
    tab.page.check("input[name=load][value=trace]")
    tab.page.set_input_files("#trace", tmp_path / "mine.csv")
    until(tab, "document.getElementById('yaml').value.includes('/files/mine-')")
    tab.page.click("#study summary")
    text = tab.page.input_value("#yaml")
    tab.page.fill("#yaml", text.replace("trials: 40", "trials: 3"))
    tab.page.click("#search")
    until(tab, "!document.getElementById('answer').hidden", 90)
    count = tab.page.locator("#runs tbody tr").count()
    tab.page.click("#actions button")
    until(tab, "!document.getElementById('new').hidden")

    assert count <= 3
    assert "trials: 3" in tab.page.input_value("#yaml")
    assert tab.page.locator("#edited").is_visible()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads what the kernel says of sockets")
def test_it_listens_on_this_machine_alone(server: Server) -> None:
    """At the loopback address, and at no other of this machine."""
    port = int(server.address.rpartition(":")[2])
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in table if row[3] == "0A"]
    listening = {address for address, number in places if int(number, 16) == port}

    assert listening == {"0100007F"}  # 127.0.0.1, as the kernel writes it
