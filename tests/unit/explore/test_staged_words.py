"""What a result says of layouts of stages: names, the busiest stage, tables, launch files, neighbours, sensitivity."""

from dataclasses import replace
from typing import Any

import pytest

from simserve.check.stated import check_expect
from simserve.errors import SpecError
from simserve.explore.evaluate import evaluate
from simserve.explore.explained import one_more
from simserve.explore.factors import factors_of
from simserve.explore.limits import limits
from simserve.explore.objective import SloValue
from simserve.explore.result import SearchResult, describe_deployment, layout
from simserve.explore.runner import Inputs, prepare
from simserve.explore.staged_words import bottleneck, busy_stages
from simserve.report.launch import nothing_to_launch
from simserve.report.tables import rows
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "layouts",
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 6},
        "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 40},
        "requests": 30,
        "images": {"size": {"kind": "fixed", "height": 1000, "width": 1000}},
    },
    "slo": {"ttft_ms": 1000, "tpot_ms": 40},
    "deployment": {"gpu": "a100_sxm", "system": "epd_serve", "stages": "E-P-D"},
}  # fmt: skip


def inputs_of(**deployment: Any) -> Inputs:
    """The study above."""
    own = {**STUDY["deployment"], **deployment}
    return prepare(parse(StudySpec, {**STUDY, "deployment": own}), base_dir=None)


def deployment_of(stages: str, **more: Any) -> DeploymentSpec:
    """Its deployment with another layout, as a run has it."""
    return inputs_of(stages=stages, **more).study.deployment


@pytest.fixture(scope="module")
def run() -> Any:
    """E-P-D, simulated."""
    inputs = inputs_of()
    return evaluate(inputs.model, inputs.study.deployment, inputs.workload, inputs.study.slo)


def test_a_layout_in_words() -> None:
    """The notation, and what all processes have; what each has where that differs."""
    mixed = deployment_of("2E-P-D", pools={"E": {"gpu": "l40s"}, "D": {"max_num_seqs": 16}},
                          system_options={"prefetch": False})  # fmt: skip

    assert layout(deployment_of("2E-P-D")) == "2E-P-D on a100_sxm TP1 bf16"
    assert describe_deployment(deployment_of("(E-PD)x2", tensor_parallel_size=2)) == (
        "epd_serve (E-PD)x2 on a100_sxm TP2 bf16, 8192 tokens, 256 seqs, least_loaded"
    )
    assert layout(mixed) == "2E-P-D on P a100_sxm TP1 bf16, D a100_sxm TP1 bf16, E l40s TP1"
    assert describe_deployment(mixed).endswith(
        ", P 8192 tokens, 256 seqs, least_loaded; D 8192 tokens, 16 seqs, least_loaded, prefetch False"
    )


def test_every_process_has_its_busy_share(run: Any) -> None:
    """Encoders as E, beside the processes with the model."""
    found = busy_stages(run)

    assert list(found) == ["E", "P", "D"]
    assert found["E"] == run.metrics["stages"]["encoder_busy"]


@pytest.mark.parametrize(("encoding", "tight", "name"), [(0.9, "ttft", "E"), (0.1, "ttft", "P"), (0.9, "tpot", "D")])
def test_the_bottleneck_is_what_the_tight_bound_waits_for(run: Any, encoding: float, tight: str, name: str) -> None:
    """The busiest before the first token, or the one that decodes."""
    stages = {**run.metrics["stages"], "encoder_busy": encoding}
    usage = tuple({**part, "busy": 0.5} for part in run.usage)
    found = bottleneck(replace(run, metrics={**run.metrics, "stages": stages}, usage=usage), tight)

    assert found is not None
    assert found[0] == name
    assert f"E {100 * encoding:.0f} %, P 50 %, D 50 %" in found[2]


def test_the_limits_of_a_run_name_the_stage(run: Any) -> None:
    """First, before what each process waits for; not in runs without stages."""
    tight = replace(run, slo=(SloValue("ttft", 90, 999.0, 1000.0),))
    found = limits(tight).found[0]

    assert found.name == "stage"
    assert found.text.startswith("Of E-P-D the busiest stage before the first token is ")
    assert "of the time of KV messages beside the prompt" in found.text
    plain = replace(run, deployment=DeploymentSpec(), usage=())
    assert bottleneck(plain, "ttft") is None


def test_tables_have_the_layout(run: Any) -> None:
    """A column of its own, empty without stages."""
    plain = replace(run, deployment=DeploymentSpec())
    found = rows(SearchResult("search", "s", [run, plain], provenance={"model": {"name": "m"}}))

    assert [row["stages"] for row in found] == ["E-P-D", None]


def test_no_launch_files_of_several_processes() -> None:
    """One line that says so; one kind of process is an engine as any."""
    why = nothing_to_launch(deployment_of("E-P-D"))

    assert why is not None
    assert why.startswith("no launch files: epd_serve with stages E-P-D is simulated")
    assert nothing_to_launch(deployment_of("TP1x2")) is None


def test_one_more_of_each_place_is_a_deployment() -> None:
    """Counted, and with what the system gives its processes."""
    found = one_more(deployment_of("(E-P)-2D", tensor_parallel_size=2))

    assert [(place, d.stages, d.num_gpus) for place, d in found] == [("(E-P)", "2(E-P)-2D", 8), ("D", "(E-P)-3D", 8)]
    assert [e.router for _, e in found[0][1].engines()] == ["least_loaded"] * 2


def test_every_number_of_a_deployment_with_stages_can_be_moved() -> None:
    """Limits of all processes with the model, whatever the study gives the others."""
    from simserve.run import simulate

    inputs = inputs_of(pools={"E": {"gpu": "l40s"}})
    deployment = inputs.study.deployment
    result = simulate(inputs.model, deployment, inputs.workload, slo=inputs.study.slo)
    found = {f.name: f for f in factors_of(result, deployment, inputs.workload, 0.1)}

    assert [e.max_num_seqs for _, e in found["max_num_seqs"].ends[0].deployment.engines()] == [230, 230]
    assert found["KV blocks"].ends[0].what == " / ".join(str(e.num_gpu_blocks - round(0.1 * e.num_gpu_blocks))
                                                          for e in result.engines)  # fmt: skip
    assert dict(found["max_num_seqs"].ends[0].deployment.pools)["E"].gpu == "l40s"


@pytest.mark.parametrize(
    ("stages", "winner", "problem"),
    [
        ("all", "EP-2D", ""),
        (["E-P-D"], "EP-2D", "can never win: search.space.stages has E-P-D"),
        ("all", "E-Q", "'Q' is no place"),
    ],
)
def test_a_winner_may_be_a_layout(stages: Any, winner: str, problem: str) -> None:
    """Any that can be read where all are searched, else one of those that are listed."""
    search = {"space": {"stages": stages}, "max_gpus": 4}
    study = parse(StudySpec, {**STUDY, "search": search, "expect": {"winner": {"stages": winner}}})

    if not problem:
        assert check_expect(study) is study.expect
    else:
        with pytest.raises(SpecError, match=problem):
            check_expect(study)
