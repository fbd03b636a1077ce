"""Study files: what is read, and one line for whatever is wrong."""

from pathlib import Path

import pytest

from simserve.errors import SpecError
from simserve.spec.base import parse, parse_yaml
from simserve.spec.study import StudySpec, load_study

GOOD = """\
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: gamma, rate_rps: 5.5, cv: 1.1}
  prompt_tokens: {kind: fixed, value: 100}
  output_tokens: {kind: uniform, low: 1, high: 10}
  requests: 100
slo: {ttft_ms: 0.5 s, tpot_ms: 30}
deployment: {gpu: h100_sxm, replicas: 2, tensor_parallel_size: 4}
search: {space: {gpu: h100_sxm, replicas: [1, 2]}, trials: 5}
"""


def read(text: str) -> StudySpec:
    """A study from text."""
    return parse(StudySpec, parse_yaml(text, file="x.yaml"))


def test_a_study_is_read(tmp_path: Path) -> None:
    """Units of time, single choices, defaults, the name of the file."""
    path = tmp_path / "my_study.yaml"
    path.write_text(GOOD)
    study = load_study(path)

    assert study.slo is not None
    assert study.search is not None
    assert ("my_study", 500.0, 30.0, 90.0, 8) == (
        study.name, study.slo.ttft_ms, study.slo.tpot_ms, study.slo.percentile, study.deployment.num_gpus
    )  # fmt: skip
    assert (("h100_sxm",), (1, 2), None) == (
        study.search.space.gpu, study.search.space.replicas, study.search.space.dtype
    )  # fmt: skip
    assert hash(study.deployment) == hash(load_study(path).deployment)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("rate_rps: 5.5", "rate_rp: 5.5", "x.yaml:3: workload.arrivals.rate_rp: unknown key; did you mean 'rate_rps'?"),
     ("0.5 s", "30 GB", "x.yaml:7: slo.ttft_ms: '30 GB' is not a duration; write a number and one of ns, us, ms, s, "
      "min (got '30 GB')"),
     ("value: 100", "value: -5", "x.yaml:4: workload.prompt_tokens.value: input should be greater than or equal to 1 "
      "(got -5)"),
     ("gamma", "gama", "x.yaml:3: workload.arrivals.kind: must be one of poisson, gamma, constant, closed_loop "
      "(got 'gama'); did you mean 'gamma'?"),
     (", cv: 1.1", "", "x.yaml:3: workload.arrivals: gamma needs cv"),
     ("cv: 1.1", "cv: 1.1, concurrency: 3", "x.yaml:3: workload.arrivals: gamma has no concurrency"),
     ("low: 1,", "low: 11,", "x.yaml:5: workload.output_tokens: low 11 is larger than high 10"),
     ("  requests: 100\n", "", "x.yaml:2: workload: a workload without a trace needs requests"),
     ("ttft_ms: 0.5 s, tpot_ms: 30", "percentile: 50", "x.yaml:7: slo: an SLO needs at least one of ttft_ms, tpot_ms, "
      "e2e_ms"),
     ("trials: 5", "trials: 0", "x.yaml:9: search.trials: input should be greater than or equal to 1 (got 0)"),
     ("replicas: 2,", "max_num_seqs: 9999,", "x.yaml:8: deployment: max_num_batched_tokens 8192 is smaller than "
      "max_num_seqs 9999; vLLM refuses that"),
     ("value: 100", "value: true", "x.yaml:4: workload.prompt_tokens.value: must be a number or text, not true or "
      "false (got True)"),
     ("value: 100", "value: '5'", "x.yaml:4: workload.prompt_tokens.value: must be a number, not text (got '5')"),
     ("high: 10}", "high: 99999999999999999999}", "x.yaml:5: workload.output_tokens.high: input should be less than or "
      "equal to 1073741824 (got 99999999999999999999)"),
     ("requests: 100", "requests: 1000000000000", "x.yaml:6: workload.requests: input should be less than or equal to "
      "20000000 (got 1000000000000)"),
     ("model: ", "modell: ", "x.yaml:1: modell: unknown key; did you mean 'model'?"),
     ("slo:", "Special: 1\nslo:", "x.yaml:7: Special: unknown key; known here: deployment, deployments, expect, "
      "model, name, search, seed, slo, workload"),
     ("slo:", "model: x\nslo:", "x.yaml:7: model: the key stands here twice")],
)  # fmt: skip
def test_one_line_for_whatever_is_wrong(old: str, new: str, line: str) -> None:
    """File, line, key, problem, value and the nearest valid name."""
    assert old in GOOD

    with pytest.raises(SpecError) as caught:
        read(GOOD.replace(old, new, 1))
    assert line == str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "x.yaml: the file is empty"), ("? [a, b]\n: 1\n", "x.yaml:1: a key must be plain text"),
     ("a: &a [*a]\n", "x.yaml: not a study: nested too deeply"), ("[" * 3000, "x.yaml: not"),
     ("- a\n", "x.yaml:1: must be a mapping"),
     ("a: [1\n", "x.yaml:2: not valid YAML"), ("a: \x01", "x.yaml: not valid YAML")],
)  # fmt: skip
def test_what_is_no_study(text: str, message: str) -> None:
    """Empty, a list, broken YAML, control characters."""
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("deployment", "mode", "fits"),
    [("{kv_link: ib_400g}", "", False), ("{kv_link: ib_400g}", "mode: aggregated", False),
     ("{kv_link: ib_400g}", "mode: [aggregated, disaggregated]", True), ("{}", "", True)],
)  # fmt: skip
def test_a_link_between_pools_needs_pools(tmp_path: Path, deployment: str, mode: str, fits: bool) -> None:
    """Those of a system, or those that the search may choose."""
    path = tmp_path / "x.yaml"
    lines = ["model: m", "workload: {trace: {path: t.csv}}", f"deployment: {deployment}",
             f"search: {{space: {{replicas: 1, {mode}}}}}"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    if fits:
        assert load_study(path).search is not None
    else:
        with pytest.raises(SpecError, match="kv_link is for a system with pools, or a search with mode: disaggregated"):
            load_study(path)
