"""Paper studies: how runs and sweeps are put together, and one line for whatever is wrong."""

from pathlib import Path

import pytest

from simserve.errors import SpecError
from simserve.spec.paper import Paper, load_paper

GOOD = """\
paper: "A. Nobody, nothing, 2026"
setting: three requests
unknown: [{what: colour, chosen: 3, why: a guess}]
base:
  model: meta-llama/Llama-3.1-8B
  workload:
    arrivals: {kind: closed_loop, concurrency: 2}
    prompt_tokens: {kind: fixed, value: 100}
    output_tokens: {kind: fixed, value: 10}
    requests: 3
  deployment: {gpu: l40s, max_num_seqs: 4}
runs:
  one:
  two: {deployment: {max_num_seqs: 8, gpu: null}, workload: {arrivals: {concurrency: 3}}}
sweep: {key: [deployment.max_num_seqs, workload.requests], values: [2, 4], runs: two}
quantities:
  - name: gain
    published: [0.1, 0.2]
    unit: ''
    of: {metric: output_tokens_per_s, run: two, at: 4, over: one, minus: 1}
    expect: [0, 1]
    source: figure 1
"""


def read(folder: Path, text: str = GOOD) -> Paper:
    """A paper study from text."""
    path = folder / "x.yaml"
    path.write_text(text)
    return load_paper(path)


def test_runs_are_the_base_with_what_each_has_different(tmp_path: Path) -> None:
    """Key by key, null removes one; a swept run is one study for each value, in all keys of the sweep."""
    paper = read(tmp_path)
    runs = [(r.run, r.at, r.study.deployment.max_num_seqs, r.study.workload.requests) for r in paper.runs]

    assert runs == [("one", None, 4, 3), ("two", 2, 2, 2), ("two", 4, 4, 4)]
    assert [r.study.deployment.gpu for r in paper.runs] == ["l40s", "h100_sxm", "h100_sxm"]
    assert [r.study.workload.arrivals and r.study.workload.arrivals.concurrency for r in paper.runs] == [2, 3, 3]
    assert (paper.spec.name, paper.runs[0].study.name) == ("x", "x.one")


def test_a_bare_name_below_the_line_has_the_metric_and_place_of_the_one_above(tmp_path: Path) -> None:
    """`over: one` is {metric: output_tokens_per_s, run: one, at: 4}."""
    (below,) = read(tmp_path).spec.quantities[0].of.divisors

    assert (below.metric, below.run, below.at) == ("output_tokens_per_s", "one", 4)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("setting:", "settings:", "x.yaml:2: settings: unknown key; did you mean 'setting'?"),
     ("why: a guess", "whi: a guess", "x.yaml:3: unknown[0].whi: unknown key; did you mean 'why'?"),
     ("gpu: l40s,", "gpus: l40s,", "x.yaml:11: base.deployment.gpus: unknown key; did you mean 'gpu'?"),
     ("max_num_seqs: 8,", "max_num_seqs: 0,", "x.yaml:14: runs.two.deployment.max_num_seqs: input should be greater "
      "than or equal to 1 (got 0)"),
     ("max_num_seqs: 8,", "max_num_sqs: 8,", "x.yaml:14: runs.two.deployment.max_num_sqs: unknown key; did you mean "
      "'max_num_seqs'?"),
     ("    requests: 3\n", "", "x.yaml:6: base.workload: a workload without a trace needs requests"),
     ("  model: meta-llama/Llama-3.1-8B\n", "", "x.yaml:12: runs.one.model: this key is missing"),
     ("key: [deployment.max_num_seqs,", "key: [deployment.max_num_sqs,", "x.yaml:15: sweep.key: at 2: "
      "deployment.max_num_sqs: unknown key; did you mean 'max_num_seqs'?"),
     ("runs: two}", "runs: too}", "x.yaml:15: sweep.runs[0]: unknown run 'too'; did you mean 'two'?"),
     ("over: one", "over: ones", "x.yaml:20: quantities[0].of.over: unknown run 'ones'; did you mean 'one'?"),
     ("run: two, at: 4", "run: tow, at: 4", "x.yaml:20: quantities[0].of.run: unknown run 'tow'; did you mean 'two'?"),
     ("at: 4", "at: 5", "x.yaml:20: quantities[0].of.at: at must be one of 2, 4, best (got 5)"),
     ("at: 4, over: one", "over: one", "x.yaml:20: quantities[0].of.at: at must be one of 2, 4, best"),
     ("run: two, at: 4, over: one", "run: one, at: 4", "x.yaml:20: quantities[0].of: run one is not swept"),
     ("at: 4, over: one", "crosses: 4, at: 4", "x.yaml:20: quantities[0].of: crosses goes with neither at nor "
      "largest_feasible"),
     ("run: two, at: 4, over: one", "run: one, crosses: 4", "x.yaml:20: quantities[0].of: run one is not swept"),
     ("at: 4, over: one", "crosses: 4, over: one", "x.yaml:20: quantities[0].of.over: run one is not swept"),
     ("setting:", "warmup_fraction: 1\nsetting:", "x.yaml:2: warmup_fraction: input should be less than 1 (got 1)"),
     ("expect: [0, 1]", "expect: [2, 1]", "x.yaml:17: quantities[0]: expect: the low end 2 is above the high end 1"),
     ("expect: [0, 1]", "expect: [0]", "x.yaml:21: quantities[0].expect"),
     ("minus: 1", "minus: x", "x.yaml:20: quantities[0].of.minus: must be a number, not text"),
     ("runs:\n  one:\n", "runs:\n  one: 3\n", "x.yaml:13: runs.one: must be a mapping of keys to values"),
     ("    source: figure 1\n", "", "x.yaml:17: quantities[0].source: this key is missing")],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    """With file, line, key and the nearest name."""
    assert old in GOOD
    with pytest.raises(SpecError) as raised:
        read(tmp_path, GOOD.replace(old, new))

    assert str(raised.value).removeprefix(f"{tmp_path}/").startswith(line), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", ["[4, 2]", "[2]", "[2, 2]"])
def test_a_crossing_needs_rising_numbers(tmp_path: Path, values: str) -> None:
    """Between which there is a line."""
    text = GOOD.replace("run: two, at: 4, over: one", "run: two, crosses: 4").replace("[2, 4]", values)

    with pytest.raises(SpecError, match=r"x.yaml:20: quantities\[0\].of.crosses: crosses needs a sweep over rising"):
        read(tmp_path, text)
