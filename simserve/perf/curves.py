"""Monotone cubic curves: between measured points no new extremum, and no kink that a straight line would have.

The slopes are those of Fritsch and Butland (1984): at an inner point the weighted harmonic mean of the slopes beside
it, zero where these differ in sign; at an end the three-point estimate, limited so that the curve stays monotone.
"""

from __future__ import annotations

import numpy as np

from simserve.perf.roofline import Floats


def monotone(x: Floats, y: Floats, at: Floats) -> Floats:
    """y (points along axis 0, any further axes) at `at`; flat outside. x ascending, all values finite."""
    if len(x) == 1:
        return np.repeat(y[:1], len(at), axis=0)
    at = np.clip(at, x[0], x[-1])
    width = _column(np.diff(x), y.ndim)
    slope = np.diff(y, axis=0) / width
    d = _slopes(width, slope) if len(x) > 2 else np.concatenate([slope, slope])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    h = width[i]
    t = _column(at - x[i], y.ndim) / h
    return np.asarray(
        y[i] * (1 + 2 * t) * (1 - t) ** 2
        + y[i + 1] * t**2 * (3 - 2 * t)
        + h * t * (1 - t) * (d[i] * (1 - t) - d[i + 1] * t),
        dtype=np.float64,
    )


def left_out(x: Floats, y: Floats, drop: int) -> Floats:
    """What the curve without point `drop` (an inner one) says at its place; further axes as in `y`."""
    keep = np.arange(len(x)) != drop
    return np.asarray(monotone(x[keep], y[keep], x[drop : drop + 1])[0], dtype=np.float64)


def _slopes(width: Floats, slope: Floats) -> Floats:
    left, right = slope[:-1], slope[1:]
    w1, w2 = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    same = left * right > 0
    inner = np.where(same, (w1 + w2) * left * right / np.where(same, w1 * right + w2 * left, 1.0), 0.0)
    first = _end(width[0], width[1], slope[0], slope[1])
    last = _end(width[-1], width[-2], slope[-1], slope[-2])
    return np.concatenate([first[None], inner, last[None]])


def _end(h0: Floats, h1: Floats, s0: Floats, s1: Floats) -> Floats:
    d = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
    d = np.where(d * s0 <= 0, 0.0, d)
    return np.where((s0 * s1 <= 0) & (np.abs(d) > 3 * np.abs(s0)), 3 * s0, d)


def _column(values: Floats, ndim: int) -> Floats:
    """Values along axis 0 of an array of `ndim` axes."""
    return np.asarray(values, dtype=np.float64).reshape(-1, *[1] * (ndim - 1))
