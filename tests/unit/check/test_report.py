"""JSON and JUnit XML of checks that passed, failed, were skipped, or could not be made; which files are studies."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from simserve.check.files import study_files
from simserve.check.judge import Verdict
from simserve.check.report import StudyCheck, check_document, exit_code, junit_xml
from simserve.errors import SpecError

GOOD = Verdict("slo_met", "passed", "met", "met")
BAD = Verdict("ttft_ms.p90", "failed", 60.0, "at most 50", 0.2, "ttft_ms.p90 is 60, above the bound 50 by 10 (20 %)")
LATER = Verdict("baseline num_gpus", "skipped", None, "within 0 %", message="50 of 100 requests")
FINE = StudyCheck("a.yaml", "fine", "simulate", (GOOD,), requests=100, deployment="1 x l40s", seconds=1.25)
FAILS = StudyCheck("b.yaml", "fails", "search", (GOOD, BAD, LATER), note="50 of 100 requests", requests=50, seconds=2.0)
BROKEN = StudyCheck("c.yaml", "broken", error="c.yaml:3: model: <unknown> & \x00\x1b[31m 'x'", seconds=0.5)

# What a case, a suite and the whole may hold: the schema of Jenkins, as far as it is used.
CHILDREN = {"testsuites": {"testsuite"}, "testsuite": {"properties", "testcase"}, "properties": {"property"},
            "testcase": {"failure", "error", "skipped"}}  # fmt: skip
COUNTED = {"name", "tests", "failures", "errors", "time"}
ATTRIBUTES = {"testsuites": COUNTED, "testsuite": COUNTED | {"skipped"}, "testcase": {"classname", "name", "time"},
              "property": {"name", "value"}, "failure": {"message", "type"}, "error": {"message", "type"},
              "skipped": {"message"}, "properties": set[str]()}  # fmt: skip


def test_junit_counts_and_messages() -> None:
    """Suites and cases as many as studies and expectations; the counts are those of the elements."""
    root = ElementTree.fromstring(junit_xml([FINE, FAILS, BROKEN]))
    suites = root.findall("testsuite")

    assert ["fine", "fails", "broken"] == [suite.get("name") for suite in suites]
    for element in [root, *suites]:
        cases = list(element.iter("testcase"))
        assert int(element.get("tests", "")) == len(cases)
        for attribute, kind in (("failures", "failure"), ("errors", "error")):
            assert int(element.get(attribute, "")) == len([c for c in cases if c.find(kind) is not None])
    assert ("5", "1", "1", "3.750") == tuple(root.get(key) for key in ("tests", "failures", "errors", "time"))
    assert ["0", "1", "0"] == [suite.get("skipped") for suite in suites]
    (failure,) = root.iter("failure")
    assert BAD.message == failure.get("message")
    assert f"b.yaml: {BAD.message}" == failure.text
    (error,) = root.iter("error")
    assert "c.yaml:3: model: <unknown> & ??[31m 'x'" == error.get("message")
    assert {"file": "a.yaml", "requests": "100", "deployment": "1 x l40s"}.items() <= {
        str(p.get("name")): p.get("value") for p in suites[0].iter("property")
    }.items()


def test_junit_has_the_form_that_servers_read() -> None:
    """Nothing but the elements and attributes of the schema, properties first, at most one outcome per case."""
    xml = junit_xml([FINE, FAILS, BROKEN])
    root = ElementTree.fromstring(xml)

    assert xml.startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        assert set(element.keys()) == ATTRIBUTES[element.tag]
    assert all(suite[0].tag == "properties" for suite in root)
    assert all(len(case) <= 1 for case in root.iter("testcase"))


def test_exit_codes() -> None:
    """A study that could not be checked weighs more than an expectation that failed."""
    assert [0, 1, 2, 2, 0] == [
        exit_code(checks) for checks in ([FINE], [FINE, FAILS], [FINE, BROKEN], [FAILS, BROKEN], [])
    ]


def test_skipped_is_not_failed() -> None:
    """But shows in the counts."""
    found = check_document([StudyCheck("a.yaml", "a", verdicts=(GOOD, LATER))], [])

    assert (0, {"studies": 1, "passed": 1, "failed": 0, "skipped": 1, "errors": 0}) == (found["exit"], found["counts"])


def test_the_document() -> None:
    """One object per study and expectation, with numbers as numbers."""
    found = check_document([FINE, FAILS, BROKEN], ["d.yaml"])

    assert ("simserve.check/1", 2, ["d.yaml"]) == (found["schema"], found["exit"], found["without"])
    assert {"studies": 3, "passed": 2, "failed": 1, "skipped": 1, "errors": 1} == found["counts"]
    assert ["passed", "failed", "error"] == [study["status"] for study in found["studies"]]
    assert found["studies"][1]["expectations"][1] == {
        "name": "ttft_ms.p90", "status": "failed", "measured": 60.0, "expected": "at most 50", "off": 0.2,
        "message": BAD.message,
    }  # fmt: skip
    assert BROKEN.error == found["studies"][2]["error"]


STUDY = """\
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: fixed, value: 300}
  output_tokens: {kind: fixed, value: 40}
  requests: 20
"""


def test_which_files_are_checked(tmp_path: Path) -> None:
    """Of a folder all that expect something and all broken studies; neither other YAML nor hidden folders."""
    for name, text in {
        "good.yaml": f"{STUDY}expect: {{preemptions: {{max: 1}}}}\n", "deep/good.yml": f'{STUDY}"expect": 5\n',
        "typo.yaml": f"{STUDY}expct: {{preemptions: {{max: 1}}}}\n", "quiet.yaml": STUDY,
        "other.yaml": "kind: points\nrows: {expect: 3, workload: 4}\n", "two.yaml": "a: 1\n---\nb: 2\n",
        "not_yaml.yaml": "workload: {\n", ".git/hook.yaml": STUDY + "expect: 5\n", "notes.txt": "expect: 5",
        "baselines/good.json": "{}",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    wanted, without = study_files([tmp_path, tmp_path / "good.yaml"])

    assert ["deep/good.yml", "good.yaml", "not_yaml.yaml", "typo.yaml"] == [
        path.relative_to(tmp_path).as_posix() for path in wanted
    ]
    assert [tmp_path / "quiet.yaml"] == without


def test_a_file_that_is_named_is_checked(tmp_path: Path) -> None:
    """Whether it expects something or not, for someone thinks that it does; one that is not there is an error."""
    (tmp_path / "quiet.yaml").write_text(STUDY)

    assert ([tmp_path / "quiet.yaml"], []) == study_files([tmp_path / "quiet.yaml", tmp_path])
    with pytest.raises(SpecError, match="nowhere: no such file or folder"):
        study_files([tmp_path / "nowhere"])
