"""Baselines: what makes one another study's, that the question decides and not the answer, atomic files."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from simserve.check.baseline import SCHEMA, check_question, fingerprint, read_baseline, write_baseline
from simserve.check.metrics import numbers
from simserve.errors import SpecError
from simserve.explore.objective import Outcome
from simserve.explore.runner import Inputs, prepare
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import load_study

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload: {trace: {path: trace.csv}}
slo: {ttft_ms: 500}
deployment: {gpu: l40s}
"""
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"2023-11-16 18:15:{i:02d},100,20\n" for i in range(20))
RUN = Outcome(
    deployment=DeploymentSpec(gpu="l40s"), num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100 / 3, ttft_ms=1.0,
    tpot_ms=10.0, usd_per_hour=2.0, usd_per_million_tokens=1.0, slo=(), turned_away=0,
    metrics={"ttft_ms": {"p90": 7.0}},
)  # fmt: skip


def asked(folder: Path, text: str = STUDY, trace: str = TRACE) -> Inputs:
    """A study in a folder, with its trace beside it."""
    (folder / "tiny.yaml").write_text(text)
    (folder / "trace.csv").write_text(trace)
    return prepare(load_study(folder / "tiny.yaml"), base_dir=folder)


def stored(folder: Path) -> Path:
    """A baseline of the study."""
    inputs, path = asked(folder), folder / "baselines" / "tiny.json"
    write_baseline(path, inputs.study, fingerprint(inputs, folder), RUN)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Study, kind, versions, fingerprint and every number, to ten digits; the folder is made."""
    inputs, path = asked(tmp_path), stored(tmp_path)
    data, found = json.loads(path.read_text()), read_baseline(path, inputs.study)

    assert (SCHEMA, "tiny", "simulate") == tuple(data[key] for key in ("schema", "study", "kind"))
    assert RUN.deployment == DeploymentSpec.model_validate(data["deployment"])
    assert {"simserve", "python", "packages"} == set(data["versions"])
    assert found.metrics == pytest.approx(numbers(RUN), rel=1e-9)
    assert 33.33333333 == found.metrics["tokens_per_s_per_gpu"]
    check_question(found, fingerprint(inputs, tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "other"),
    [
        ("Llama-3.1-8B", "Llama-3.1-70B", "model"),
        ("path: trace.csv", "path: trace.csv, rate_scale: 2.0", "workload"),
        ("path: trace.csv", "path: trace.csv, limit: 10", "workload, requests"),
        ("ttft_ms: 500", "ttft_ms: 400", "slo"),
        ("slo: {ttft_ms: 500}\n", "", "slo"),
        ("name: tiny\n", "name: tiny\nseed: 1\n", "seed"),
    ],
)
def test_another_question_is_one_line(old: str, new: str, other: str, tmp_path: Path) -> None:
    """What differs is named, and what to do."""
    path = stored(tmp_path)
    assert old in STUDY
    inputs = asked(tmp_path, STUDY.replace(old, new))

    with pytest.raises(SpecError) as caught:
        check_question(read_baseline(path, inputs.study), fingerprint(inputs, tmp_path))

    assert str(caught.value) == (
        f"{path}: is of another {other}; if the study is meant to be another now, --update-baselines writes it anew"
    )


def test_another_trace_under_the_same_name(tmp_path: Path) -> None:
    """The content of a trace counts, where it lies does not."""
    path = stored(tmp_path)
    inputs = asked(tmp_path, trace=TRACE.replace(",100,", ",101,"))

    with pytest.raises(SpecError, match="is of another workload; "):
        check_question(read_baseline(path, inputs.study), fingerprint(inputs, tmp_path))

    (tmp_path / "moved").mkdir()
    moved = asked(tmp_path / "moved")
    check_question(read_baseline(path, moved.study), fingerprint(moved, tmp_path / "moved"))


def test_another_answer_is_the_same_question(tmp_path: Path) -> None:
    """What a change of the deployment does is what a baseline is there to show."""
    path = stored(tmp_path)
    inputs = asked(tmp_path, STUDY.replace("gpu: l40s", "gpu: h100_sxm, max_num_seqs: 16"))

    check_question(read_baseline(path, inputs.study), fingerprint(inputs, tmp_path))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, ": no such file; `simserve check --update-baselines` writes it"),
        ("{\n\n,", ":3: not valid JSON: "),
        ("[]", ": is no baseline (simserve.baseline/1)"),
        ('{"schema": "simserve.result/1"}', ": is no baseline (simserve.baseline/1)"),
        ('{"schema": "simserve.baseline/1"}', ": study: is missing, or not what --update-baselines writes"),
        ("metrics", ": metrics.ttft_ms: must be a number (got 'fast')"),
        ("study", ": is of another study (simulate huge, this is simulate tiny)"),
        ("kind", ": is of another study (search tiny, this is simulate tiny)"),
        (b"\xff\xfe", ": cannot be read (UnicodeDecodeError)"),
    ],
)
def test_a_bad_baseline_is_one_line(content: str | bytes | None, line: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file."""
    path, study = stored(tmp_path), asked(tmp_path).study
    data = json.loads(path.read_text())
    other = {"metrics": {"metrics": {"ttft_ms": "fast"}}, "study": {"study": "huge"}, "kind": {"kind": "search"}}
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps({**data, **other[content]}) if content in other else content)

    with pytest.raises(SpecError) as caught:
        read_baseline(path, study)

    assert str(caught.value).startswith(f"{path}{line}")


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while writing leaves the old baseline, byte for byte, and no scraps beside it."""
    path, inputs = stored(tmp_path), asked(tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpecError, match="cannot write: no space left on device"):
        write_baseline(path, inputs.study, fingerprint(inputs, tmp_path), replace(RUN, num_gpus=5))

    assert before == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


def test_the_same_result_is_the_same_file(tmp_path: Path) -> None:
    """No dates: only what changed shows in a diff."""
    before = stored(tmp_path).read_bytes()

    assert before == stored(tmp_path).read_bytes()
