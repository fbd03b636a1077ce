"""Expectations against a result: one verdict for each, with what was measured, the bound, and how far off it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from simserve.check.metrics import PREFIX, numbers, worse
from simserve.errors import SpecError, nearest_name
from simserve.explore.objective import NEVER_MS
from simserve.explore.result import describe, missed, nothing_meets

if TYPE_CHECKING:
    from simserve.check.baseline import Baseline
    from simserve.explore.objective import Outcome
    from simserve.explore.result import SearchResult
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.expect import BoundSpec, ExpectSpec

Status = Literal["passed", "failed", "skipped"]
_ROUNDED = 1e-9  # of a value: baselines keep ten digits, so that "0%" means the same number


@dataclass(frozen=True)
class Verdict:
    """One expectation.

    measured: a number, or text where it is none; expected: in words; off: by how much the bound is missed, as a share
    of it, None where that means nothing; message: one line that says why it failed or was skipped, "" if it passed.
    """

    name: str
    status: Status
    measured: float | str | None
    expected: str
    off: float | None = None
    message: str = ""


def winner(result: SearchResult) -> Outcome | None:
    """The recommended run of a search, None if nothing meets the SLO; the only run of a simulation."""
    return result.recommended if result.kind == "search" else result.runs[0]


def judge(expect: ExpectSpec, result: SearchResult) -> list[Verdict]:
    """All expectations but those of a baseline, in the order SLO, metrics, winner."""
    found: list[Verdict] = []
    run = winner(result)
    if expect.slo_met is not None:
        found.append(_slo(expect.slo_met, result))
    if run is None:
        wanted = {**{name: _range(bound) for name, bound in expect.bounds.items()},
                  **({} if expect.winner is None else {"winner": _stated(expect.winner)})}  # fmt: skip
        return [*found, *(_no_winner(name, words, result) for name, words in wanted.items())]
    values = numbers(run)
    found += [within(name, _value(values, name), bound) for name, bound in expect.bounds.items()]
    if expect.winner is not None:
        found.append(_winner(expect.winner, result, run, ties=expect.ties))
    return found


def compare(expect: ExpectSpec, result: SearchResult, baseline: Baseline) -> list[Verdict]:
    """One verdict for each metric that has a tolerance."""
    run = winner(result)
    tolerances = {} if expect.tolerance is None else expect.tolerance.metrics
    if run is None:
        return [_no_winner(f"baseline {name}", f"within {100 * t:g} %", result) for name, t in tolerances.items()]
    values = numbers(run)
    return [_regression(name, _value(values, name), tolerance, baseline) for name, tolerance in tolerances.items()]


def skipped(expect: ExpectSpec, why: str) -> list[Verdict]:
    """What `compare` would have judged, had it been possible."""
    tolerances = {} if expect.tolerance is None else expect.tolerance.metrics
    return [Verdict(f"baseline {name}", "skipped", None, f"within {100 * t:g} %", message=why)
            for name, t in tolerances.items()]  # fmt: skip


def _slo(expected: bool, result: SearchResult) -> Verdict:
    run = winner(result)
    met = run is not None and run.meets_slo
    measured, wanted = ("met" if met else "missed"), ("met" if expected else "missed")
    if met == expected:
        return Verdict("slo_met", "passed", measured, wanted)
    if met:
        return Verdict("slo_met", "failed", measured, wanted, message="the SLO is met, which was not expected")
    nearest = result.runs[0]
    off = nearest.worst_excess if 0 < nearest.worst_excess < NEVER_MS / 1e6 else None
    why = nothing_meets(result) if run is None else f"the SLO is not met: {missed(nearest)}"
    above = "" if off is None else f", {percent(off)} above"
    return Verdict("slo_met", "failed", measured, wanted, off, why + above)


def within(name: str, value: float | None, bound: BoundSpec) -> Verdict:
    """Whether a metric lies in its bounds; one without a value does not."""
    wanted = _range(bound)
    if value is None:
        return Verdict(name, "failed", None, wanted, message=f"{name} has no value in this run, expected {wanted}")
    if bound.max is not None and value > bound.max:
        return _missed_bound(name, value, wanted, "above", bound.max)
    if bound.min is not None and value < bound.min:
        return _missed_bound(name, value, wanted, "below", bound.min)
    return Verdict(name, "passed", value, wanted)


def _missed_bound(name: str, value: float, wanted: str, side: str, limit: float) -> Verdict:
    off = abs(value - limit) / abs(limit) if limit and value < NEVER_MS else None
    share = "" if off is None else f" ({percent(off)})"
    by = "" if value >= NEVER_MS else f" by {text(abs(value - limit))}{share}"
    return Verdict(name, "failed", value, wanted, off, f"{name} is {text(value)}, {side} the bound {text(limit)}{by}")


def _winner(stated: Any, result: SearchResult, run: Outcome, *, ties: bool) -> Verdict:
    """The recommended run, or with `ties` any run that ties with it, is as stated."""
    wanted = _stated(stated)
    different = list(_differences(stated, run.deployment))
    if not different:
        return Verdict("winner", "passed", describe(run), wanted)
    tied = next((one for one in result.ties if not list(_differences(stated, one.deployment))), None)
    if tied is not None and ties:
        return Verdict("winner", "passed", f"{describe(tied)}, which ties with {describe(run)}", wanted)
    remark = "" if tied is None else f"; {describe(tied)} ties with it, which `ties: true` would accept"
    why = f"the winner is {describe(run)}: {', '.join(different)}{remark}"
    return Verdict("winner", "failed", describe(run), wanted, message=why)


def _differences(stated: Any, deployment: DeploymentSpec) -> Iterator[str]:
    """'gpu is a100_sxm, not h100_sxm' for each stated key that is otherwise; pools are stated in part as well."""
    for key in type(stated).model_fields:
        if key == "pools" and stated.pools:
            engines = dict(deployment.engines())
            for name, pool in stated.pools:
                if name not in engines:
                    yield f"there is no pool {name}"
                else:
                    yield from (f"pools.{name}.{what}" for what in _unlike(pool, engines[name]))
    yield from _unlike(stated, deployment)


def _unlike(stated: Any, deployment: DeploymentSpec) -> Iterator[str]:
    for key in type(stated).model_fields:
        if key in stated.model_fields_set and key != "pools":
            found, wanted = getattr(deployment, key), getattr(stated, key)
            if found != wanted:
                yield f"{key} is {found}, not {wanted}"


def _regression(name: str, value: float | None, tolerance: float, baseline: Baseline) -> Verdict:
    """Not worse than the baseline by more than the tolerance; a metric with no worse direction not far from it."""
    title, stored = f"baseline {name}", baseline.metrics.get(name.removeprefix(PREFIX))
    wanted = f"within {100 * tolerance:g} % of {'nothing' if stored is None else text(stored)}"
    if value is None or stored is None:
        lacks = "this run" if value is None else f"the baseline {baseline.path}"
        return Verdict(title, "failed", value, wanted, message=f"{name} has no value in {lacks}")
    change = value - stored
    loss = {"higher": change, "lower": -change, "either": abs(change)}[worse(name)]
    if loss <= (tolerance + _ROUNDED) * abs(stored):
        return Verdict(title, "passed", value, wanted)
    off = loss / abs(stored) if stored else None
    by = f"{text(abs(change))} " if off is None else f"{percent(off)} "
    why = (f"{name} is {text(value)}, the baseline {text(stored)} ({baseline.made_by}): {by}"
           f"{'higher' if change > 0 else 'lower'}, {100 * tolerance:g} % is allowed")  # fmt: skip
    return Verdict(title, "failed", value, wanted, off, why)


def _no_winner(name: str, wanted: str, result: SearchResult) -> Verdict:
    return Verdict(name, "failed", None, wanted, message=f"there is no winner: {nothing_meets(result)}")


def _value(values: dict[str, float], name: str) -> float | None:
    """A number of the run; names whose existence depends on the deployment are found wrong only here."""
    plain = name.removeprefix(PREFIX)
    group = [known for known in values if known.startswith(f"{plain.partition('.')[0]}.")]
    if plain.startswith("memory_bytes.") and plain not in values:
        raise SpecError(f"this run has no {name!r}", key=f"expect.{name}", nearest=nearest_name(plain, group))
    return values.get(plain)


def _stated(stated: Any) -> str:
    """'gpu h100_sxm, replicas 2' as the study says."""
    plain = stated.model_dump(mode="json", exclude_unset=True)
    return ", ".join(f"{key} {value}" for key, value in plain.items())


def _range(bound: BoundSpec) -> str:
    sides = ("at least", bound.min), ("at most", bound.max)
    return ", ".join(f"{words} {text(limit)}" for words, limit in sides if limit is not None)


def text(value: float) -> str:
    """A number for people, to six digits."""
    return "never" if value >= NEVER_MS else f"{value:,.6g}"


def percent(share: float) -> str:
    """A share for people, to three digits."""
    return f"{100 * share:.3g} %"
