"""The server behind the page: what it offers, what it refuses, and where it says that a mistake is."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from simserve.cli.main import main
from simserve.spec.study import load_study
from simserve.ui.asking import DEFAULTS
from simserve.ui.guard import MOST_BYTES, refusal
from simserve.ui.searches import Searches
from simserve.ui.server import make_app

SMALL: dict[str, Any] = {**DEFAULTS, "gpu": ["h100_sxm"], "gpus": 1, "requests": 40, "trials": 2, "isl": 200, "osl": 20}
NOT_SERVED = ("log.txt", "search.journal", "process", "..%2f..%2fx", "launch/..%2fstudy.yaml", "launch%2f..%2fx")
TRACE = "timestamp,prompt_tokens,output_tokens\n" + "\n".join(f"{second},100,10" for second in range(30)) + "\n"


@pytest.fixture
def searches(tmp_path: Path) -> Iterator[Searches]:
    """None yet; what a test leaves running is ended."""
    found = Searches(tmp_path, jobs=1)
    yield found
    found.stop_all()


@pytest.fixture
def client(tmp_path: Path, searches: Searches) -> TestClient:
    """A browser of this machine."""
    return TestClient(make_app(tmp_path, searches), base_url="http://127.0.0.1:8765")


def until(client: TestClient, name: str, *states: str) -> str:
    """The state of a search, once it is one of these."""
    deadline = time.monotonic() + 120
    while (state := client.get(f"/api/searches/{name}").json()["state"]) not in states and time.monotonic() < deadline:
        time.sleep(0.1)
    return str(state)


def test_what_the_form_begins_with_is_a_study(client: TestClient, tmp_path: Path) -> None:
    """The first click on Search is right; the text is a file as `simserve init` writes it."""
    found = client.get("/api/choices").json()
    text = client.post("/api/study", json=found["defaults"]).json()["yaml"]
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml")

    assert {gpu["name"] for gpu in found["gpus"]} >= {"h100_sxm", "l40s"}
    assert (study.model, study.slo.ttft_ms) == (DEFAULTS["model"], 500)  # type: ignore[union-attr]
    assert study.search is not None
    assert study.search.space.gpu == tuple(DEFAULTS["gpu"])
    assert "# Hugging Face id" in text


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"model": "Qwen/Qwen3-32"}, "model", "did you mean 'Qwen/Qwen3-32B'"), ({"model": ""}, "model", "--model"),
        ({"model": 5}, "model", "must be a name"), ({"model": "x" * 5000}, "model", "unknown"),
        ({"isl": ""}, "isl", "give a number"), ({"isl": "abc"}, "isl", "whole number"),
        ({"gpus": ""}, "gpus", "give a number"), ({"gpus": 10**9}, "gpus", "must be 1 to"),
        ({"gpus": 0}, "gpus", "must be 1 to"), ({"gpu": []}, "gpu", "at least one GPU"),
        ({"gpu": ["h10"]}, "gpu", "h10"), ({"rate": "fast"}, "rate", "must be a number"),
        ({"rate": ""}, "rate", "give a number"), ({"rate": -1}, "rate", "greater"),
        ({"isl": 0}, "isl", "greater"), ({"osl": 1.5}, "osl", "1.5"), ({"ttft": "soon"}, "ttft", "soon"),
        ({"percentile": 120}, "percentile", "less"), ({"objective": "best"}, "objective", "best"),
        ({"trials": 0}, "trials", "greater"), ({"seed": -1}, "seed", "greater"), ({"load": "trace"}, "trace", "CSV"),
        ({"load": "concurrency", "concurrency": 0}, "concurrency", "greater"), ({"requests": 0}, "requests", "greater"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_field(client: TestClient, change: dict[str, Any], field: str, said: str) -> None:
    """One line each."""
    answer = client.post("/api/study", json={**DEFAULTS, **change})

    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.json()
    assert said in answer.json()["message"]
    assert "command line" not in answer.json()["message"]
    assert "try: simserve" not in answer.json()["message"]


def test_a_search_from_beginning_to_end(client: TestClient, tmp_path: Path) -> None:
    """What it leaves is what the command leaves; progress has a line per trial; its numbers are those of the result."""
    text = client.post("/api/study", json=SMALL).json()["yaml"]
    name = client.post("/api/searches", json={"yaml": text}).json()["name"]
    assert "done" == until(client, name, "done", "failed", "stopped")
    lines = client.get(f"/api/searches/{name}/events").text.split("\n\n")
    seen = client.get(f"/api/searches/{name}/result").json()
    best = client.get(f"/api/searches/{name}/runs/1").json()
    saved = json.loads((tmp_path / name / "result.json").read_text())
    told = [json.loads(line.partition("data: ")[2]) for line in lines if line.startswith("id: ")]
    half = lines[0].split()[1]
    later = client.get(f"/api/searches/{name}/events", headers={"last-event-id": half}).text

    assert (name, 2) == ("llama-3.1-8b", [line["done"] for line in told][-1])
    assert sorted(run["tokens_per_s_per_gpu"] for run in saved["runs"]) == sorted(
        line["run"]["tokens_per_s_per_gpu"] for line in told if line["run"]
    )
    assert lines[-2].startswith("event: end")
    assert later == "\n\n".join(lines[1:])
    assert [run["ttft_ms"] for run in saved["runs"]] == [run["ttft_ms"] for run in seen["runs"]]
    assert "vllm serve" in best["launch"]
    assert best["interval"]["ranges"][0][0] == "TTFT P90, ms"
    assert 1 == pytest.approx(sum(share for _, share in best["sources"]), abs=0.01)
    assert client.get("/api/searches").json()[0]["lead"] == seen["lead"]
    assert "sandbox allow-scripts" in client.get(f"/files/{name}/report.html").headers["content-security-policy"]
    assert main(["explain", str(tmp_path / name), "--no-simulate"]) == 0
    again = client.post("/api/searches", json={"yaml": text}).json()["name"]
    assert again == "llama-3.1-8b-2"
    for address in (f"api/searches/{name}/runs/9", f"api/searches/{name}/runs/zz",
                    *(f"files/{name}/{file}" for file in NOT_SERVED)):  # fmt: skip
        refused = client.get(f"/{address}")
        assert (refused.status_code, bool(refused.json().get("message"))) == (422, True), address
    (tmp_path / name / "result.json").write_text("{")
    assert {"unreadable", "running", "done"} >= {one["state"] for one in client.get("/api/searches").json()}
    assert "is no JSON" in next(one["lead"] for one in client.get("/api/searches").json() if one["name"] == name)


def test_a_search_that_is_stopped_goes_on(client: TestClient, searches: Searches, tmp_path: Path) -> None:
    """With what it had simulated; a page that is started again finds it."""
    text = client.post("/api/study", json={**SMALL, "requests": 1500, "trials": 10, "gpus": 4}).json()["yaml"]
    name = client.post("/api/searches", json={"yaml": text}).json()["name"]
    deadline = time.monotonic() + 60
    while len(searches.progress(name)[0]) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.post(f"/api/searches/{name}/stop", json={}).json() == {"state": "stopped"}
    done = len(searches.progress(name)[0])
    other = Searches(tmp_path, jobs=1)
    later = TestClient(make_app(tmp_path, other), base_url="http://localhost:1")

    assert later.get("/api/searches").json() == [{"name": name, "state": "stopped"}]
    assert later.get(f"/api/searches/{name}").json()["resumable"]
    assert later.post(f"/api/searches/{name}/resume", json={}).json() == {"state": "running"}
    assert until(later, name, "done", "failed") == "done"
    assert len(json.loads((tmp_path / name / "result.json").read_text())["runs"]) <= 10
    assert other.progress(name)[0][done][1]["done"] >= 2
    assert later.post(f"/api/searches/{name}/resume", json={}).status_code == 422


def test_a_search_in_which_nothing_fits_says_so(client: TestClient) -> None:
    """The command's own line."""
    text = client.post("/api/study", json={**SMALL, "model": "meta-llama/Llama-3.1-70B", "gpu": ["l4"]}).json()["yaml"]
    name = client.post("/api/searches", json={"yaml": text}).json()["name"]

    assert until(client, name, "failed", "done") == "failed"
    assert "does not fit" in client.get(f"/api/searches/{name}").json()["message"]


def test_a_study_that_is_wrong_is_not_started(client: TestClient, tmp_path: Path) -> None:
    """Text that somebody edited: line and key; nothing is left behind."""
    text = client.post("/api/study", json=SMALL).json()["yaml"]
    wrong = client.post("/api/searches", json={"yaml": text.replace("ttft_ms", "tttf_ms")})
    none = client.post("/api/searches", json={"yaml": text.partition("\nsearch:")[0]})

    assert (wrong.status_code, none.status_code) == (422, 422)
    assert "did you mean 'ttft_ms'" in wrong.json()["message"]
    assert wrong.json()["line"] == 1 + text.partition("ttft_ms")[0].count("\n")
    assert "no 'search' section" in none.json()["message"]
    assert client.get("/api/searches").json() == []


def test_files_of_ones_own(client: TestClient, tmp_path: Path) -> None:
    """A trace is kept and searched, one that cannot be read is not."""
    kept = client.post("/api/files", json={"name": "mine.csv", "text": TRACE}).json()
    text = client.post("/api/study", json={**SMALL, "load": "trace", "trace": kept["path"]}).json()["yaml"]
    bad = client.post("/api/files", json={"name": "mine.csv", "text": "a,b\n1,2\n"})
    odd = client.post("/api/files", json={"name": "../x.csv", "text": TRACE})
    config = client.post("/api/files", json={"name": "config.json", "text": "{}"})

    assert kept["field"] == "trace"
    assert client.post("/api/searches", json={"yaml": text}).status_code == 200
    assert [bad.status_code, odd.status_code, config.status_code] == [422, 422, 422]
    assert Path(kept["path"]).read_text() == TRACE
    assert [Path(kept["path"])] == [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    odd_text = json.dumps({"name": "odd.csv", "text": TRACE + "\ud800"}).encode()
    sent = client.post("/api/files", content=odd_text, headers={"content-type": "application/json"})
    assert (sent.status_code, Path(sent.json()["path"]).read_text()) == (200, f"{TRACE}?")


def test_a_search_that_another_server_left_running(searches: Searches, client: TestClient, tmp_path: Path) -> None:
    """It is seen to run, and can be ended; one that was killed can be gone on with."""
    text = client.post("/api/study", json={**SMALL, "requests": 1500, "trials": 16, "gpus": 4}).json()["yaml"]
    name = client.post("/api/searches", json={"yaml": text}).json()["name"]
    other = Searches(tmp_path)
    while not (tmp_path / name / "search.journal").exists():
        time.sleep(0.02)
    assert other.state(name) == "running"
    searches._processes[name].kill()
    searches._processes[name].wait()
    assert (other.state(name), other.resumable(name), other.message(name)) == ("failed", True, "")
    other.resume(name)
    assert Searches(tmp_path).state(name) == "running"
    other.stop(name)
    assert Searches(tmp_path).state(name) == "stopped"


@pytest.mark.parametrize("address", [
    "/files/../pyproject.toml", "/files/%2e%2e/x", "/files/study/..%2f..%2fpyproject.toml", "/static/..%2fserver.py",
    "/files/none/result.json", "/api/searches/none", "/api/searches/none/events", "/api/searches/%2e%2e",
])  # fmt: skip
def test_nothing_else_is_served(client: TestClient, address: str) -> None:
    """No way out of the folder, no name that is not there."""
    assert client.get(address).status_code in (404, 422)


GOOD = {"host": "127.0.0.1:8765", "content-type": "application/json", "content-length": "2"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, None), ({"host": "localhost:8765"}, None), ({"host": "[::1]:8765"}, None), ({"host": "evil.test"}, 403),
        ({"host": "127.0.0.1.evil.test"}, 403), ({"host": ""}, 403), ({"host": "[x"}, 403),
        ({"origin": "http://127.0.0.1:8765"}, None), ({"origin": "http://evil.test"}, 403), ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403), ({"origin": "http://["}, 403), ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, None), ({"content-length": ""}, 411),
        ({"content-length": str(MOST_BYTES + 1)}, 413),
    ],
)  # fmt: skip
def test_who_may_ask(change: dict[str, str], status: int | None) -> None:
    """This machine, by its own names, from this page, in JSON, not too much."""
    found = refusal("POST", {**GOOD, **change})

    assert (None if found is None else found[0]) == status


def test_another_name_reads_nothing(client: TestClient) -> None:
    """A name of another site that leads to this machine gets no page either; answers say what a browser may do."""
    assert client.get("/", headers={"host": "evil.test"}).status_code == 403
    assert client.post("/api/study", json=SMALL, headers={"origin": "http://evil.test"}).status_code == 403
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another host, a port that is taken: one line, exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        codes = [main(["ui", "-o", str(tmp_path), "--no-open", *more]) for more in
                 (["--host", "0.0.0.0"], ["--port", port])]  # fmt: skip
    said = capsys.readouterr().err

    assert codes == [2, 2]
    assert "--host: the page is for this machine alone" in said
    assert f"--port: cannot be served at (address already in use); --port 0 takes one that is free (got {port})" in said
