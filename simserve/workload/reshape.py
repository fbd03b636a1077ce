"""The same requests with one property changed: for questions about what a result depends on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simserve.workload.requests import Content, RequestSet
from simserve.workload.shown import SHOWN_CONTENT

_ROUNDS = 60


def longer_prompts(workload: RequestSet, factor: float) -> RequestSet:
    """Every prompt `factor` times as long, at least 1 token.

    Shared pieces stay shared; what a session generated before stays as long as it is, as do images and sounds.
    """
    if workload.content is None:
        images = 0 if workload.image_tokens is None else workload.image_tokens
        return replace(workload, prompt_tokens=_scaled(workload.prompt_tokens - images, factor) + images)
    shown = SHOWN_CONTENT if workload.shown is not None else float("inf")
    return _with_content(workload, [
        tuple((piece, size if _generated(piece) or piece >= shown else _times(size, factor)) for piece, size in content)
        for content in workload.content
    ])  # fmt: skip


def longer_outputs(workload: RequestSet, factor: float) -> RequestSet:
    """Every output `factor` times as long, at least 1 token, also where it is part of a later prompt."""
    longer = replace(workload, output_tokens=_scaled(workload.output_tokens, factor))
    if workload.content is None or workload.output_content is None:
        return longer
    return _with_content(longer, [
        tuple((piece, _times(size, factor) if _generated(piece) else size) for piece, size in content)
        for content in workload.content
    ])  # fmt: skip


def burstier(workload: RequestSet, factor: float) -> RequestSet | None:
    """The gaps between arrivals raised to the power that makes their coefficient of variation `factor` times as large.

    Their mean and order stay. None where there is no variation to change, or not so much can be had.
    """
    gaps = np.diff(workload.arrival_ns).astype(np.float64)
    if workload.concurrency is not None or len(gaps) < 2 or gaps.std() == 0.0:
        return None
    target = factor * _variation(gaps)
    low, high = 0.01, 20.0
    if not _variation(gaps**low) < target < _variation(_powered(gaps, high)):
        return None
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if _variation(_powered(gaps, middle)) < target else (low, middle)
    bent = _powered(gaps, low)
    times = np.rint(np.concatenate([[0.0], np.cumsum(bent * (gaps.sum() / bent.sum()))])) + workload.arrival_ns[0]
    return replace(workload, arrival_ns=times.astype(np.int64))


def _powered(gaps: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Relative to the largest, so that no power overflows."""
    return np.asarray((gaps / gaps.max()) ** power, dtype=np.float64)


def _variation(gaps: NDArray[np.float64]) -> float:
    return float(gaps.std() / gaps.mean())


def _scaled(tokens: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    return np.asarray(np.maximum(1, np.rint(tokens * factor)), dtype=np.int64)


def _times(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor))


def _generated(piece: int) -> bool:
    """Whether a content id is of what a request generates; see `generated_content`."""
    return piece < 0 and piece % 2 == 0


def _with_content(workload: RequestSet, content: list[Content]) -> RequestSet:
    prompt = np.array([sum(size for _, size in pieces) for pieces in content], dtype=np.int64)
    return replace(workload, content=content, prompt_tokens=prompt)
