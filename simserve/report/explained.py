"""`simserve explain RESULT` for a person at a terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simserve.explore.explained import AS_IS, NEAR, Explanation, Purchase
from simserve.explore.objective import KERNELS
from simserve.explore.pressure import RESOURCE, SLO, Gauge
from simserve.explore.result import describe
from simserve.explore.rivals import lines
from simserve.explore.values import value
from simserve.report.words import number, rests_on

_SOURCES = ("measured", "interpolated", "transferred", "modelled")
_SURE = {"gemm": "GEMMs", "elementwise": "elementwise passes", "host": "host"}


def print_explanation(console: Console, found: Explanation) -> None:
    """Why it won, what binds, what more would buy, how sure the numbers are."""
    _print_choice(console, found)
    if (hosted := found.hosting) is not None:
        for line in hosted.lines:
            console.print(escape(line), highlight=False)
    for line in lines(found.rivals, found.saved.outcome, found.saved.objective):
        console.print(escape(line), highlight=False)
    _print_limits(console, found)
    _print_buys(console, found)
    _print_numbers(console, found.numbers)
    for note in found.notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)


def _print_choice(console: Console, found: Explanation) -> None:
    saved, chosen = found.saved, found.saved.outcome
    name = escape(str(saved.document.get("name", "")))
    if saved.document.get("kind") != "search":
        verdict = "simulated"
    else:
        nearest = "nearest to the SLO, which nothing meets"
        verdict = f"recommended for {saved.objective}" if chosen.meets_slo else nearest
    console.print(f"[bold]{name}[/]: {verdict}: {escape(describe(chosen))}", highlight=False)
    second = found.runner_up
    if second is not None:
        pair = [number(second[which], 4) for which in ("chosen", "other")]
        numbers = f": {pair[0]} against {pair[1]}" if second["chosen"] is not None else ""
        console.print(f"It beats the runner-up, {escape(second['configuration'])}, by {second['decided_by']}{numbers}.",
                      highlight=False)  # fmt: skip
    for what, count in found.missed.items():
        console.print(f"[dim]simulated and out, {count}: {escape(what)}[/]", highlight=False)
    for row in saved.document.get("rejected", [])[:5]:
        console.print(f"[dim]not possible, {row['configurations']}: {escape(str(row['reason']))}[/]", highlight=False)


def _print_limits(console: Console, found: Explanation) -> None:
    table = Table(box=SIMPLE_HEAD, title="What binds", title_justify="left")
    for header in ("", "reached", "limit", "%", "% of busy time at it"):
        table.add_column(header, justify="right" if header else "left")
    for limit in found.limits:
        style = "bold" if limit.name in found.binds else ""
        table.add_row(escape(limit.name), *_limit_cells(limit), style=style)
    console.print(table)
    near = [limit.name for limit in found.limits if limit.name in found.binds and limit.nearness >= NEAR]
    nearest = f"; nearest is {escape(found.binds[0])}" if found.binds else ""
    console.print(f"Binding: {escape(', '.join(near))}." if near else f"Nothing binds{nearest}.", highlight=False)
    for sentence in found.why:
        console.print(escape(sentence), highlight=False)


def _limit_cells(limit: Gauge) -> tuple[str, ...]:
    unit = " ms" if limit.kind == SLO else ""
    if limit.kind in (SLO, RESOURCE):
        at = "" if limit.time_at is None else f"{100 * limit.time_at:.1f}"
        return f"{number(limit.reached)}{unit}", f"{limit.bound:,g}{unit}", f"{100 * limit.nearness:.0f}", at
    return "", "", f"{100 * limit.reached:.0f}", ""


def _print_buys(console: Console, found: Explanation) -> None:
    table = Table(box=SIMPLE_HEAD, title="What more would buy", title_justify="left")
    for header in ("", "GPUs", "tokens/s /GPU", "TTFT ms", "TPOT ms", "USD/h", "bears, x load", "known from"):
        table.add_column(header, justify="right" if header else "left")
    for buy in found.buys:
        table.add_row(escape(buy.what + (f"; {buy.note}" if buy.note else "")), *_buy_cells(buy))
    console.print(table)
    for why in dict.fromkeys(buy.unknown for buy in found.buys if buy.unknown):
        whose = ", ".join(buy.what for buy in found.buys if buy.unknown == why)
        console.print(f"Bears - ({escape(whose)}): {escape(why)}.", highlight=False)
    own = next((buy.capacity for buy in found.buys if buy.what == AS_IS), None)
    if own is not None:
        console.print(f"As it is, it bears {own:.2f} times the load within the SLO (simulated, one seed, to 5 %).",
                      highlight=False)  # fmt: skip


def _buy_cells(buy: Purchase) -> list[str]:
    if buy.outcome is None:
        return ["-"] * 6 + [buy.source]
    o = buy.outcome
    cells = [str(o.num_gpus), *(number(value(o, name), 4) for name in
                                ("tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "usd_per_hour"))]  # fmt: skip
    source = buy.source if buy.place is None else f"{buy.source}, run {buy.place + 1}"
    return [*cells, "-" if buy.capacity is None else f"{buy.capacity:.2f}", source]


def _print_numbers(console: Console, numbers: dict[str, Any]) -> None:
    sources = numbers["sources"]
    parts = ", ".join(f"{100 * sources[s]:.0f} % {s}" for s in _SOURCES if sources.get(s))
    if parts:
        console.print(f"Kernel numbers, by share of the busy time: {parts}.", highlight=False)
    families = sorted(numbers["families"].items(), key=lambda item: -item[1]["share"])
    if families:
        sure = ", ".join(f"{_SURE.get(name, name.replace('_', ' '))} {100 * f['share']:.0f} % "
                         f"(+-{100 * f['half_width']:.0f} %)" for name, f in families)  # fmt: skip
        console.print(f"Where the time goes, and how sure each is: {sure}.", highlight=False)
    if numbers["half_width"] is not None:
        _print_ranges(console, numbers)
    if numbers["energy"] is not None:
        e = numbers["energy"]
        console.print(f"Power is modelled: {e['watts_per_gpu']:.0f} W per GPU +-{100 * e['error']:.0f} %.",
                      highlight=False)  # fmt: skip


def _print_ranges(console: Console, numbers: dict[str, Any]) -> None:
    """The intervals, a line for each thing that they rest on."""
    by_source: dict[str, list[str]] = {}
    for metric, name in (("ttft", "ttft_ms.p90"), ("tpot", "tpot_ms.p90"), ("tpot", "e2e_ms.p90")):
        if ends := numbers["ranges"].get(name):
            source = rests_on(numbers["rests_on"].get(metric, KERNELS), numbers["half_width"])
            title = name.partition("_")[0].upper()
            by_source.setdefault(source, []).append(f"{title} P90 {number(ends[0])} to {number(ends[1])} ms")
    for source, parts in by_source.items():
        console.print(f"90 % interval by {escape(source)}: {', '.join(parts)}.", highlight=False)
