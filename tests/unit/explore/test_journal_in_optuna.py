"""The journal that a search leaves, as Optuna and its dashboard read it."""

import json
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from simserve.cli.main import main

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 6}
  prompt_tokens: {kind: fixed, value: 400}
  output_tokens: {kind: fixed, value: 40}
  requests: 40
slo: {ttft_ms: 500, tpot_ms: 15}
search:
  space: {gpu: [h100_sxm, l40s], tensor_parallel_size: [1, 2], replicas: [1, 2]}
  trials: 6
"""


def test_optuna_reads_what_a_search_leaves(tmp_path: Path) -> None:
    """One study with named metrics; a complete trial per run, with its knobs, values and constraints."""
    (tmp_path / "tiny.yaml").write_text(STUDY)
    assert main(["search", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path), "--no-html"]) == 0
    runs = json.loads((tmp_path / "result.json").read_text())["runs"]
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "search.journal")))
    names = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=names[0], storage=storage)
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))

    assert len(names) == 1
    assert study.metric_names == ["tokens_per_s_per_gpu", "tpot_ms"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert sorted(t.values for t in done) == sorted([r["tokens_per_s_per_gpu"], r["tpot_ms"]] for r in runs)
    assert {"gpu", "tensor_parallel_size", "replicas"} <= set(done[0].params)
    assert {"ttft", "tpot", "turned_away"} == set(done[0].constraints)
    assert study.best_trials
