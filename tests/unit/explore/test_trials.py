"""The trials of a search: no repeats, the same with any worker order, the same after a kill."""

from dataclasses import replace
from pathlib import Path

import pytest

from simserve.errors import SpecError
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.prune import GivenUp
from simserve.explore.space import SearchSpace
from simserve.explore.storage import open_study
from simserve.explore.trials import Trials
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import BATCH

SPACE = SearchSpace(
    DeploymentSpec(),
    {
        "gpu": ("h100_sxm", "l40s"),
        "tensor_parallel_size": (1, 2, 4),
        "replicas": (1, 2, 3, 4),
        "max_num_batched_tokens": (2048, 8192),
    },
    max_gpus=8,
)
ORDER = SPACE.deployments()


def fake(d: DeploymentSpec) -> Outcome:
    """An outcome in closed form: one SLO that small deployments miss."""
    tpot = 40.0 / (d.replicas * d.tensor_parallel_size) + (5.0 if d.gpu == "l40s" else 0.0)
    return Outcome(
        deployment=d, num_gpus=d.num_gpus, num_gpu_blocks=100, tokens_per_s_per_gpu=1000.0 / d.num_gpus,
        ttft_ms=1.0, tpot_ms=tpot, usd_per_hour=1.0 * d.num_gpus, usd_per_million_tokens=0.1 * d.num_gpus,
        slo=(SloValue("tpot", 90.0, tpot, 20.0),), turned_away=0, metrics={},
    )  # fmt: skip


def run(trials: Trials, *, backwards: bool = False, batches: int | None = None) -> list[DeploymentSpec]:
    """Simulate until the budget or a number of batches is used up; the configurations in order of slot."""
    chosen: list[DeploymentSpec] = []
    while (batch := list(trials.next_batch())) and (batches is None or batches > 0):
        batches = None if batches is None else batches - 1
        chosen += [d for _, d in batch]
        for trial, deployment in reversed(batch) if backwards else batch:
            trials.finish(trial, deployment, fake(deployment))
    return chosen


def fresh(journal: Path | None = None, *, resume: bool = False, budget: int = 20, seed: int = 0) -> Trials:
    """Trials on the space above."""
    return Trials(open_study(journal, "a", resume=resume), SPACE, ORDER, budget, seed)


def test_no_configuration_is_simulated_twice() -> None:
    """Twenty slots are twenty configurations, the first half in the screen's order."""
    chosen = run(fresh())

    assert len(set(chosen)) == 20
    assert ORDER[:10] == chosen[:10]


def test_proposals_go_beyond_the_screen() -> None:
    """After the screened half TPE leaves the screen's order: it has seen what is good."""
    assert ORDER[:20] != run(fresh())


def test_order_of_completion_changes_nothing() -> None:
    """Workers that finish in another order lead to the same trials."""
    assert run(fresh()) == run(fresh(), backwards=True)


def test_order_of_completion_leaves_the_same_lists(tmp_path: Path) -> None:
    """Runs that are equal are ranked as they stand here, and what was given up first is what is played to its end."""
    ends = []
    for name, backwards in (("a", False), ("b", True)):
        trials = fresh(tmp_path / name, budget=16)
        for _ in range(2):
            batch = trials.next_batch()
            played = [(t, d, (fake(d), GivenUp("late", "ttft"), "no")[i % 3]) for i, (t, d) in enumerate(batch)]
            for trial, deployment, outcome in reversed(played) if backwards else played:
                trials.finish(trial, deployment, outcome)
        ends += [trials, fresh(tmp_path / name, budget=16, resume=True)]

    lists = [(t.outcomes, t.pruned, t.failed) for t in ends]
    assert [len(found) for found in lists[0]] == [6, 6, 4]
    assert lists == [lists[0]] * 4


@pytest.mark.parametrize("batch", [3, 16])
def test_a_batch_of_another_size(tmp_path: Path, batch: int) -> None:
    """So many trials wait at once, in whatever order they end, and after a kill within one of them."""

    def sized(name: str, *, resume: bool = False) -> Trials:
        return Trials(open_study(tmp_path / name, "a", resume=resume), SPACE, ORDER, 20, 0, batch=batch)

    whole = run(sized("whole"))
    first = sized("killed")
    assert len(first.next_batch()) == batch
    for trial, deployment in list(first.next_batch())[1:]:
        first.finish(trial, deployment, fake(deployment))
    second = sized("killed", resume=True)

    assert len(set(whole)) == 20
    assert whole == run(sized("other"), backwards=True)
    assert [d for _, d in second.next_batch()] == whole[:1]
    assert whole[batch:] == run(second)[1:]


def test_another_seed_gives_other_trials() -> None:
    """The seed reaches the sampler."""
    assert run(fresh(seed=1)) != run(fresh(seed=2))


def test_a_small_space_is_enumerated() -> None:
    """A budget that covers the space simulates all of it, in the screen's order."""
    assert run(fresh(budget=1000)) == ORDER


def test_resume_repeats_only_what_was_in_flight(tmp_path: Path) -> None:
    """Killed with half of the second batch done, the search goes on as if it had not been."""
    whole = run(fresh())
    first = fresh(tmp_path / "j")
    run(first, batches=1)
    for trial, deployment in list(first.next_batch())[:3]:
        first.finish(trial, deployment, fake(deployment))

    second = fresh(tmp_path / "j", resume=True)
    done = [o.deployment for o in second.outcomes]

    assert whole[: BATCH + 3] == done
    assert whole[BATCH + 3 :] == run(second)


def test_resume_after_a_kill_while_asking(tmp_path: Path) -> None:
    """A proposal that was never accepted, or only enqueued, is given up and asked for again."""
    whole = run(fresh())
    first = fresh(tmp_path / "j")
    run(first, batches=1)
    first.study.ask()
    first.study.enqueue_trial(SPACE.combination(ORDER[-1]))

    assert whole[BATCH:] == run(fresh(tmp_path / "j", resume=True))


def test_resume_with_more_trials_goes_on(tmp_path: Path) -> None:
    """A finished search takes further trials, none of them repeated."""
    before = run(fresh(tmp_path / "j", budget=8))
    after = run(fresh(tmp_path / "j", budget=16, resume=True))

    assert len(set(before + after)) == 16


@pytest.mark.parametrize("lost", [1, 25, 700])
def test_resume_after_the_last_line_was_torn(tmp_path: Path, lost: int) -> None:
    """A crash within a write costs the trials that it tore, not the search; the torn file is kept."""
    whole, path = run(fresh()), tmp_path / "j"
    run(fresh(path), batches=1)
    torn = path.read_bytes()[:-lost]
    path.write_bytes(torn)

    second = fresh(path, resume=True)
    done = [o.deployment for o in second.outcomes]

    assert whole == done + run(second)
    assert (tmp_path / "j.torn").read_bytes() == torn
    assert whole[:8] == [o.deployment for o in fresh(path, resume=True).outcomes][:8]


def test_resume_after_a_line_was_torn_and_written_on(tmp_path: Path) -> None:
    """What follows a broken line cannot be trusted: the search goes on from before it."""
    whole, path = run(fresh()), tmp_path / "j"
    run(fresh(path), batches=1)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[-5] = lines[-5][:10]
    path.write_bytes(b"".join(lines))
    second = fresh(path, resume=True)

    assert whole == [o.deployment for o in second.outcomes] + run(second)


def test_resume_of_a_journal_torn_in_its_first_line(tmp_path: Path) -> None:
    """Nothing was done yet: the search starts."""
    open_study(tmp_path / "j", "a", resume=False)
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:30])

    assert run(fresh()) == run(fresh(tmp_path / "j", resume=True))


@pytest.mark.parametrize("content", [b"hello\n", b"\x80\x81\n", b'{"a": 1}\n', b"[]\n", b"no newline"])
def test_resume_refuses_what_is_no_journal(tmp_path: Path, content: bytes) -> None:
    """Another file of that name is left as it is."""
    (tmp_path / "j").write_bytes(content)

    with pytest.raises(SpecError, match="not the journal of a search"):
        open_study(tmp_path / "j", "a", resume=True)
    assert (tmp_path / "j").read_bytes() == content


def test_resume_refuses_another_study(tmp_path: Path) -> None:
    """A journal belongs to one study, seed and version."""
    open_study(tmp_path / "j", "a", resume=False)

    with pytest.raises(SpecError, match="another study"):
        open_study(tmp_path / "j", "b", resume=True)


def test_resume_needs_a_journal(tmp_path: Path) -> None:
    """Without a journal there is nothing to resume."""
    with pytest.raises(SpecError, match="no search to resume"):
        open_study(tmp_path / "j", "a", resume=True)


def test_a_new_search_keeps_the_old_journal(tmp_path: Path) -> None:
    """An unfinished search is put aside, not lost."""
    open_study(tmp_path / "j", "a", resume=False)
    open_study(tmp_path / "j", "b", resume=False)

    assert (tmp_path / "j.old").is_file()


@pytest.mark.parametrize("content", [b"my notes\n", b"\x80\x81\n", b'{"a": 1}\n', b'{"op_code":', b"no newline", None])
@pytest.mark.parametrize("keep", [True, False])
def test_a_new_search_moves_nothing_but_journals(tmp_path: Path, content: bytes | None, keep: bool) -> None:
    """A file of any other content, or a folder, stays where it is; one torn in its first line held nothing."""
    path = tmp_path / "j"
    path.mkdir() if content is None else path.write_bytes(content)
    if content == b'{"op_code":':
        open_study(path, "a", resume=False, keep=keep)
        return
    with pytest.raises(SpecError, match=r"j: (this is not the journal of a search; name another|is a folder)"):
        open_study(path, "a", resume=False, keep=keep)
    assert [p.name for p in tmp_path.iterdir()] == ["j"]
    assert content is None or path.read_bytes() == content


def test_a_named_journal_of_another_study_stays(tmp_path: Path) -> None:
    """Nor is it resumed; that of the same study is put aside, as in the output folder."""
    path = tmp_path / "j"
    open_study(path, "a", resume=False, keep=True)
    before = path.read_bytes()
    for resume in (False, True):
        with pytest.raises(SpecError, match="holds another study, seed or version; name another file"):
            open_study(path, "b", resume=resume, keep=True)
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (before, 1)

    open_study(path, "a", resume=False, keep=True)
    assert (tmp_path / "j.old").read_bytes() == before


def test_impossible_while_simulated_is_recorded(tmp_path: Path) -> None:
    """A reason instead of an outcome fails the trial, and survives a resume."""
    trials = fresh(tmp_path / "j", budget=1)
    trial, deployment = trials.next_batch()[0]
    trials.finish(trial, deployment, "too long")

    assert trials.failed == fresh(tmp_path / "j", budget=1, resume=True).failed == [(deployment, "too long")]


def test_constraints_are_optunas(tmp_path: Path) -> None:
    """SLO excess and turned-away requests are stored as constraints of the trial."""
    trials = fresh(budget=1)
    trial, deployment = trials.next_batch()[0]
    trials.finish(trial, deployment, replace(fake(deployment), turned_away=3))

    assert trials.study.trials[0].constraints == {"tpot": 1.0, "turned_away": 3.0}


@pytest.mark.parametrize(
    ("objective", "name", "value"),
    [("throughput", "tokens_per_s_per_gpu", 500.0), ("front", "tokens_per_s_per_gpu", 500.0),
     ("gpus", "minus_gpus", -2.0), ("cost", "minus_usd_per_hour", -4.0)],
)  # fmt: skip
def test_the_sampler_is_told_the_objective(tmp_path: Path, objective: str, name: str, value: float) -> None:
    """The larger the better, whatever is asked for."""
    found = Trials(open_study(tmp_path / "j", "a", resume=False), SPACE, ORDER, 1, 0, objective=objective)
    trial, deployment = found.next_batch()[0]
    found.finish(trial, deployment, replace(fake(deployment), num_gpus=2, tokens_per_s_per_gpu=500.0,
                                            usd_per_hour=4.0))  # fmt: skip
    assert found.study.metric_names == [name, "tpot_ms"]
    assert found.study.trials[trial.number].values[0] == value
