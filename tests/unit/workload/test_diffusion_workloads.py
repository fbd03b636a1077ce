"""Workloads of diffusion language models, and that others know nothing of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.explore.provenance import columns_digest
from simserve.explore.repeats import rotated
from simserve.spec.base import parse, parse_yaml
from simserve.spec.confidence import FAST_DLLM, ConfidenceSpec
from simserve.spec.workload import WorkloadSpec
from simserve.workload.build import build_workload

DRAWN: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_rps": 1}, "requests": 6, "prompt_tokens": {"kind": "fixed", "value": 512},
    "output_tokens": {"kind": "fixed", "value": 256},
}  # fmt: skip
DIFFUSION = {**DRAWN, "kind": "diffusion"}


def test_canvases_come_with_a_confidence() -> None:
    """The defaults where none is given; the seed is the workload's; heads and rotations keep both."""
    plain = build_workload(WorkloadSpec.model_validate(DRAWN), seed=5)
    canvas = build_workload(WorkloadSpec.model_validate(DIFFUSION), seed=5)
    mine = build_workload(WorkloadSpec.model_validate({**DIFFUSION, "confidence": {"cv": 0.2}}), seed=6)

    assert (plain.confidence, plain.confidence_seed) == (None, 0)
    assert (canvas.confidence, canvas.confidence_seed) == (ConfidenceSpec(), 5)
    assert (mine.confidence, mine.confidence_seed) == (ConfidenceSpec(cv=0.2), 6)
    assert canvas.output_tokens.tolist() == plain.output_tokens.tolist() == [256] * 6
    assert canvas.arrival_ns.tolist() == plain.arrival_ns.tolist()
    for kept in (canvas.head(2), rotated(canvas, 3)):
        assert (kept.confidence, kept.confidence_seed) == (ConfidenceSpec(), 5)


def test_a_trace_has_canvases_too(tmp_path: Path) -> None:
    """With classes or without."""
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01,10,64\n", encoding="utf-8")
    traced = {"trace": {"path": "t.csv"}, "kind": "diffusion", "classes": [{"name": "a", "share": 1, "priority": 2}]}
    requests = build_workload(WorkloadSpec.model_validate(traced), seed=3, base_dir=tmp_path)

    assert (requests.confidence, requests.confidence_seed) == (ConfidenceSpec(), 3)
    assert (requests.output_tokens.tolist(), requests.priority.tolist()) == ([64], [2])


def test_where_requests_come_from_is_told() -> None:
    """`kind` of a provenance stays drawn or trace; it is JSON, and says what confidence is drawn from."""
    plain = build_workload(WorkloadSpec.model_validate(DRAWN), seed=5).provenance
    canvas = build_workload(WorkloadSpec.model_validate(DIFFUSION), seed=5).provenance

    assert plain == {"kind": "drawn", "seed": 5, **DRAWN, "arrivals": {"kind": "poisson", "rate_rps": 1.0}}
    assert {k: v for k, v in canvas.items() if k != "diffusion"} == plain
    told = json.loads(json.dumps(canvas["diffusion"]))
    assert (told.pop("seed"), ConfidenceSpec.model_validate(told)) == (5, ConfidenceSpec())


def test_other_workloads_dump_as_before() -> None:
    """No key of diffusion, in any mode: journals and baselines are named by hashes of this."""
    plain = WorkloadSpec.model_validate(DRAWN)
    before = {"trace", "arrivals", "prompt_tokens", "output_tokens", "requests", "prefixes", "sessions", "classes"}

    assert set(plain.model_dump(mode="json")) == set(plain.model_dump()) == before
    assert set(plain.model_dump(exclude_defaults=True)) == set(DRAWN)
    assert plain.model_dump() == WorkloadSpec.model_validate({**DRAWN, "kind": "autoregressive"}).model_dump()
    for mine in (DIFFUSION, {**DIFFUSION, "confidence": {"cv": 0.3}}):
        spec = WorkloadSpec.model_validate(mine)
        assert spec.model_dump()["kind"] == "diffusion"
        assert WorkloadSpec.model_validate(spec.model_dump(mode="json")) == spec
        assert hash(spec) != hash(plain)


def test_digests_tell_confidences_apart() -> None:
    """Equal columns are not equal requests if they draw otherwise."""

    def digest(more: dict[str, Any], seed: int = 1) -> str:
        constant = {"arrivals": {"kind": "constant", "rate_rps": 1}}
        return columns_digest(build_workload(WorkloadSpec.model_validate({**DRAWN, **constant, **more}), seed=seed))

    mine = {"kind": "diffusion", "confidence": {"cv": 0.1}}
    found = [digest({}), digest({"kind": "diffusion"}), digest({"kind": "diffusion"}, seed=2), digest(mine)]
    assert len(set(found)) == 4
    assert digest({}) == digest({}, seed=2)


def test_a_confidence_in_yaml() -> None:
    """tokens_per_step is a mapping there; its order does not matter."""
    text = "kind: diffusion\narrivals: {kind: closed_loop, concurrency: 2}\nrequests: 3\n" + "".join(
        f"{name}_tokens: {{kind: fixed, value: 32}}\n" for name in ("prompt", "output")
    )
    listed = "confidence: {tokens_per_step: {0.9: 2.5, 0.5: 6, 1.0: 1}, block_length: 64}\n"
    spec = parse(WorkloadSpec, parse_yaml(text + listed, file="w.yaml"))

    assert spec.confidence == ConfidenceSpec(tokens_per_step=((0.5, 6), (0.9, 2.5), (1.0, 1)), block_length=64)
    assert ConfidenceSpec().tokens_per_step == FAST_DLLM


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({**DRAWN, "confidence": {}}, "confidence needs kind: diffusion"),
        ({**DIFFUSION, "sessions": {"turns": {"kind": "fixed", "value": 2}}},
         "a workload of kind diffusion has no sessions"),
        ({**DIFFUSION, "prefixes": {"count": 1, "tokens": {"kind": "fixed", "value": 2}}},
         "a workload of kind diffusion has no prefixes"),
        ({**DRAWN, "kind": "diffuse"}, "kind: must be one of autoregressive, diffusion"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": {0.5: 3, 0.9: 3}}},
         "tokens_per_step must fall with the threshold, not 3 at 0.5, 3 at 0.9"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": [[0.5, 3], [0.5, 2]]}},
         "tokens_per_step has the threshold 0.5 twice"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": {0.5: 3, 1.0: 2}}},
         "tokens_per_step must be 1 at the threshold 1, not 2"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": {0.5: 0.5}}}, "greater than or equal to 1"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": {1.5: 2}}}, "less than or equal to 1"),
        ({**DIFFUSION, "confidence": {"tokens_per_step": {}}}, "is empty"),
        ({**DIFFUSION, "confidence": {"block_length": 4}},
         "tokens_per_step 7.01 at 0.5 must be below block_length 4"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(fields: dict[str, Any], problem: str) -> None:
    """Naming what is wrong."""
    with pytest.raises(SpecError) as raised:
        parse(WorkloadSpec, fields, file="w.yaml")

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
