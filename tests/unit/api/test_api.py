"""The Python API: its names, that it answers as the command line does, and what it says of mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import simserve
from simserve.cli.main import main
from simserve.errors import Infeasible, SimserveError, SpecError, UnknownName

TINY = {
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 6},
        "prompt_tokens": {"kind": "fixed", "value": 500},
        "output_tokens": {"kind": "fixed", "value": 50},
        "requests": 60,
    },
    "slo": {"ttft_ms": 500, "tpot_ms": 15},
    "deployment": {"gpu": "h100_sxm"},
    "search": {"space": {"gpu": ["h100_sxm", "l40s"], "replicas": [1, 2]}, "trials": 4},
}


@pytest.fixture(scope="module")
def found() -> simserve.Search:
    """A small search."""
    return simserve.search(TINY, jobs=1, progress=False)


def test_public_names() -> None:
    """What users import; a name that goes breaks their scripts."""
    assert {
        "load_study", "describe", "search", "simulate", "vary_gpu", "Study", "Search", "Simulation", "Explanation",
        "SimserveError",
    } == set(simserve.__all__)  # fmt: skip
    assert all(name in dir(simserve) and getattr(simserve, name).__doc__ for name in simserve.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        simserve.serach  # noqa: B018


def test_importing_costs_nothing() -> None:
    """Nothing heavy comes with `import simserve`, nor with its names."""
    code = "import sys, simserve; simserve.search, simserve.simulate; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(printed.split())

    assert "simserve.api.searched" in loaded
    assert set() == {"numpy", "pandas", "optuna", "simpy", "plotly", "rich", "typer"} & loaded


def test_a_search_is_that_of_the_command_line(found: simserve.Search, tmp_path: Path) -> None:
    """The same document, but for how it was played."""
    found.study.save(tmp_path / "study.yaml")
    out = tmp_path / "out"
    assert 0 == main(["search", str(tmp_path / "study.yaml"), "-o", str(out), "--json", str(tmp_path / "r.json")])
    theirs, ours = json.loads((tmp_path / "r.json").read_text()), json.loads(json.dumps(found.to_dict()))
    for document in (theirs, ours):
        del document["provenance"]

    assert ours == theirs
    assert {path.name for path in found.save(tmp_path / "api").iterdir()} == {
        path.name for path in out.iterdir() if path.name != "search.journal"
    }


def test_results_are_frozen(found: simserve.Search) -> None:
    """Nobody changes a number by mistake."""
    with pytest.raises(FrozenInstanceError):
        found.recommended.num_gpus = 2  # type: ignore[misc,union-attr]
    with pytest.raises(FrozenInstanceError):
        found.study = None  # type: ignore[misc,assignment]


def test_a_search_as_a_table(found: simserve.Search) -> None:
    """A row per run in order of rank, with what each column is."""
    table = found.to_pandas()

    assert list(range(1, len(found.runs) + 1)) == list(table.index)
    assert [run.num_gpus for run in found.runs] == list(table["num_gpus"])
    assert [1] == list(table.index[table["recommended"]])
    assert "1 is the best" not in table.attrs["descriptions"].values()
    assert table.attrs["descriptions"]["usd_per_hour"].startswith("of all GPUs")


def test_a_search_as_a_picture(found: simserve.Search) -> None:
    """Every run that has a latency is a point; the choices above are those of the report."""
    figure = found.plot_pareto()

    assert len(found.runs) + 1 >= sum(len(trace.x) for trace in figure.data) >= len(found.runs)
    assert ["against TPOT", "against tokens/s per user", "against TTFT"] == [
        button.label for button in figure.layout.updatemenus[0].buttons
    ]


def test_a_search_in_a_notebook_and_at_a_prompt(found: simserve.Search) -> None:
    """The recommendation, escaped, and the table that the command prints."""
    study = simserve.load_study(TINY).change(name="a-b")

    assert "Recommended: <strong>1 x" in found._repr_html_()
    assert "Recommended: 1 x" in str(found)
    assert "&lt;script&gt;" in study.change({"workload.trace": {"path": "<script>"}, "workload.arrivals": None,
                                            "workload.prompt_tokens": None, "workload.output_tokens": None,
                                            "workload.requests": None})._repr_html_()  # fmt: skip


def test_a_run_of_a_search_is_played_again(found: simserve.Search) -> None:
    """Its requests add up to its metrics; a rank that is not there is refused."""
    run = found.simulate(2)
    table = run.to_pandas()

    assert found.runs[1] == run.outcome
    assert run.metrics.ttft_ms.mean == pytest.approx(table["ttft_ms"].mean())
    assert np.allclose(table["e2e_ms"], table["ttft_ms"] + table["tpot_ms"] * (table["output_tokens"] - 1))
    assert {"finished"} == set(table["outcome"])
    assert run.outcome.deployment == simserve.simulate(run.study, interval=False).outcome.deployment
    with pytest.raises(SpecError, match="there are 4 runs"):
        found.simulate(5)
    with pytest.raises(SpecError, match="there are 4 runs"):
        found.launch(rank=0)


def test_a_search_is_explained(found: simserve.Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the command explains it from its files."""
    folder = found.save(tmp_path / "out")
    assert 0 == main(["explain", str(folder), "--json", "-"])
    theirs = json.loads(capsys.readouterr().out)
    ours = json.loads(json.dumps(found.explain().to_dict()))

    assert {key: theirs[key] for key in ours} == ours
    assert len(ours["buys"]) == len(found.explain().to_pandas())


def test_a_run_as_pictures(found: simserve.Search) -> None:
    """Shares of requests end at 100 %, shares of time add up to 100 %."""
    run = found.simulate()
    bars = run.plot_breakdown().data

    assert 100 == run.plot_latencies("e2e").data[0].y[-1]
    assert 100 == pytest.approx(sum(sum(bar.x) for bar in bars), abs=0.2)
    assert 1 <= max(run.plot_over_time().data[0].y)
    with pytest.raises(UnknownName, match="did you mean 'ttft'"):
        run.plot_latencies("tft")


def test_a_simulation_is_that_of_the_command_line(tmp_path: Path) -> None:
    """With its interval."""
    study = simserve.load_study(TINY)
    study.save(tmp_path / "study.yaml")
    assert 0 == main(["simulate", str(tmp_path / "study.yaml"), "--json", str(tmp_path / "r.json")])
    run = simserve.simulate(study)

    assert json.loads((tmp_path / "r.json").read_text())["runs"] == json.loads(json.dumps(run.to_dict()))["runs"]
    assert "result.json" in {path.name for path in run.save(tmp_path / "out").iterdir()}
    assert "TTFT" in str(run)
    assert "<div class='tiles'>" in run._repr_html_()


def test_a_study_from_a_file_remembers_where_it_was(tmp_path: Path) -> None:
    """Paths in it are beside it, errors name its lines."""
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(
        f"2024-01-01 00:00:{second:02d},100,10" for second in range(20)
    ))  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text("model: meta-llama/Llama-3.1-8B\nworkload: {trace: {path: trace.csv}}\ndeployment: {gpu: l40s}\n")
    study = simserve.load_study(path)

    assert ("mine", 20) == (study.name, simserve.simulate(study, interval=False).metrics.finished)
    assert "mine" == study.change({"slo.ttft_ms": 300}).name
    path.write_text("model: m\nworkload: {trace: {path: trace.csv}}\nslo: {tttf_ms: 3}\n")
    with pytest.raises(SpecError, match=r"mine.yaml:3: slo.tttf_ms: .*'ttft_ms'"):
        simserve.load_study(path)


def test_changes_leave_the_study_alone() -> None:
    """A new study each time; None takes a key away; what is wrong is refused at once."""
    study = simserve.load_study(TINY)
    other = study.change({"slo.ttft_ms": 100, "search": None}, seed=4)

    assert (100.0, None, 4) == (other.spec.slo.ttft_ms, other.spec.search, other.spec.seed)  # type: ignore[union-attr]
    assert simserve.load_study(TINY).data == study.data
    assert hash(study) == hash(simserve.load_study(TINY))
    with pytest.raises(TypeError, match="does not support item assignment"):
        study.data["workload"]["requests"] = 3  # type: ignore[index]
    assert other.spec == simserve.load_study({**other.data}).spec
    with pytest.raises(SpecError, match="did you mean 'ttft_ms'"):
        study.change({"slo.tft_ms": 100})
    with pytest.raises(SpecError, match="model has no keys below it"):
        study.change({"model.name": "x"})
    with pytest.raises(SpecError, match="a list is replaced whole"):
        study.change({"search.space.gpu[0]": "l40s"})
    given = {"gpu": "l40s"}
    study.change({"deployment": given, "deployment.replicas": 2})
    assert given == {"gpu": "l40s"}


def test_a_study_of_options_is_that_of_the_command_line(tmp_path: Path) -> None:
    """The study that is saved beside a result; options are named as they are, without dashes."""
    options = {"model": "meta-llama/Llama-3.1-8B", "gpu": ["h100_sxm", "l40s"], "gpus": 2, "rate": 4, "isl": 500,
               "osl": 50, "ttft": "0.5 s", "requests": 50, "trials": 2, "mode": "aggregated",
               "objective": "cost"}  # fmt: skip
    typed = [word for name, value in options.items()
             for word in (f"--{name}", ",".join(value) if isinstance(value, list) else str(value))]
    assert 0 == main(["search", *typed, "-o", str(tmp_path), "--no-html"])
    saved = json.loads((tmp_path / "result.json").read_text())["provenance"]["study"]

    assert saved == json.loads(simserve.describe(**options).spec.model_dump_json())
    with pytest.raises(UnknownName, match="did you mean 'rate'"):
        simserve.describe(**options, rat=3)
    with pytest.raises(SpecError, match=r"^rate: give either --rate or --concurrency"):
        simserve.describe(**{**options, "rate": None})


def test_mistakes_are_one_line() -> None:
    """Errors of the API are those of the command line."""
    with pytest.raises(UnknownName, match="did you mean 'quickstart'"):
        simserve.load_study("quickstrat")
    with pytest.raises(SpecError, match="no 'search' section"):
        simserve.search({**TINY, "search": None})
    with pytest.raises(Infeasible, match="h100_sxm"):
        simserve.simulate({**TINY, "model": "meta-llama/Llama-3.1-70B"})
    assert issubclass(SpecError, SimserveError)


def test_names_stay_functions_when_everything_is_imported() -> None:
    """No submodule is called like a public function."""
    folder = Path(simserve.__file__).parent
    modules = {path.stem for path in folder.iterdir()}

    assert set() == modules & set(simserve.__all__)


def test_a_gpu_that_does_not_exist(tmp_path: Path) -> None:
    """Unchanged it is the one that it is like; more bandwidth makes decoding faster, another price only costs."""
    base = simserve.load_study(TINY)
    now = simserve.simulate(base, interval=False).outcome

    def with_gpu(name: str, **numbers: object) -> "simserve.Simulation":
        gpu = simserve.vary_gpu("h100", tmp_path / f"{name}.yaml", **numbers)
        return simserve.simulate(base.change({"deployment.gpu": gpu}), interval=False)

    same, cheap = with_gpu("same").outcome, with_gpu("cheap", price_usd_per_hour=1.5).outcome
    faster = with_gpu("wide", memory_bandwidth_bytes_per_s=6_700_000_000_000)
    wide = faster.outcome

    assert (same.tpot_ms, same.ttft_ms) == pytest.approx((now.tpot_ms, now.ttft_ms), rel=0.03)
    assert {"transferred", "modelled"} == {name for name, share in same.sources.items() if share}
    assert (1.5, same.tpot_ms) == (cheap.usd_per_hour, cheap.tpot_ms)
    assert 0.5 < wide.tpot_ms / now.tpot_ms < 0.7  # type: ignore[operator]
    assert "1 x wide TP1" in str(faster)
    again = tmp_path / "again.yaml"
    simserve.vary_gpu(tmp_path / "wide.yaml", again, price_usd_per_hour=1)
    twice = simserve.simulate(base.change({"deployment.gpu": str(again)}), interval=False).outcome
    assert twice.tpot_ms == wide.tpot_ms
    with pytest.raises(SpecError, match="did you mean 'memory_bytes'"):
        simserve.vary_gpu("h100", tmp_path / "x.yaml", memory_byte=1)
    with pytest.raises(SpecError, match=r"ends in \.yaml"):
        simserve.vary_gpu("h100", tmp_path / "x")


def test_nobody_measured_a_gpu_that_does_not_exist(tmp_path: Path) -> None:
    """Its interval is wider than that of the GPU that it is like, and says why."""
    gpu = simserve.vary_gpu("h100", tmp_path / "wide.yaml", memory_bandwidth_bytes_per_s=6_700_000_000_000)
    study = simserve.load_study(TINY)
    now, then = (simserve.simulate(asked).outcome for asked in (study, study.change({"deployment.gpu": gpu})))
    ratios = [[end / outcome.metrics["tpot_ms"]["p90"] for end in outcome.interval.ranges["tpot_ms.p90"]]
              for outcome in (now, then)]  # type: ignore[union-attr]

    assert ratios[1][0] < ratios[0][0] < 1 < ratios[0][1] < ratios[1][1]
    assert "does not exist" in then.interval.sources["tpot"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: simserve.load_study(5), "a path, a name or a mapping"),  # type: ignore[arg-type]
        (lambda: simserve.load_study(""), "a path, a name or a mapping"),
        (lambda: simserve.load_study(TINY).change([1]), "a mapping of dotted keys"),  # type: ignore[arg-type]
        (lambda: simserve.simulate(TINY, requests=-5), "requests: must be a whole number above 0"),
        (lambda: simserve.search(TINY, requests=0), "requests: must be a whole number above 0"),
        (lambda: simserve.search(TINY, jobs=0), "jobs: must be a whole number above 0"),
        (lambda: simserve.search(TINY, resume=True), "resume: needs out_dir"),
        (lambda: simserve.search(TINY, progress=5), "progress: must be True"),  # type: ignore[arg-type]
        (lambda: simserve.describe(model=5), "model: must be a name"),
        (lambda: simserve.describe(model="x", gpu="h100", isl="a", osl=3, rate=1), "isl: must be a whole number"),
        (lambda: simserve.describe(model="x", gpu="h100", gpus=10**9, rate=1, isl=1, osl=1), "gpus: must be 1 to"),
        (lambda: simserve.vary_gpu(5, "x.yaml"), "base: must be text"),  # type: ignore[arg-type]
        (lambda: simserve.vary_gpu("h100", "x.yaml", name="y"), "name: is no number of a GPU"),
        (lambda: simserve.vary_gpu("h100", "x.yaml", interconnect="nvlink44"), "did you mean 'nvlink4'"),
        (lambda: simserve.vary_gpu("h100", "x.yaml", peak_flops=5), "peak_flops: must be a mapping"),
        (lambda: simserve.load_study({**TINY, "name": ".."}), "name"),
    ],
)  # fmt: skip
def test_odd_arguments_are_one_line(call: Callable[[], object], said: str) -> None:
    """No traceback of something inside; nothing is written."""
    with pytest.raises(SimserveError, match=said.replace("(", "[(]")) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_study_that_is_saved_elsewhere_asks_the_same(tmp_path: Path) -> None:
    """Its trace is where it was."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "t.csv").write_text("time,prompt_tokens,output_tokens\n0,100,5\n1,100,5\n")
    asked = {"model": TINY["model"], "workload": {"trace": {"path": "t.csv"}}, "deployment": {"gpu": "l40s"}}
    (tmp_path / "here" / "s.yaml").write_text(simserve.Study(asked).to_yaml())
    simserve.load_study(tmp_path / "here" / "s.yaml").save(tmp_path / "s.yaml")

    assert simserve.simulate(tmp_path / "s.yaml", interval=False).metrics.finished == 2


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen/Qwen3-32B", "qwen3-32b"), ("mine/config.json", "config"), ("My Models/big one.yaml", "big-one")],
)
def test_a_study_is_called_after_its_model(model: str, name: str) -> None:
    """Its folder of results too."""
    assert simserve.describe(model=model, gpu="h100", rate=1, isl=10, osl=10).data["name"] == name
