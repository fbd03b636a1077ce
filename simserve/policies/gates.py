"""When it pays to split a batch so that the CPU's attention hides: the closed forms of APEX (arXiv 2506.03296).

With l, a: linear work and decode attention of one layer on the GPU; N_G / N_C: attention throughput of GPU over CPU.
"""

from __future__ import annotations


def decode_bound(linear: float, attention: float) -> float:
    """Right side of eq. (6), section 3.2 [H, L]: N_G / N_C below 2 l/a + 3 + a/l makes pipelining the faster one."""
    return 2 * linear / attention + 3 + attention / linear


def mixed_bound(overlap: float, linear: float, attention: float) -> float:
    """The same for a batch with prompts, overlap = l_pref + p + l + a [L]: overlap (overlap - l) / (a l) [I].

    It is eq. (6) where overlap = 2 l + a.
    """
    return overlap * (overlap - linear) / (attention * linear)


def overlap_gain(linear: float, attention: float, ratio: float) -> float:
    """Decode throughput of overlapping over the GPU alone, the CPU never starved; ratio: N_C / N_G [I]."""
    return 1 + ratio * (1 + linear / attention)


def pipeline_gain(linear: float, attention: float, ratio: float) -> float:
    """Decode throughput of pipelining over the GPU alone, the CPU busy all the time; ratio: N_C / N_G [I]."""
    return (linear + attention) / (2 * linear + attention) + ratio * (1 + linear / attention)
