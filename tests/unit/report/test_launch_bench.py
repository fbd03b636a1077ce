"""bench.sh plays what was simulated: requests.jsonl row by row, and the commands of the tools."""

import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.cli.main import main
from simserve.explore.objective import Outcome
from simserve.explore.saved import inputs_of, read_saved
from simserve.report.launch import FRAMEWORKS, Served
from simserve.report.launch.bench import _lengths, bench_script
from simserve.report.launch.names import known
from simserve.report.launch.requests_file import MOST, WHOLE, requests_of
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.workload import WorkloadSpec
from simserve.workload.build import build_workload
from simserve.workload.requests import RequestSet

MODEL = Served("m")
DRAWN: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_rps": 2.5}, "prompt_tokens": {"kind": "uniform", "low": 100, "high": 200},
    "output_tokens": {"kind": "uniform", "low": 5, "high": 10}, "requests": 20,
}  # fmt: skip


def workload(content: list[Any] | None = None, **columns: Any) -> RequestSet:
    """Three requests at 1, 1.5 and 4 ms."""
    prompts = [sum(n for _, n in c) for c in content] if content is not None else [30, 40, 50]
    made = {
        "arrival_ns": np.array([1_000_000, 1_500_000, 4_000_000]), "prompt_tokens": np.array(prompts),
        "output_tokens": np.array([3, 4, 5]), "priority": np.zeros(3, dtype=np.int64), "concurrency": None,
        "provenance": {}, "content": content,
    }  # fmt: skip
    return RequestSet(**{**made, **columns})


def rows(requests: RequestSet, block_size: int = 16) -> tuple[list[dict[str, Any]], int]:
    """(the rows of the file, tokens of a block)."""
    found = requests_of(requests, block_size)
    assert found is not None
    return [json.loads(line) for line in found.text.splitlines()], found.block_tokens


def script(spec: dict[str, Any], frameworks: tuple[str, ...] = (), **fields: Any) -> str:
    """bench.sh of a workload."""
    made = build_workload(WorkloadSpec.model_validate(spec), seed=1)
    deployment = DeploymentSpec(**fields)
    run = Outcome(deployment, deployment.num_gpus, 1000, 1.0, 1.0, 1.0, 1.0, 1.0, (), 0, {})
    provenance = {"study": {"workload": spec}, "seed": 1, "workload": {"requests": len(made)}}
    return bench_script(MODEL, run, provenance, requests_of(made, 16), frameworks)


def command(text: str, tool: str) -> dict[str, str]:
    """Flag -> value of one tool's command."""
    line = next(line for line in text.splitlines() if line.strip().startswith(tool))
    words = [*shlex.split(line), ""]
    return {w: ("" if n.startswith("--") else n) for w, n in pairwise(words) if w.startswith("--")}


def test_rows_without_anything_shared() -> None:
    """Times from the first request on; one id per prompt, for `vllm bench serve` sends ids as tokens."""
    found, size = rows(workload())

    assert size == WHOLE
    assert found == [
        {"timestamp": 0.0, "input_length": 30, "output_length": 3, "hash_ids": [0]},
        {"timestamp": 0.5, "input_length": 40, "output_length": 4, "hash_ids": [1]},
        {"timestamp": 3.0, "input_length": 50, "output_length": 5, "hash_ids": [2]},
    ]


def test_shared_prefixes_are_equal_ids() -> None:
    """A block ends where the shared piece does, if a power of two can; else it is the engine's own."""
    found, size = rows(workload([((7, 64), (-1, 20)), ((7, 64), (-3, 40)), ((8, 64), (-5, 1))]))

    assert size == 64
    assert [row["hash_ids"] for row in found] == [[0, 1], [0, 2], [3, 4]]
    found, size = rows(workload([((7, 70), (-1, 20)), ((7, 70), (-3, 40)), ((8, 64), (-5, 1))]))
    assert size == 16
    assert [row["hash_ids"][:5] for row in found[:2]] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 6]]


def test_the_same_block_after_another_prefix_is_another_id() -> None:
    """KV depends on all that is before it."""
    found, _ = rows(workload([((1, 32), (3, 32)), ((2, 32), (3, 32)), ((1, 32), (3, 32))]))

    assert [row["hash_ids"] for row in found] == [[0, 1], [2, 3], [0, 1]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90)), min_size=1, max_size=4), min_size=3, max_size=3)
)
def test_ids_share_as_many_blocks_as_prompts_do(pieces: list[list[tuple[int, int]]]) -> None:
    """For any two prompts: equal ids are the whole blocks of their common prefix, and ids cover each prompt."""
    content = [tuple((name * 1000 + i, n) for i, (name, n) in enumerate(prompt)) for prompt in pieces]
    found, size = rows(workload(content))
    tokens = [[(name, i) for name, n in prompt for i in range(n)] for prompt in content]
    for row, own in zip(found, tokens, strict=True):
        assert len(row["hash_ids"]) == -(-len(own) // size)
    for a in range(3):
        for b in range(a):
            common = next(
                (i for i, (x, y) in enumerate(zip(tokens[a], tokens[b], strict=False)) if x != y),
                min(len(tokens[a]), len(tokens[b])),
            )
            ids = zip(found[a]["hash_ids"], found[b]["hash_ids"], strict=False)
            equal = next((i for i, (x, y) in enumerate(ids) if x != y), None)
            shared = common // size + (tokens[a] == tokens[b] and len(tokens[a]) % size > 0)
            assert equal in (shared, None)
            assert equal is not None or shared >= min(len(found[a]["hash_ids"]), len(found[b]["hash_ids"]))


def test_turns_of_a_session_wait_for_one_another() -> None:
    """The later turn has its new tokens and the pause before it, for the tool puts the conversation in front."""
    content = [((-1, 30),), ((-3, 40),), ((-1, 30), (-2, 3), (-5, 50))]
    found, _ = rows(workload(
        content, session=np.array([0, 1, 0]), after=np.array([-1, -1, 0]), delay_ns=np.array([0, 0, 2_500_000]),
    ))  # fmt: skip

    assert found[0] == {
        "session_id": "s0", "timestamp": 0.0, "input_length": 30, "output_length": 3, "hash_ids": [0, 1]
    }  # fmt: skip
    assert found[2] == {"session_id": "s0", "delay": 2.5, "input_length": 50, "output_length": 5}


def test_too_many_requests_are_not_written() -> None:
    """Then the script says so, and sends nothing that was not simulated."""
    many = MOST + 1
    big = RequestSet(
        np.arange(many), np.ones(many, dtype=np.int64), np.ones(many, dtype=np.int64), np.zeros(many, dtype=np.int64),
        None, {},
    )  # fmt: skip

    assert requests_of(big, 16) is None
    assert requests_of(workload([((7, 3), (-1, 100_000_000)), ((7, 3),), ((7, 3),)]), 16) is None


def test_open_loop() -> None:
    """Replayed by vLLM and AIPerf with the file's times; drawn anew by SGLang, at the same rate and lengths."""
    text = script(DRAWN)
    vllm, aiperf, sglang = (command(text, tool) for tool in ("vllm bench", "aiperf profile", "python -m sglang"))

    assert {"--dataset-name": "timed_trace", "--num-prompts": "20", "--seed": "1", "--dataset-path": "requests.jsonl",
            "--timed-trace-sec-multiplier": "0.001", "--base-url": "$URL"}.items() <= vllm.items()  # fmt: skip
    assert "--fixed-schedule" in aiperf
    assert {"--custom-dataset-type": "mooncake_trace", "--extra-inputs": "ignore_eos:true"}.items() <= aiperf.items()
    assert {"--request-rate": "2.5", "--random-input-len": "200", "--random-output-len": "10",
            "--random-range-ratio": "0.5", "--num-prompts": "20"}.items() <= sglang.items()  # fmt: skip
    assert "simulated otherwise" not in text


def test_a_common_prefix_counts_as_prompt() -> None:
    """SGLang's benchmark shares none, so its prompts are as long as those that were simulated, prefix included."""
    prefixes = {"count": 2, "tokens": {"kind": "fixed", "value": 300}}
    sglang = command(script({**DRAWN, "prefixes": prefixes}), "python -m sglang")

    assert {"--random-input-len": "500", "--random-range-ratio": "0.5"}.items() <= sglang.items()


def test_closed_loop() -> None:
    """So many in flight, and no times."""
    text = script({**DRAWN, "arrivals": {"kind": "closed_loop", "concurrency": 8}})
    vllm, aiperf, sglang = (command(text, tool) for tool in ("vllm bench", "aiperf profile", "python -m sglang"))

    assert [vllm["--max-concurrency"], aiperf["--concurrency"], sglang["--max-concurrency"]] == ["8"] * 3
    assert "--no-self-timed" in vllm
    assert "--no-fixed-schedule" in aiperf
    assert "--request-rate" not in sglang


def test_what_is_only_approximate_is_said() -> None:
    """Gamma arrivals and lognormal lengths in SGLang's benchmark; turns in vLLM's; classes in all."""
    lognormal = {"kind": "lognormal", "mean": 100, "std": 50}
    text = script({**DRAWN, "arrivals": {"kind": "gamma", "rate_rps": 3, "cv": 2}, "prompt_tokens": lognormal})
    sessions, classes = {"turns": {"kind": "fixed", "value": 2}}, [{"name": "a", "share": 1}]
    turns = script({**DRAWN, "sessions": sessions, "classes": classes})

    assert "# arrivals are Poisson here, simulated were gamma" in text
    assert "simulated otherwise" in text
    assert "# vllm bench serve sends no turn after the answer to the one before: use aiperf" in turns
    assert 'case "${1:-aiperf}" in' in turns
    assert command(turns, "aiperf profile")["--endpoint-type"] == "chat"
    assert "# classes: the tools send no priorities" in turns


@pytest.mark.parametrize("kind", ["poisson", "gamma", "constant", "closed_loop"])
@pytest.mark.parametrize("extra", [{}, {"prefixes": {"count": 2, "tokens": {"kind": "fixed", "value": 64}}}])
def test_every_flag_of_a_tool_is_one_of_the_named_version(kind: str, extra: dict[str, Any]) -> None:
    """Against the tables made from the packages; the script parses."""
    knobs = {"closed_loop": {"concurrency": 3}, "gamma": {"rate_rps": 2, "cv": 0.5}}.get(kind, {"rate_rps": 2})
    text = script({**DRAWN, **extra, "arrivals": {"kind": kind, **knobs}})
    tables = {
        "vllm bench": known("vllm").programs["bench"], "aiperf profile": known("aiperf").programs["profile"],
        "python -m sglang": known("sglang").programs["bench"],
    }  # fmt: skip

    for tool, table in tables.items():
        used = set(command(text, tool))
        assert used <= table, used - table
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "frameworks", "port"),
    [({}, (), 8000), ({"scheduler": "sglang", "replicas": 2}, (), 9000), ({"scheduler": "sglang"}, (), 8000),
     ({"replicas": 2}, ("sglang",), 9000), ({"replicas": 2}, ("sglang", "dynamo"), 9000),
     ({"replicas": 2}, ("dynamo",), 8000), ({"scheduler": "sglang", "replicas": 2}, ("llm-d",), 8000)],
)  # fmt: skip
def test_requests_go_to_the_router_if_there_is_one(
    fields: dict[str, Any], frameworks: tuple[str, ...], port: int
) -> None:
    """Of the framework that is launched, which need not be the simulated one; the address may be given as well."""
    assert f'URL="${{2:-http://127.0.0.1:{port}}}"' in script(DRAWN, frameworks, **fields)


def test_several_servers_without_a_router_need_an_address(tmp_path: Path) -> None:
    """The first of two would get the load of both; what is reached elsewhere is said."""
    text = script(DRAWN, FRAMEWORKS, replicas=2)
    (tmp_path / "bench.sh").write_text(text)
    found = subprocess.run(["sh", "bench.sh", "vllm"], cwd=tmp_path, text=True, capture_output=True, check=False)

    assert found.returncode != 0
    assert "the URL of what spreads requests, in front of all servers of vllm" in found.stderr
    assert "# of sglang it is http://127.0.0.1:9000\n" in text
    assert "# of dynamo it is http://127.0.0.1:8000\n" in text


STUDY = """\
name: small
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: uniform, low: 100, high: 200}
  output_tokens: {kind: fixed, value: 10}
  requests: 30
slo: {ttft_ms: 500, tpot_ms: 50}
deployment: {gpu: h100_sxm}
search: {space: {tensor_parallel_size: [1, 2], max_num_seqs: [64, 128]}, max_gpus: 2}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "study.yaml").write_text(STUDY)
    assert main(["search", str(folder / "study.yaml"), "-o", str(folder / "out"), "--requests", "20"]) == 0
    return folder / "out"


def test_launch_writes_the_same_files_from_a_saved_result(searched: Path, tmp_path: Path) -> None:
    """The search wrote them beside the result; from result.json alone they are the same, requests included."""
    assert main(["launch", str(searched / "result.json"), "-o", str(tmp_path / "again")]) == 0
    written = {p.name: p.read_text() for p in (searched / "launch").iterdir()}

    assert {"vllm.sh", "sglang.sh", "trtllm.sh", "trtllm-engine.yaml", "dynamo.yaml", "llm-d-modelservice.yaml",
            "llm-d-router.yaml", "bench.sh", "requests.jsonl"} == set(written)  # fmt: skip
    assert {p.name: p.read_text() for p in (tmp_path / "again").iterdir()} == written
    assert len(written["requests.jsonl"].splitlines()) == 20
    assert "--num-prompts 20 " in written["bench.sh"]


def test_launch_of_a_rank_and_a_framework(searched: Path, tmp_path: Path) -> None:
    """The third run, for two frameworks."""
    args = ["launch", str(searched), "--rank", "3", "--framework", "vllm,dynamo", "-o", str(tmp_path)]
    assert main(args) == 0
    runs = json.loads((searched / "result.json").read_text())["runs"]
    seqs, tp = (runs[2]["deployment"][key] for key in ("max_num_seqs", "tensor_parallel_size"))

    assert {p.name for p in tmp_path.iterdir()} == {"vllm.sh", "dynamo.yaml", "bench.sh", "requests.jsonl"}
    text = (tmp_path / "vllm.sh").read_text()
    assert re.search(f"--tensor-parallel-size {tp} .*--max-num-seqs {seqs} ", text)


@pytest.mark.parametrize("folder", [".", "out", "elsewhere"])
def test_a_trace_is_found_where_explain_finds_it(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the folder of the result, wherever the command is given; `explain` plays it from there."""
    rows = "".join(f"2023-11-16 18:15:{i:02d}.5,{100 + i},20\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s.yaml").write_text("model: meta-llama/Llama-3.1-8B\nworkload: {trace: {path: t.csv}}\n")
    assert main(["simulate", str(tmp_path / "s.yaml"), "-o", str(tmp_path / "out")]) == 0
    monkeypatch.chdir(tmp_path / folder)
    result = {".": "out", "out": "result.json", "elsewhere": "../out"}[folder]

    assert main(["launch", result, "-o", str(tmp_path / "again")]) == 0
    assert len((tmp_path / "again/requests.jsonl").read_text().splitlines()) == 20
    assert len(inputs_of(read_saved(Path(result))).workload) == 20


def test_requests_that_cannot_be_made_again_are_missed(searched: Path, tmp_path: Path) -> None:
    """Another seed in the file makes other requests, which are not those of the result."""
    data = json.loads((searched / "result.json").read_text())
    data["provenance"]["study"]["seed"] = 99
    (tmp_path / "result.json").write_text(json.dumps(data))

    assert main(["launch", str(tmp_path)]) == 0
    assert not (tmp_path / "launch" / "requests.jsonl").exists()
    assert "the simulated requests are not beside this file" in (tmp_path / "launch" / "bench.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json: no such file"),
        (["OUT", "--rank", "99"], "--rank: there are 4 runs (got 99)"),
        (["OUT", "--framework", "tgi"], "unknown framework 'tgi'"),
        (["BROKEN"], "is no JSON"),
        (["OTHER"], "is no result of simserve"),
        (["PART"], "is no complete result"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "part.json").write_text('{"schema": "simserve.result/1"}')
    files = {name.upper(): str(tmp_path / f"{name}.json") for name in ("broken", "other", "part")}
    places = {"OUT": str(searched), **files}

    assert main(["launch", *(places.get(word, word) for word in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_lengths_about_a_value_are_uniform_between_their_ends() -> None:
    """100 within 10 %."""
    assert _lengths({"kind": "uniform", "value": 100, "spread": 0.1}) == (110, 90, True)


def test_images_are_said_to_be_sent_as_text() -> None:
    """No tool sends them; scripts of text say nothing of them."""
    size, ten = {"kind": "fixed", "height": 720, "width": 1280}, {"kind": "fixed", "value": 10}

    assert "images: their tokens are sent as text" in script({**DRAWN, "images": {"size": size}})
    assert "audio: their tokens are sent as text" in script({**DRAWN, "audio": {"duration_s": ten}})
    assert "nothing is encoded" not in script(DRAWN)
