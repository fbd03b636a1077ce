"""Drawn prefixes and sessions: prompts by hand, shares, think times."""

import json
from typing import Any

import numpy as np
import pytest

from simserve.errors import SpecError
from simserve.spec.base import parse
from simserve.spec.workload import WorkloadSpec
from simserve.workload.build import build_workload
from simserve.workload.requests import RequestSet

CHAT: dict[str, Any] = {
    "arrivals": {"kind": "constant", "rate_rps": 1}, "requests": 5,
    "prompt_tokens": {"kind": "fixed", "value": 10}, "output_tokens": {"kind": "fixed", "value": 3},
}  # fmt: skip
THREE = {"turns": {"kind": "fixed", "value": 3}}


def drawn(seed: int = 0, **more: object) -> RequestSet:
    """A drawn workload: 10 prompt tokens, 3 output tokens, one arrival per second."""
    return build_workload(parse(WorkloadSpec, {**CHAT, **more}), seed=seed)


def test_sessions_by_hand() -> None:
    """Three turns, then the two that are left; each prompt contains the one before and its output."""
    requests = drawn(sessions=THREE)

    assert requests.after is not None
    assert requests.session is not None
    assert [0, 0, 0, 10**9, 10**9] == requests.arrival_ns.tolist()
    assert [-1, 0, 1, -1, 3] == requests.after.tolist()
    assert [0, 0, 0, 1, 1] == requests.session.tolist()
    assert [10, 23, 36, 10, 23] == requests.prompt_tokens.tolist()
    assert ((-1, 10), (-2, 3), (-3, 10), (-4, 3), (-5, 10)) == (requests.content or [])[2]
    assert ((-7, 10), (-8, 3), (-9, 10)) == (requests.content or [])[4]
    assert requests.output_content is not None
    assert [-2, -4, -6, -8, -10] == requests.output_content.tolist()


def test_prefixes_come_on_top_and_only_once_in_a_session() -> None:
    """One prefix of 7 tokens for all."""
    one = {"count": 1, "tokens": {"kind": "fixed", "value": 7}}

    assert [17] * 5 == drawn(prefixes=one).prompt_tokens.tolist()
    assert [((0, 7), (-1, 10)), ((0, 7), (-3, 10))] == list(drawn(prefixes=one).content or [])[:2]
    assert [17, 30, 43, 17, 30] == drawn(prefixes=one, sessions=THREE).prompt_tokens.tolist()


def test_shares_of_prefixes() -> None:
    """Half of 20,000 requests begin with one of four equally likely prefixes, each of one length."""
    spec = {"count": 4, "tokens": {"kind": "uniform", "low": 5, "high": 500}, "share": 0.5}
    content = drawn(prefixes=spec, requests=20_000).content or []
    begins = [pieces[0] for pieces in content if pieces[0][0] >= 0]
    counts = np.bincount([which for which, _ in begins])

    assert len(begins) == pytest.approx(10_000, rel=0.03)
    assert counts.tolist() == pytest.approx([2500] * 4, rel=0.08)
    assert 4 == len(set(begins))


def test_think_times_are_exponential() -> None:
    """Mean and standard deviation 2 s, none before a first turn."""
    requests = drawn(sessions={**THREE, "think_time_s": 2}, requests=30_000)

    assert requests.after is not None
    assert requests.delay_ns is not None
    think_s = requests.delay_ns[requests.after >= 0] / 1e9
    assert (think_s.mean(), think_s.std()) == pytest.approx((2, 2), rel=0.03)
    assert 0 == requests.delay_ns[requests.after < 0].max()


def test_parts_draw_from_streams_of_their_own() -> None:
    """Prefixes change neither arrivals nor outputs; the same seed gives the same requests."""
    lengths = {"kind": "uniform", "low": 1, "high": 99}
    varied = {"arrivals": {"kind": "poisson", "rate_rps": 1}, "output_tokens": lengths}
    many = {"count": 3, "tokens": {"kind": "fixed", "value": 7}, "share": 0.5}
    plain, mixed, again = drawn(3, **varied), drawn(3, **varied, prefixes=many), drawn(3, **varied, prefixes=many)

    assert plain.arrival_ns.tolist() == mixed.arrival_ns.tolist()
    assert plain.output_tokens.tolist() == mixed.output_tokens.tolist()
    assert list(mixed.content or []) == list(again.content or [])
    assert json.dumps(dict(mixed.provenance))


HURRIED = [{"name": "chat", "share": 0.25, "priority": -1, "slo": {"ttft_ms": 200}}, {"name": "batch", "share": 0.75}]


def test_classes_have_their_share_and_priority() -> None:
    """A quarter of the requests, priority -1, before others; the rest of the workload stays as it was."""
    requests = drawn(classes=HURRIED, requests=20_000)

    assert requests.class_id is not None
    assert (requests.class_id == 0).mean() == pytest.approx(0.25, rel=0.05)
    assert np.where(requests.class_id == 0, -1, 0).tolist() == requests.priority.tolist()
    assert ["chat", "batch"] == [c.name for c in requests.classes or ()]
    assert drawn(requests=20_000).arrival_ns.tolist() == requests.arrival_ns.tolist()


def test_the_turns_of_a_session_are_of_one_class() -> None:
    """Drawn once for each session."""
    requests = drawn(classes=HURRIED, sessions=THREE, requests=300)

    assert requests.class_id is not None
    assert {1} == {len(set(turns)) for turns in requests.class_id.reshape(-1, 3).tolist()}


@pytest.mark.parametrize(
    ("more", "message"),
    [({"sessions": {}}, "sessions.turns: this key is missing"),
     ({"sessions": {**THREE, "think_time_s": -1}}, "sessions.think_time_s: input should be greater than or equal to 0"),
     ({"prefixes": {"count": 0, "tokens": {"kind": "fixed", "value": 7}}}, "prefixes.count: input should be greater"),
     ({"prefixes": {"count": 1, "tokens": {"kind": "fixed", "value": 7}, "share": 2}}, "prefixes.share: input should"),
     ({"classes": [{"name": "a", "share": 0.5}]}, "classes: the shares of all classes must add up to 1, not 0.5"),
     ({"classes": [{"name": "a", "share": 0.5}] * 2}, "classes: two classes have the same name"),
     ({"classes": [{"name": "a", "share": 1, "slo": {}}]}, "slo: an SLO needs at least one"),
     ({"sessions": THREE, "arrivals": {"kind": "closed_loop", "concurrency": 2}}, "sessions need arrivals in an open")],
)  # fmt: skip
def test_what_cannot_be_drawn(more: dict[str, object], message: str) -> None:
    """One line."""
    with pytest.raises(SpecError, match=message):
        drawn(**more)


def test_a_trace_has_no_sessions() -> None:
    """Its requests stand as they were recorded."""
    with pytest.raises(SpecError, match="a workload with a trace has no sessions"):
        parse(WorkloadSpec, {"trace": {"path": "x.csv"}, "sessions": THREE})
