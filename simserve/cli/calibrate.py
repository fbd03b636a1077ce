"""`simserve calibrate`: an engine profile's constants from measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.names import check_names
from simserve.cli.options import refuse
from simserve.errors import MissingData, SpecError

if TYPE_CHECKING:
    from simserve.accuracy.fit import Evaluate, Fit
    from simserve.accuracy.points import Point
    from simserve.perf.host import EngineProfile

FEW = 10  # scenarios, below which none are kept back


def calibrate(
    out: Annotated[Path, typer.Option("-o", "--output", help="Profile to write, NAME.yaml or NAME.calibrated.yaml.")],
    bench: Annotated[
        list[Path] | None,
        typer.Option(help="Result of vllm bench serve, sglang.bench_serving, genai-perf or AIPerf; repeatable."),
    ] = None,
    study: Annotated[Path | None, typer.Option(help="Study whose model and deployment the results ran on.")] = None,
    records: Annotated[Path | None, typer.Option(help="CSV of measured points (default: silicon sample).")] = None,
    package_dir: Annotated[Path | None, typer.Option(help="An unpacked aiconfigurator_core.")] = None,
    flags: Annotated[Path | None, typer.Option(help="CSV of stored cleaning verdicts.")] = None,
    framework: Annotated[
        str | None, typer.Option(help="Fit this profile, to its points alone (default: vllm, or the study's).")
    ] = None,
    since: Annotated[str, typer.Option(help="Engine versions from this one on.")] = "",
    before: Annotated[str, typer.Option(help="Engine versions before this one.")] = "",
    constant: Annotated[list[str] | None, typer.Option(help="Fit these alone; repeatable (default: all).")] = None,
    sample: Annotated[int, typer.Option(min=0, help="So many points, drawn evenly (default: all).")] = 0,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Closed loops of at most so many (default: 128; of your own runs all).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of derivatives.")] = 4,
    go_on: Annotated[bool, typer.Option("--go-on", help="Begin at what was fitted before.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and of the split.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="OUT", help="Write the fit to OUT; '-' prints it.")
    ] = None,
) -> None:
    """Fit host times, API times and kernel factors to measured runs; 30 % of the scenarios are kept to judge the fit.

    Examples:
      # your own runs
      simserve calibrate --bench c8.json --bench c64.json --study study.yaml -o data/perfdb/engines/mine.yaml
      # the profile that ships
      simserve calibrate --framework vllm --since 0.14 --sample 110 --jobs 2 -o perfdb/engines/vllm.calibrated.yaml
    """
    from simserve.accuracy.fit import fit
    from simserve.accuracy.fitted import SLOWEST, chosen, seen_in
    from simserve.accuracy.split import CALIBRATION, split
    from simserve.build import profile_name
    from simserve.perf.host import load_profile
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out, out)
    if bench is not None:
        refuse("is for points, not --bench", records=records, package_dir=package_dir, flags=flags, framework=framework)
    if records is not None:
        refuse("is for the silicon sample, not --records", package_dir=package_dir, flags=flags)
    points = _points(bench, study, records, package_dir, flags)
    name = profile_name(points[0].engine, points[0].framework) if bench else framework or "vllm"
    _check_name(out, name)
    mine = bench is not None or records is not None
    few = len({point.scenario for point in points}) < FEW
    seen, of = points if few else split(points, CALIBRATION, seed), "" if bench else name
    most = clients or (0 if mine else SLOWEST)
    fitting = chosen(seen, of, since, before, sample, seed, most)
    kept = [] if few else _kept(points, of, since, before, sample, seed, most)
    version, names = since or (fitting[0].version if mine else ""), tuple(constant or seen_in(fitting))
    start, begin = load_profile(name, version, calibrated=mine), None
    if go_on:
        begin = load_profile(name, version)
        start = _going_on(start, begin, names)
    found = fit(start, _progress(fitting, jobs), len(fitting), names, rounds, begin)
    content = _content(found, start, names, fitting, kept, jobs)
    everything = chosen(seen, of, since, before, seed=seed)
    versions = f"{f' from {since}' if since else ''}{f' before {before}' if before else ''}"
    loads = f" at up to {most} clients" if most else ""
    write_atomic(out, _text(out, found, names, (fitting, everything), name, (since, versions, loads), jobs))
    if json_out is not None and json_out != "-":
        write_atomic(Path(json_out), to_json(content))
    if json_out == "-":
        typer.echo(to_json(content), nl=False)
        return
    _print(content, out)


def _points(
    bench: list[Path] | None, study: Path | None, records: Path | None, package_dir: Path | None, flags: Path | None
) -> list[Point]:
    if (bench is None) != (study is None):
        raise SpecError("results need --study for the deployment that they ran on, and it needs --bench", key="--study")
    if bench is not None and study is not None:
        from simserve.accuracy.benches import like_study, read_bench
        from simserve.spec.study import load_study

        asked = load_study(study)
        check_names(asked, study)
        like = like_study(asked.model, asked.deployment)
        return [point for path in bench for point in read_bench(path, like)]
    if records is not None:
        from simserve.accuracy.points import read_points

        return read_points(records)
    from simserve.accuracy.silicon import silicon_points

    return [point for _, point in silicon_points(package_dir, flags).points]


def _going_on(start: EngineProfile, before: EngineProfile, names: Sequence[str]) -> EngineProfile:
    """Where the priors hold the constants that are fitted now; the others are as they were fitted before."""
    from simserve.accuracy.fit import CONSTANTS

    values: dict[str, Any] = {name: getattr(start, name) for name in names if name in CONSTANTS}
    return replace(before, **values)


def _check_name(out: Path, framework: str) -> None:
    """Before any work: a profile may not rest on itself, and what was fitted lies beside its profile."""
    if out.name == f"{framework}.yaml":
        raise SpecError(f"give the profile a name of its own: it rests on {framework}", file=str(out))
    if out.name.endswith(".calibrated.yaml") and not out.with_name(out.name.replace(".calibrated", "")).is_file():
        raise SpecError("lies beside no profile of that name; write NAME.yaml instead", file=str(out))


def _kept(
    points: list[Point], framework: str, since: str, before: str, sample: int, seed: int, clients: int
) -> list[Point]:
    """The held-out points of the same range; none if there are none."""
    from simserve.accuracy.fitted import chosen
    from simserve.accuracy.split import HELD_OUT, split

    try:
        return chosen(split(points, HELD_OUT, seed), framework, since, before, sample, seed, clients)
    except MissingData:
        return []


def _progress(points: list[Point], jobs: int) -> Evaluate:
    """Residuals, with a line that says how often they were taken."""
    from rich.console import Console

    from simserve.accuracy.fit import residuals

    console, taken = Console(stderr=True), [0]

    def evaluate(profile: EngineProfile) -> Any:
        taken[0] += 1
        if console.is_terminal:
            console.print(f"playing {len(points)} points, time {taken[0]}", end="\r")
        return residuals(points, profile, jobs)

    return evaluate


def _text(
    out: Path, found: Fit, names: tuple[str, ...], points: tuple[list[Point], list[Point]], framework: str,
    since: tuple[str, str, str], jobs: int,
) -> str:  # fmt: skip
    """An overlay for a shipped profile, or a profile of its own on that of the framework.

    points: those of the fit, and all that it could have been made from, whose residuals give the spreads; since: the
    version, and in words the range and the loads.
    """
    import yaml

    from simserve.accuracy.fit import residuals
    from simserve.accuracy.fitted import entries, merged, spreads

    of = f"points of {framework}{since[1]}"
    rows = entries(found, names, f"{len(points[0])} {of}{since[2]}")
    rows.update(spreads(residuals(points[1], found.profile, jobs), f"{len(points[1])} {of}"))
    if out.name.endswith(".calibrated.yaml"):
        remark = "Fitted by `simserve calibrate`, by version of the engine; see perfdb/README.md."
        return merged(out, since[0], rows, remark)
    kernels = {"value": found.profile.kernel_tables, "source": f"as for {framework} {found.profile.version or 'now'}"}
    whole = {"name": out.stem, "base": framework, "kernel_tables": kernels, **rows}
    return str(yaml.safe_dump(whole, sort_keys=False, width=110))


def _content(
    found: Fit, start: EngineProfile, names: tuple[str, ...], fitting: list[Point], kept: list[Point], jobs: int
) -> dict[str, Any]:
    """Constants and what they changed, on the points of the fit and on those kept back."""
    constants = {
        name: {"before": getattr(start, name), "after": getattr(found.profile, name), "error": found.errors[name]}
        for name in names
    }
    parts = {"fitted": fitting, "held-out": kept}
    errors = {
        part: {when: _errors(points, profile, jobs) for when, profile in (("before", start), ("after", found.profile))}
        for part, points in parts.items() if points
    }  # fmt: skip
    return {"constants": constants, "points": {part: len(points) for part, points in parts.items()}, "errors": errors,
            "loss": {"before": found.loss_before, "after": found.loss_after}}  # fmt: skip


def _errors(points: list[Point], profile: EngineProfile, jobs: int) -> dict[str, float]:
    """Median and mean relative error of TTFT and TPOT."""
    import numpy as np

    from simserve.accuracy.fit import residuals

    off = np.abs(np.expm1(residuals(points, profile, jobs).reshape(-1, 2))).T
    known = {metric: own[~np.isnan(own)] for metric, own in zip(("ttft", "tpot"), off, strict=True)}
    return {
        f"{metric}_{name}": float(of(own)) if len(own) else float("nan")
        for name, of in (("median", np.median), ("mape", np.mean)) for metric, own in known.items()
    }  # fmt: skip


def _print(content: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from simserve.report.console import make_console

    console = make_console()
    shown = Table("constant", "before", "after", "standard error", box=SIMPLE_HEAD)
    for name, row in content["constants"].items():
        shown.add_row(name, *(f"{row[key]:,.4g}" for key in ("before", "after", "error")))
    console.print(shown)
    for part, both in content["errors"].items():
        changes = (
            f"{metric.upper()} {name} {100 * both['before'][key]:.1f} -> {100 * both['after'][key]:.1f} %"
            for metric in ("ttft", "tpot") for name in ("median", "mape") for key in (f"{metric}_{name}",)
        )  # fmt: skip
        console.print(f"{part} ({content['points'][part]} points): {', '.join(changes)}", highlight=False)
    if "held-out" not in content["errors"]:
        console.print(f"no scenarios kept back: fewer than {FEW}", highlight=False)
    console.print(f"written to {out}; name it in a study as deployment.engine: {out.name.partition('.')[0]}")
