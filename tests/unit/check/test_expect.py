"""The `expect` section: what is read, one line for what is wrong, and that results do not depend on it."""

from pathlib import Path

import pytest

from simserve.asked.names import check_names, located
from simserve.check.stated import check_expect
from simserve.errors import SpecError
from simserve.explore.provenance import fingerprint, provenance
from simserve.explore.runner import prepare
from simserve.spec.base import parse, parse_yaml
from simserve.spec.study import StudySpec, load_study

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: fixed, value: 300}
  output_tokens: {kind: fixed, value: 40}
  requests: 20
  classes: [{name: chat, share: 0.5}, {name: batch, share: 0.5}]
slo: {ttft_ms: 500}
search: {space: {gpu: [h100_sxm, l40s], replicas: [1, 2]}}
expect:
"""
WHOLE = """\
  slo_met: true
  usd_per_million_tokens: {max: 0.5}
  ttft_ms.p90: {min: 10, max: 400}
  winner: {gpu: l40s, tensor_parallel_size: 1, max_num_batched_tokens: 64}
  ties: true
  baseline: old.json
  tolerance: {tokens_per_s_per_gpu: 2%, classes.chat.e2e_ms.p99: 0.5 %}
"""


def test_an_expectation_is_read() -> None:
    """Fixed keys, metrics with bounds in order, percentages as shares, and only the stated keys of the winner.

    A token budget below the default max_num_seqs is no contradiction in a winner that does not state max_num_seqs.
    """
    expect = parse(StudySpec, parse_yaml(STUDY + WHOLE, file="x.yaml")).expect

    assert expect is not None
    assert expect.tolerance is not None
    assert (True, "old.json", True) == (expect.slo_met, expect.baseline, expect.ties)
    assert [("usd_per_million_tokens", None, 0.5), ("ttft_ms.p90", 10.0, 400.0)] == [
        (name, bound.min, bound.max) for name, bound in expect.bounds.items()
    ]
    assert {"tokens_per_s_per_gpu": 0.02, "classes.chat.e2e_ms.p99": 0.005} == expect.tolerance.metrics
    assert expect.winner.model_fields_set == {"gpu", "tensor_parallel_size", "max_num_batched_tokens"}


def test_results_do_not_depend_on_it(tmp_path: Path) -> None:
    """Provenance and fingerprint are the same with and without, so journals can be resumed."""
    texts = {"with": STUDY + WHOLE, "without": STUDY.replace("expect:\n", "")}
    records = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        inputs = prepare(load_study(tmp_path / f"{name}.yaml"), base_dir=tmp_path)
        assert (inputs.study.expect is not None) == (name == "with")
        records[name] = provenance(inputs.study, inputs.model, inputs.workload)

    assert records["with"] == records["without"]
    assert fingerprint(records["with"]) == fingerprint(records["without"])


BROKEN = [
    ("slo_met: maybe", ":12: expect.slo_met: must be true or false, not text (got 'maybe')"),
    ("slo_mett: true", ":12: expect.slo_mett: must be bounds such as {max: 5}; other than metrics there are slo_met, "),
    ("ttft_ms.p9: {max: 5}", ":12: expect.ttft_ms.p9: no run has a metric 'ttft_ms.p9'; did you mean 'ttft_ms.p99'?"),
    ("xyzzy: {max: 5}", ":12: expect.xyzzy: no run has a metric 'xyzzy'; the names are those of the numbers of a run"),
    ("classes.chatt.goodput_rps: {min: 5}", "did you mean 'classes.chat.goodput_rps'?"),
    ("sources.modeled: {max: 0.1}", "did you mean 'sources.modelled'?"),
    ("ttft_ms.p90: 400", ":12: expect.ttft_ms.p90: must be bounds such as {max: 5}"),
    ("ttft_ms.p90: {below: 400}", ":12: expect.ttft_ms.p90: unknown bound 'below'; there are min and max"),
    ("ttft_ms.p90:\n    max: many", ":13: expect.ttft_ms.p90.max: must be a number, not text (got 'many')"),
    ("ttft_ms.p90: {max: 1, min: 2}", ":12: expect.ttft_ms.p90: min 2 is larger than max 1"),
    ("ttft_ms.p90: {}", ":12: expect.ttft_ms.p90: give min, max or both"),
    ("{}", "expect: expects nothing; give bounds on a metric, or one of slo_met, winner, ties, baseline, tolerance"),
    ("ties: true\n  slo_met: true", ":11: expect: ties is for winner"),
    ("baseline: a.json", ":11: expect: baseline and tolerance go together"),
    ("slo_met: true\n  tolerance: {ttft_ms.p90: 5%}", ":11: expect: baseline and tolerance go together"),
    ("baseline: a.json\n  tolerance: {ttft_ms.p90: 5}", ":13: expect.tolerance.ttft_ms.p90: must be a percentage"),
    ("baseline: a.json\n  tolerance: {ttft_ms.p0: 5%}", ":13: expect.tolerance.ttft_ms.p0: no run has a metric"),
    ("winner: {gpuu: l40s}", ":12: expect.winner.gpuu: unknown key; did you mean 'gpu'?"),
    ("winner: {}", ":11: expect: winner names no key of a deployment"),
    ("winner: l40s", ":12: expect.winner: must be a mapping of keys to values (got 'l40s')"),
    ("winner: {dtype: bf61}", ":12: expect.winner.dtype: must be one of bf16, fp16, fp8"),
    ("winner: {replicas: 0}", ":12: expect.winner.replicas: input should be greater than or equal to 1 (got 0)"),
    ("winner: {gpu: l40}", ":12: expect.winner.gpu: unknown GPU 'l40'; did you mean 'l40s'?"),
    ("winner: {router: least_load}", "expect.winner.router: unknown router 'least_load'; did you mean 'least_loaded'?"),
    ("winner: {replicas: 3}", ":12: expect.winner.replicas: can never win: search.space.replicas has 1, 2 (got 3)"),
    ("winner: {gpu: a100_sxm}", "can never win: search.space.gpu has h100_sxm, l40s (got 'a100_sxm')"),
]


def read(path: Path) -> None:
    """As the command does before any work."""
    with located(path):
        study = load_study(path)
        check_names(study, path)
        check_expect(study)


def problem(text: str, path: Path) -> str:
    """The one line that a study gives before it is run."""
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(("section", "line"), BROKEN, ids=[section[:30] for section, _ in BROKEN])
def test_one_line_for_whatever_is_wrong(section: str, line: str, tmp_path: Path) -> None:
    """File, line, key, value and the nearest valid name."""
    found = problem(f"{STUDY}  {section}\n", tmp_path / "x.yaml")

    assert found.startswith(f"{tmp_path}/x.yaml:")
    assert line in found


@pytest.mark.parametrize(
    ("old", "section", "line"),
    [
        ("slo: {ttft_ms: 500}\n", "slo_met: true", ":11: expect.slo_met: the study has no slo that could be met"),
        ("search: {space: {gpu: [h100_sxm, l40s], replicas: [1, 2]}}\n", "winner: {gpu: l40s}",
         ":11: expect.winner: only a study with a search section has a winner"),
    ],
)  # fmt: skip
def test_what_the_study_has_not_cannot_be_expected(old: str, section: str, line: str, tmp_path: Path) -> None:
    """No SLO to meet, no search to win."""
    assert old in STUDY

    assert line in problem(f"{STUDY.replace(old, '')}  {section}\n", tmp_path / "x.yaml")


def test_a_study_without_expectations_is_named(tmp_path: Path) -> None:
    """With what to add."""
    assert "there is no 'expect' section, so nothing to check" in problem(
        STUDY.replace("expect:\n", ""), tmp_path / "x.yaml"
    )
