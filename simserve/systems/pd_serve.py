"""P/D-Serve: a gateway that asks prefill instances for a slot, KV in one piece, and as many of each kind as needed.

Source: "P/D-Serve: Serving Disaggregated Large Language Model at Scale", arXiv 2408.08147, by our digest (2.12):
abstract alone; formulae are [recall] or [inferred] there.
Claim: on Ascend NPUs under production traffic 60 % more end-to-end throughput, 42 % more requests within the TTFT SLO,
46 % less time to move KV, 6.7 times an aggregated deployment [abs]; qualitative, for model and traffic are not public.
Modelled [inferred]: the gateway has no queues at the instances; it asks them in the order of their open requests, an
instance accepts only if it has a free slot and refuses at once otherwise, and the gateway asks again until the budget
for the first token is spent, when the request is rejected (early time-out). KV goes to the decode instance in blocks
of fixed size, `blocks x (control + block / bandwidth)`, or from a contiguous buffer, `control + total / bandwidth`.
Pools follow `n_p b_p / T_p = n_d b_d / T_d` with slots b and times T that a request keeps one: at a stated interval one
instance may change its role, when it has drained, and some time later.
Simplified: one service, so that no groups by scenario and no prefixes loaded beforehand; a refusal costs no time but
that to the next round; the receiver's scatter is free, paths do not conflict; a slot is free when its request has its
first token. Both pools batch as vLLM does.
Knobs: budget, time between rounds, slots, transfer, interval and duration of a change.
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.sim.machines import Loads
from simserve.sim.plan import InstanceView, Pool, Role, knob
from simserve.systems import system
from simserve.units import NS_PER_MS, NS_PER_S, NS_PER_US


@system("pd_serve")
@dataclass
class PdServe:
    """The gateway and its rules."""

    ttft_budget_ms: float = knob(2000.0, "after which a request that nobody accepted is rejected", low=0.0, high=1e7)
    retry_ms: float = knob(5.0, "between two rounds of the gateway", low=0.001, high=1e5)
    prefill_slots: int = knob(4, "requests that a prefill instance has at most", low=1, high=4096)
    decode_slots: int = knob(64, "requests that a decode instance is good for, for the ratio", low=1, high=4096)
    kv_transfer: str = knob("contiguous", "how KV is sent", choices=("contiguous", "block_fixed"))
    control_us: float = knob(20.0, "of each piece of KV that is sent [guessed]", low=0.0, high=1e6)
    rebalance_s: float = knob(0.0, "between two decisions about the ratio; 0: it stays", low=0.0, high=1e6)
    move_s: float = knob(30.0, "in which an instance changes its role", low=0.0, high=1e5)

    def pools(self) -> Sequence[Pool]:
        """`prefill` and `decode`."""
        return (
            Pool("prefill", Role.PREFILL, scheduler="vllm", router="least_loaded"),
            Pool("decode", Role.DECODE, scheduler="vllm", router="least_loaded"),
        )

    @property
    def ttft_budget_ns(self) -> int:
        """See `simserve.sim.machines.Gateway`, as all that follow."""
        return round(self.ttft_budget_ms * NS_PER_MS)

    @property
    def retry_ns(self) -> int:
        """At least 1."""
        return max(1, round(self.retry_ms * NS_PER_MS))

    @property
    def control_ns(self) -> int:
        """Of each piece."""
        return round(self.control_us * NS_PER_US)

    @property
    def rebalance_ns(self) -> int:
        """Of the interval."""
        return round(self.rebalance_s * NS_PER_S)

    @property
    def move_ns(self) -> int:
        """Of a change."""
        return round(self.move_s * NS_PER_S)

    def candidates(self, views: Sequence[InstanceView]) -> Sequence[int]:
        """The fewest open requests first."""
        return sorted(range(len(views)), key=lambda i: views[i].num_running + views[i].num_waiting)

    def pieces(self, blocks: int) -> int:
        """One, or one for each block."""
        return blocks if self.kv_transfer == "block_fixed" else 1

    def change(self, loads: Loads) -> Role | None:
        """One instance towards the best ratio; none where a pool had nothing to do."""
        if not loads.prefill_ns or not loads.decode_ns:
            return None
        total = loads.prefills + loads.decodes
        best = prefills_of(total, self.prefill_slots / loads.prefill_ns, self.decode_slots / loads.decode_ns)
        if best == loads.prefills:
            return None
        return Role.PREFILL if best > loads.prefills else Role.DECODE


def prefills_of(total: int, prefill_rate: float, decode_rate: float) -> int:
    """How many of `total` instances shall prefill so that the slower pool is as fast as can be; the fewest of equals.

    The rates are requests that an instance gets through in a ns: slots over the time that a request keeps one.
    """
    return max(range(1, total), key=lambda n: min(n * prefill_rate, (total - n) * decode_rate))
