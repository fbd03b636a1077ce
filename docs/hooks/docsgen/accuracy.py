"""Tables and pictures of the accuracy page, from docs/accuracy.json, which `docs/accuracy.py` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

from docsgen.markdown import ROOT, cell, code, table
from docsgen.pictures import bars, histogram

FEW = 12  # named rows that are shown
NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "throughput": "output tokens/s/GPU"}


@cache
def figures() -> dict[str, Any]:
    """The saved figures."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "accuracy.json").read_text(encoding="utf-8"))
    return found


def block(name: str, *rest: str) -> str:
    """One block by name."""
    makers: dict[str, Callable[..., str]] = {
        "headline": headline, "regimes": regimes, "picture": picture, "spread": spread, "records": records,
        "argonne": argonne, "beside": beside, "provenance": provenance, "left_out": left_out,
    }  # fmt: skip
    return makers[name](*rest)


def _percent(value: float, sign: bool = False) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _three(score: dict[str, Any]) -> str:
    bias = score.get("signed_median", score.get("bias"))
    return f"{_percent(score['median'])}, {_percent(score['mape'])}, {_percent(bias, True)} %"


def _two(score: dict[str, Any]) -> str:
    return f"{_percent(score['median'])} ({_percent(score['signed_median'], True)})"


def _scores(run: str, regime: str = "all") -> dict[tuple[str, str], dict[str, Any]]:
    """(value, metric) -> score of one regime."""
    rows = figures()["runs"][run]["scores"]
    return {(row["value"], row["metric"]): row for row in rows if row["regime"] == regime}


def headline() -> str:
    """All points of each run in a line."""
    titles = {
        "uncalibrated": "`--uncalibrated`, all points", "calibration": "calibrated, scenarios that it was fitted on",
        "held_out": "calibrated, held-out scenarios", "disaggregated": "calibrated, disaggregated points",
    }  # fmt: skip
    rows = []
    for run, title in titles.items():
        own = {metric: score for (_, metric), score in _scores(run).items()}
        ranks = ", ".join(f"{own[m]['spearman']:.3f}" for m in ("ttft", "throughput") if own.get(m, {}).get("spearman"))
        rate = f"{_percent(own['throughput']['median'])} %" if "throughput" in own else ""
        rows.append((title, own["ttft"]["points"], _three(own["ttft"]), _three(own["tpot"]), rate, ranks))
    new = figures()["runs"]["held_out"]["vllm_from_0.14"]
    rows.insert(
        3, ("of these vLLM from 0.14 on", new["ttft"]["points"], _three(new["ttft"]), _three(new["tpot"]), "", "")
    )
    head = ("", "points", "TTFT median, MAPE, bias", "TPOT median, MAPE, bias", "throughput median", "rank correlation")
    return table(head, rows, (1,))


def left_out() -> str:
    """Rows that were not played, by reason; coverage of the intervals."""
    lines = []
    for run, title in (("held_out", "Aggregated points"), ("disaggregated", "Disaggregated points")):
        own = figures()["runs"][run]
        for reason, count in own["left_out"].items():
            lines.append(f"- {title}, left out: {count:,} rows, {reason}")
        for reason, count in own["not_predicted"].items():
            lines.append(f"- {title}, not predicted: {count:,} rows, {cell(reason)}")
    held = figures()["runs"]["held_out"]["interval_coverage"]
    shares = ", ".join(f"{NAMES.get(m, m)} {100 * row['share']:.0f} %" for m, row in held.items())
    return "\n".join([*lines, f"- Held-out measurements within the 90 % interval: {shares}"])


def regimes(run: str) -> str:
    """Every regime of a run, TTFT and TPOT."""
    known = figures()["runs"][run]["scores"]
    rows = []
    for regime in dict.fromkeys(row["regime"] for row in known if row["regime"] not in ("all", "mode", "model")):
        own = _scores(run, regime)
        values = dict.fromkeys(value for value, _ in own)
        for value in sorted(values, key=_first_number) if regime == "concurrency" else values:
            ttft, tpot = own.get((value, "ttft")), own.get((value, "tpot"))
            points = (ttft or tpot or {}).get("points", "")
            rows.append((regime, cell(value), points, _three(ttft) if ttft else "", _three(tpot) if tpot else ""))
    head = ("by", "", "points", "TTFT median, MAPE, bias", "TPOT median, MAPE, bias")
    return table(head, rows, (2,))


def _first_number(text: str) -> int:
    return int(text.partition("-")[0].rstrip("+"))


def picture(run: str) -> str:
    """Median errors by framework, GPU, kind of model and clients as bars."""
    groups = []
    for regime in ("framework", "gpu", "model class", "concurrency"):
        own = _scores(run, regime)
        values = dict.fromkeys(value for value, _ in own)
        for value in sorted(values, key=_first_number) if regime == "concurrency" else values:
            pair = [own[value, metric] for metric in ("ttft", "tpot") if (value, metric) in own]
            name = f"{value} clients" if regime == "concurrency" else value
            groups.append((f"{name} ({pair[0]['points']})", [100 * score["median"] for score in pair]))
    return bars("Median error in %, held-out points; in brackets how many", groups, ("TTFT", "TPOT"), most=40)


def spread(run: str) -> str:
    """How predicted / measured is spread."""
    own = figures()["runs"][run]["spread"]
    edges = [-1.5 + 0.1 * i for i in range(31)]
    labels = {-1.0: "half", 0.0: "as measured", 1.0: "twice"}
    return "\n".join(
        histogram(f"{NAMES[metric]}: predicted over measured, ends: all beyond", own[metric], edges, labels)
        for metric in ("ttft", "tpot")
    )


def records(run: str) -> str:
    """Scores of a records file, a column per metric, and its named rows if they are few."""
    own = figures()["runs"][run]
    metrics = list(dict.fromkeys(score["metric"] for score in own["scores"]))
    groups: dict[str, dict[str, Any]] = {}
    for score in own["scores"]:
        groups.setdefault(f"{score['regime']} {score['value']}".strip(), {})[score["metric"]] = score
    rows = [
        (cell(name), max(score["points"] for score in scores.values()),
         *(_two(scores[m]) if m in scores else "" for m in metrics))
        for name, scores in groups.items()
    ]  # fmt: skip
    head = ("median error in %, and bias", "rows", *(cell(NAMES.get(metric, metric)) for metric in metrics))
    lines = [table(head, rows, range(1, 2 + len(metrics)))]
    named = own.get("records") or []
    if 0 < len(named) <= FEW:
        shown = [
            (cell(r["metric"]), f"{r['measured']:,.1f}", f"{r['predicted']:,.1f}", f"{_percent(r['error'], True)} %")
            for r in named
        ]
        lines += ["", table(("the whole run", "measured ms", "predicted ms", "error"), shown, (1, 2, 3))]
    return "\n".join(lines)


def argonne() -> str:
    """The whole of LLM-Inference-Bench's rows."""
    rows = figures()["argonne"]
    shown = [
        (code(r["model"].rpartition("/")[2]), r["input=output"], r["batch"], f"{r['measured_s']:.2f}",
         f"{r['predicted_s']:.2f}", f"{r['error_%']:+.1f} %", "yes" if r["inside"] else "no")
        for r in rows
    ]  # fmt: skip
    errors = sorted(abs(r["error_%"]) for r in rows)
    signed = sorted(r["error_%"] for r in rows)
    inside = sum(r["inside"] for r in rows)
    line = (f"Over all {len(rows)} rows: median absolute error {_median(errors):.1f} %, bias {_median(signed):+.1f} %, "
            f"worst {max(signed, key=abs):+.1f} %; {100 * inside / len(rows):.0f} % of the measurements lie within the "
            "90 % interval.")  # fmt: skip
    head = ("model", "in = out", "batch", "measured s", "predicted s", "error", "within the interval")
    return "\n".join([line, "", table(head, shown, range(1, 6))])


def _median(values: list[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else math.fsum(values[middle - 1 : middle + 1]) / 2


def beside() -> str:
    """simserve and AIConfigurator on the same points."""
    found, rows = figures()["beside_aiconfigurator"], []
    for mode in ("SILICON", "HYBRID"):
        for side, own in found[mode].items():
            rows.append((mode, side, own["ttft"]["points"], _three(own["ttft"]), _three(own["tpot"])))
    head = ("its mode", "", "points", "TTFT median, MAPE, bias", "TPOT median, MAPE, bias")
    line = (f"Of {found['clean']:,} points that the stored verdicts call clean {found['played']:,} were played; the "
            "others are repeats, of which another one was.")  # fmt: skip
    return "\n".join([table(head, rows, (2,)), "", line])


def provenance() -> str:
    """Versions, date, and the commands."""
    about = figures()["provenance"]
    lines = [f"- simserve {about['simserve']}, Python {about['python']}, NumPy {about['numpy']}, seed {about['seed']}, "
             f"{about['date']}", f"- measured: {about['measured']}", "", "```console"]  # fmt: skip
    lines += [f"$ {command}" for command in about["commands"].values()]
    return "\n".join([*lines, "```"])
