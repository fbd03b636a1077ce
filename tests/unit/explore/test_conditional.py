"""Parameters that depend on others: asked for only where they mean something, and every one with a fixed name."""

from pathlib import Path
from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.explore.columns import aggregated, pairs
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.prune import GivenUp
from simserve.explore.samplers import check, make
from simserve.explore.space import SearchSpace, from_study
from simserve.explore.storage import open_study
from simserve.explore.trials import Trials
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "s",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1},
        "prompt_tokens": {"kind": "fixed", "value": 10},
        "output_tokens": {"kind": "fixed", "value": 10},
        "requests": 10,
    },
}
BOTH: dict[str, Any] = {
    "mode": ["aggregated", "disaggregated"],
    "engine": ["vllm", "sglang"],
    "tensor_parallel_size": [1, 2],
    "replicas": [1, 2],
    "router": ["round_robin", "power_of_two"],
    "enable_prefix_caching": [False, True],
    "offload_dram_gib": [0, 64],
    "scheduler_options": {"vllm": {"watermark": [0.0, 0.1]}},
    "router_options": {"power_of_two": {"seed": [1, 2]}},
    "prefill": {"gpu": ["h100_sxm", "h200_sxm"], "router": "least_loaded"},
    "decode": {"gpu": "a100_sxm", "tensor_parallel_size": [2], "router": "power_of_two"},
}


def space_of(space: dict[str, Any], **search: Any) -> SearchSpace:
    """The space of a study with these choices."""
    return from_study(parse(StudySpec, {**STUDY, "search": {"space": space, **search}}))


def asked(space: SearchSpace, **chosen: Any) -> set[str]:
    """The parameters that are asked for if these are chosen, and of all others the last value."""
    return set(space.suggest(lambda name, values: chosen.get(name.replace(".", "_"), values[-1])))


def test_only_what_matters_is_asked_for() -> None:
    """A pool's parameters with pools, a scheduler's knob with that scheduler, host memory with prefix caching."""
    space = space_of(BOTH)
    one = asked(space, mode="aggregated", engine="vllm", enable_prefix_caching=False, router="round_robin")
    two = asked(space, mode="disaggregated", engine="sglang")

    assert one == {"mode", "engine", "tensor_parallel_size", "replicas", "router", "enable_prefix_caching",
                   "vllm.watermark"}  # fmt: skip
    assert two == {
        "mode", "engine", "enable_prefix_caching", "offload_dram_gib",
        *(f"prefill.{knob}" for knob in ("gpu", "tensor_parallel_size", "replicas", "router")),
        *(f"decode.{knob}" for knob in ("gpu", "tensor_parallel_size", "replicas", "router", "power_of_two.seed")),
    }  # fmt: skip


def test_columns_hold_the_combinations() -> None:
    """Built from columns, the deployments are those of the combinations, and each gives its combination back."""
    space = space_of(BOTH, max_gpus=4)
    one = aggregated(space)
    assert one is not None
    found = [one.deployment(row) for row in range(len(one))]
    for prefill, decode in pairs(space):
        found += [
            space.disaggregated([("prefill", prefill.deployment(i)), ("decode", decode.deployment(j))])
            for i in range(len(prefill)) for j in range(len(decode))
            if prefill.gpus[i] + decode.gpus[j] <= 4
        ]  # fmt: skip
    wanted = space.deployments()

    assert len(found) == len(set(found)) == len(wanted)
    assert set(found) == set(wanted)
    assert all(space.deployment(space.combination(d)) == d for d in wanted)


def test_an_engine_is_more_than_its_scheduler() -> None:
    """SGLang's profile, its scheduler, and scheduling that overlaps with the step before, except in a pipeline."""
    found = space_of({"engine": "sglang", "pipeline_parallel_size": [1, 2]}).deployments()

    assert [(d.engine, d.scheduler, d.async_scheduling) for d in found] == [
        ("sglang", "sglang", True), ("sglang", "sglang", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"scheduler_options": {"vlm": {"watermark": 0}}}, "search.space.scheduler_options.vlm: unknown scheduler"),
        ({"scheduler_options": {"vllm": {"watermrk": 0}}}, "did you mean 'watermark'"),
        ({"scheduler_options": {"vllm": {"watermark": 0.9}}}, r"watermark: must be a number from 0.0 to 0.5 \(got 0.9"),
        ({"scheduler_options": {"vllm": {"policy": "lifo"}}}, "policy: must be one of fcfs, priority"),
        ({"scheduler_options": {"sglang": {"policy": "fcfs"}}}, "no deployment of the space has this scheduler"),
        ({"router_options": {"random": {"sed": 0}}, "router": "random"}, "unknown knob of random 'sed'"),
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"mode": "disagregated"}, "did you mean 'disaggregated'"),
        ({"prefill": {"tensor_paralel_size": 1}}, "did you mean 'tensor_parallel_size'"),
        ({"mode": "aggregated", "prefill": {"gpu": "h100"}}, "search.space.prefill: there are no pools"),
        ({"engine": "vllm", "scheduler": "vllm"}, "an engine has its own scheduler"),
    ],
)
def test_bad_values_are_one_line(space: dict[str, Any], message: str) -> None:
    """With the key, and the nearest name where there is one."""
    with pytest.raises(SpecError, match=message) as caught:
        space_of(space)
    assert "\n" not in str(caught.value)


def fake(d: DeploymentSpec) -> Outcome:
    """An outcome in closed form: the more decode GPUs the faster, the more GPUs the less throughput of each."""
    decode = d.engines()[-1][1]
    tpot = 40.0 / (decode.replicas * decode.tensor_parallel_size)
    return Outcome(
        deployment=d, num_gpus=d.num_gpus, num_gpu_blocks=100, tokens_per_s_per_gpu=1000.0 / d.num_gpus,
        ttft_ms=1.0, tpot_ms=tpot, usd_per_hour=1.0 * d.num_gpus, usd_per_million_tokens=0.1 * d.num_gpus,
        slo=(SloValue("tpot", 90.0, tpot, 20.0),), turned_away=0, metrics={},
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_propose_in_a_conditional_space(sampler: str) -> None:
    """No configuration twice, the same trials whoever finishes first, and proposals of both modes."""
    space = space_of(BOTH, max_gpus=6)
    order = space.deployments()

    def run(backwards: bool) -> list[DeploymentSpec]:
        trials = Trials(open_study(None, "a", resume=False), space, order, 40, 3, sampler)
        chosen: list[DeploymentSpec] = []
        while batch := list(trials.next_batch()):
            chosen += [d for _, d in batch]
            for trial, deployment in reversed(batch) if backwards else batch:
                reason = GivenUp("late", "tpot") if deployment.num_gpus == 5 else fake(deployment)
                trials.finish(trial, deployment, reason)
        assert {d.num_gpus for d, _ in trials.pruned} <= {5}
        return chosen

    chosen = run(backwards=False)
    assert len(set(chosen)) == 40
    assert order[:40] != chosen
    assert chosen == run(backwards=True)
    assert {bool(d.pools) for d in chosen} == {True, False}


def test_a_pruned_trial_says_why(tmp_path: Path) -> None:
    """Its state and its reason, as words and as data, are in the storage, also when resumed; it is no failure."""
    space = space_of({"replicas": [1, 2]})
    trials = Trials(open_study(tmp_path / "j", "a", resume=False), space, space.deployments(), 1, 0)
    trial, deployment = trials.next_batch()[0]
    trials.finish(trial, deployment, GivenUp("too late", "tpot"))
    again = Trials(open_study(tmp_path / "j", "a", resume=True), space, space.deployments(), 1, 0)

    (stored,) = trials.study.trials
    assert (stored.state.name, stored.user_attrs["reason"]) == ("PRUNED", "too late")
    for found in (trials, again):
        assert [(d, str(why), why.missed) for d, why in found.pruned] == [(deployment, "too late", "tpot")]
        assert not found.failed


def test_a_gaussian_process_needs_torch() -> None:
    """One line that names the extra, or the sampler if torch is there."""
    from importlib.util import find_spec

    from simserve.errors import MissingData

    if find_spec("torch") is None:
        with pytest.raises(MissingData, match=r"pip install 'simserve\[gp\]'"):
            check("gp")
    else:
        assert type(make("gp", 0, 0, conditional=False)).__name__ == "GPSampler"


def test_one_gpu_has_no_experts_to_spread() -> None:
    """Where both are in the space, expert parallelism on one GPU is left out; alone it stays."""
    sizes = {"tensor_parallel_size": [1, 2], "replicas": 1}
    both, only = (aggregated(space_of({**sizes, "enable_expert_parallel": ep})) for ep in ([False, True], [True]))
    assert both is not None
    assert only is not None
    splits = [[rows.deployment(row).split for row in range(len(rows))] for rows in (both, only)]
    assert splits == [["TP1", "TP2", "TP2 EP"], ["TP1", "TP2 EP"]]
