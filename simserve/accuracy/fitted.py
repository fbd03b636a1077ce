"""Which points a fit sees, and the file that keeps what it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simserve.accuracy.fit import CONSTANTS, Fit
from simserve.accuracy.judge import Floats, measured_rate
from simserve.accuracy.points import Point
from simserve.errors import MissingData, SpecError
from simserve.perf.host import is_older
from simserve.spec.model import load_model

STREAMED_TOKENS_PER_S = 5000.0  # by one server: half of what an API process manages at 100 us a token [derived]
SLOWEST = 128  # clients; more make a run long and teach little about constants


def chosen(
    points: Iterable[Point], framework: str, since: str = "", before: str = "", sample: int = 0, seed: int = 0,
    clients: int = 0,
) -> list[Point]:  # fmt: skip
    """Points of a framework's versions [since, before) that can be played, `sample` of them drawn evenly (0: all).

    clients: leave out closed loops of more (0: none). Points of a profile other than the framework's are left out.
    MissingData if there are none.
    """
    fitting = [
        point for point in points
        if (not framework or (point.framework == framework and point.engine in ("", framework)))
        and not point.obstacle
        and (not clients or point.rate_rps or point.concurrency <= clients)
        and not (since and is_older(point.version, since)) and (not before or is_older(point.version, before))
    ]  # fmt: skip
    if not fitting:
        versions = f" from {since or 'the first'}{f' before {before}' if before else ''}"
        raise MissingData(f"no points of {framework or 'any framework'}{versions} to fit to")
    if sample and sample < len(fitting):
        drawn = np.random.default_rng(seed).choice(len(fitting), size=sample, replace=False)
        fitting = [fitting[i] for i in sorted(drawn)]
    return sorted(fitting, key=lambda p: (p.model, p.gpu, p.dtype, p.tensor_parallel_size))


def seen_in(points: Iterable[Point]) -> tuple[str, ...]:
    """The constants that these points can show.

    What verifying takes is seen in runs with drafts alone, what streaming a token takes where a server sent many, and
    what experts in fp8 take beside others where there are both.
    """
    points = list(points)
    hidden = set() if any(point.num_speculative_tokens for point in points) else {"verify_ns_per_seq"}
    rates = [(measured_rate(point) or 0.0) * point.num_gpus / point.replicas for point in points]
    if max(rates, default=0.0) < STREAMED_TOKENS_PER_S:
        hidden.add("api_ns_per_output_token")
    experts = (point.moe_dtype or point.dtype for point in points if load_model(point.model).experts)
    if len({dtype.startswith("fp8") for dtype in experts}) < 2:
        hidden.add("fp8_moe_time_factor")
    return tuple(name for name in CONSTANTS if name not in hidden)


def entries(found: Fit, names: Sequence[str], what: str) -> dict[str, dict[str, Any]]:
    """{constant: {value, source}} of a fit; the source names the points, the standard error and the prior."""
    rows = {}
    for name in names:
        unit, constant = ("ns" if CONSTANTS[name].scale else ""), CONSTANTS[name]
        width = constant.width * (constant.scale or 1)
        error = f"{found.errors[name]:.4g} {unit}".strip()
        source = f"simserve calibrate: {what}; standard error {error}, prior width {width:g} {unit}".strip()
        rows[name] = {"value": getattr(found.profile, name), "source": source}
    return rows


def spreads(off: Floats, what: str) -> dict[str, dict[str, Any]]:
    """{ttft_spread, tpot_spread} of residuals log(predicted / measured), TTFT and TPOT of each point after another."""
    sizes = np.abs(off.reshape(-1, 2)).T
    found = [np.quantile(own[~np.isnan(own)], 0.9) if (~np.isnan(own)).any() else 0.0 for own in sizes]
    source = f"90th percentile of |log(predicted / measured)| over {what}"
    return {name: {"value": round(float(value), 4), "source": source}
            for name, value in zip(("ttft_spread", "tpot_spread"), found, strict=True)}  # fmt: skip


def merged(path: Path, since: str, rows: dict[str, dict[str, Any]], remark: str) -> str:
    """The text of a `<name>.calibrated.yaml` whose entries of version `since` are `rows`, others as they were."""
    import yaml

    old = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if old is not None and not isinstance(old, dict):
        raise SpecError("must hold versions", file=str(path), value=old)
    whole = {**(old or {}), since or "0": {**(old or {}).get(since or "0", {}), **rows}}
    body: str = yaml.safe_dump(dict(sorted(whole.items())), sort_keys=False, width=110)
    return f"# {remark}\n{body}"
