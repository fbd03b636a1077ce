"""Numbers and verdicts as a reader sees them, the same in the terminal and on a page."""

from __future__ import annotations

from simserve.search.objective import NEVER_MS, Outcome


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant ones, whole from there on; 'never' for NEVER_MS, '-' for None."""
    if value is None:
        return "-"
    if value >= NEVER_MS:
        return "never"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def in_ms(value: float | None) -> str:
    """The same with its unit, where there is a value."""
    text = number(value)
    return text if text in ("-", "never") else f"{text} ms"


def verdict(run: Outcome) -> str:
    """'met', or what of the SLO a run misses; '' without an SLO that it could miss."""
    names = [f"{s.name.upper()} P{s.percentile:g}" for s in run.slo if s.excess > 0.0]
    names += [f"{run.turned_away:,} turned away"] if run.turned_away else []
    return f"misses {', '.join(names)}" if names else "met" if run.slo else ""
