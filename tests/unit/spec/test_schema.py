"""The JSON Schema of studies: as the specs are now, named by every study, and it tells good from broken ones."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from simserve.cli.main import main
from simserve.cli.schema import known_names
from simserve.paths import DATA_KINDS
from simserve.spec.hardware import gpu_names
from simserve.spec.paper import PaperSpec
from simserve.spec.schema import COMMENT, PUBLISHED, comment_line, paper_schema, schema_text, study_schema
from simserve.spec.study import StudySpec

ROOT = Path(__file__).resolve().parents[3]
BROKEN = ROOT / "tests" / "broken_studies"
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PAPERS = sorted((ROOT / "studies" / "papers").glob("*.yaml"))
# Whose mistake is the shape of the file; all others need the specs, the model or the trace to be found.
BROKEN_IN_SHAPE = (
    "a_list", "empty", "negative_length", "no_values", "no_values_of_an_option", "no_workload", "percentile_120",
    "text_for_number", "unknown_dtype", "unknown_key", "unknown_top_key", "wrong_unit", "zero_rate", "zero_requests",
)  # fmt: skip


def problems(kind: str, data: Any) -> list[str]:
    """What jsonschema finds."""
    schema = json.loads(PUBLISHED[kind].read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    return [error.message for error in validator.iter_errors(data)]


@pytest.mark.parametrize(("kind", "made"), [("study", study_schema), ("paper", paper_schema)])
def test_the_published_schema_is_that_of_the_specs(kind: str, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of the specs: `simserve schema -o simserve/spec/study.schema.json`, and with --paper."""
    monkeypatch.delenv("SIMSERVE_DATA", raising=False)

    assert PUBLISHED[kind].read_text(encoding="utf-8") == schema_text(made(known_names()))


@pytest.mark.parametrize("path", [*STUDIES, *PAPERS], ids=lambda p: p.stem)
def test_every_study_names_the_schema_and_keeps_it(path: Path) -> None:
    """The first line is the editor's; the path in it leads to the file."""
    kind = "paper" if path in PAPERS else "study"
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]

    assert first == comment_line(kind, path)
    assert (path.parent / first.removeprefix(COMMENT)).resolve() == PUBLISHED[kind].resolve()
    assert problems(kind, yaml.safe_load(text)) == []


@pytest.mark.parametrize("name", BROKEN_IN_SHAPE)
def test_studies_of_a_broken_shape_do_not(name: str) -> None:
    """An editor marks them."""
    assert problems("study", yaml.safe_load((BROKEN / f"{name}.yaml").read_text(encoding="utf-8")))


GOOD: dict[str, Any] = {"model": "m", "workload": {"trace": {"path": "t.csv"}}}


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({}, True),
        ({"deployment": {"gpu": "my_gpu", "scheduler": "mine"}}, True),  # names are suggestions
        ({"deployment": {"gpu": 4090}}, False),
        ({"deployment": {"pools": {"prefill": {"replicas": 2}}, "system": "distserve"}}, True),
        ({"deployment": {"pools": {"prefill": {"replica": 2}}, "system": "distserve"}}, False),
        ({"deployment": {"scheduler_options": {"policy": "fcfs"}}}, True),
        ({"deployment": {"scheduler_options": [["policy", "fcfs"]]}}, False),
        ({"deployments": {"a": {"replicas": 2}, "b": None}}, True),
        ({"slo": {"ttft_ms": "0.5 s"}}, True),
        ({"slo": {"ttft_ms": "0.5 hours"}}, False),
        ({"search": {"space": {"gpu": "h100_sxm", "replicas": [1, 2]}}}, True),
        ({"search": {"space": {"scheduler_options": {"vllm": {"policy": ["fcfs", "priority"]}}}}}, True),
        ({"search": {"objective": "speed"}}, False),
        ({"expect": {"ttft_ms.p90": {"max": 400}, "baseline": "b.json", "tolerance": {"ttft_ms.p90": "5%"}}}, True),
        ({"expect": {"ttft_ms.p90": {"most": 400}}}, False),
        ({"expect": {"slo_met": True, "tolerance": {"ttft_ms.p90": 5}}}, False),
    ],
)
def test_forms_that_are_kept_in_another(more: dict[str, Any], fits: bool) -> None:
    """One or a list, mappings that are kept as pairs, durations, percentages."""
    assert (problems("study", {**GOOD, **more}) == []) == fits


def test_a_paper_study_has_sections_in_part() -> None:
    """A run may say less than a study, or take a key away; but no key that a study has not."""
    paper: dict[str, Any] = yaml.safe_load((ROOT / "studies/papers/neo_t4.yaml").read_text(encoding="utf-8"))
    paper["runs"]["more"] = {"workload": {"requests": None}, "deployment": {"replicas": 2}}
    assert problems("paper", paper) == []
    paper["runs"]["more"] = {"workload": {"request": 5}}
    assert problems("paper", paper)


def test_every_key_that_a_beginner_writes_is_described() -> None:
    """From the docstrings; the descriptions that only one spec has serve its relatives too."""
    schema = study_schema(known_names())
    described = {name: {k for k, v in found.get("properties", {}).items() if "description" in v}
                 for name, found in {**schema["$defs"], "": schema}.items()}  # fmt: skip

    assert described[""] == set(StudySpec.model_fields)
    for name in ("DeploymentSpec", "SpaceSpec", "PoolSpec", "SearchSpec", "SloSpec", "ArrivalSpec", "TraceSpec"):
        assert described[name] == set(schema["$defs"][name]["properties"]), name
    assert schema["$defs"]["SpaceSpec"]["properties"]["scheduler_options"]["description"].startswith("{scheduler or ro")


def test_own_names_are_suggested_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`simserve schema` knows SIMSERVE_DATA, which the published file does not."""
    folder = tmp_path / "hw_specs" / "gpus"
    folder.mkdir(parents=True)
    text = (ROOT / "hw_specs/gpus/h100_sxm.yaml").read_text(encoding="utf-8")
    (folder / "my_gpu.yaml").write_text(text.replace("name: h100_sxm", "name: my_gpu"))
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))

    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["$defs"]["Known_gpu"]["enum"] == sorted([*gpu_names()])
    assert "my_gpu" in printed["$defs"]["Known_gpu"]["enum"]
    assert "my_gpu" not in PUBLISHED["study"].read_text(encoding="utf-8")
    assert main(["schema", "--paper", "-o", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text())["title"] == "simserve paper study"


def test_the_comment_is_seen_from_the_study(tmp_path: Path) -> None:
    """A relative path, also to a folder that is not there yet."""
    place = comment_line("study", tmp_path / "a" / "s.yaml").removeprefix(COMMENT)

    assert not os.path.isabs(place)
    assert Path(os.path.normpath(tmp_path / "a" / place)) == PUBLISHED["study"]


def test_the_wheel_has_the_schemas() -> None:
    """They lie in the package, whose files all go into the wheel; data folders have places of their own there."""
    assert all(path.parent == ROOT / "simserve" / "spec" for path in PUBLISHED.values())
    assert not any(kind in path.parts for path in PUBLISHED.values() for kind in DATA_KINDS)


@pytest.mark.parametrize("spec", [StudySpec, PaperSpec])
def test_sections_are_those_of_the_spec(spec: type[BaseModel]) -> None:
    """All keys, and no other is valid."""
    schema = (study_schema if spec is StudySpec else paper_schema)({})

    assert set(schema["properties"]) == set(spec.model_fields)
    assert schema["additionalProperties"] is False
