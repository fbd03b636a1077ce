"""Prompt and token machines, some of which do both for a while; a scheduler of the cluster assigns both at arrival.

A machine that gets work of the other pool is mixed until that work is done. A request whose prompt and tokens are
assigned to one machine stays there, and so does one whose other machine waits for room that this one holds. Long
prompts send KV layer by layer while they are computed: what is left to move when the prompt is done is the KV of the
last layer, or, on a slow link, what the link could not move meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.machines import Assigner, Machine
from simserve.sim.plan import InstanceView, Role
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.request import Request, Seen
from simserve.units import NS_PER_S


class SplitMachine(Instance):
    """An instance that hands over only what is assigned to another one."""

    stays: Callable[[Request], bool]

    def _hand_over_all(self, hand_over: Callable[[Request], None]) -> None:
        done = [r for r in self.running.values() if r.num_tokens > r.prompt_tokens and not self.stays(r)]
        for request in done:
            del self.running[request.id]
            hand_over(request)


@dataclass(frozen=True)
class _Assigned:
    """Routes to what the cluster's scheduler has assigned: the prompt's machine, or the tokens'."""

    found: dict[int, tuple[int, int]]
    part: int

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The machine of this part of the request."""
        return self.found[request.id][self.part]


class MixedPoolCluster(DisaggregatedCluster):
    """A cluster whose machines `assigner` chooses; add them as `SplitMachine` and `place` each in its pool.

    layers: of the model, whose KV moves one by one.
    """

    def __init__(
        self, assigner: Assigner, *, layers: int, kv_bytes_per_token: int, snapshot_interval_ns: int = 0,
        leap: bool = True,
    ) -> None:  # fmt: skip
        self.assigned: dict[int, tuple[int, int]] = {}
        super().__init__(
            _Assigned(self.assigned, 0), _Assigned(self.assigned, 1), kv_bytes_per_token=kv_bytes_per_token,
            snapshot_interval_ns=snapshot_interval_ns, leap=leap,
        )  # fmt: skip
        self.mixed: set[int] = set()
        self._assigner, self._layers = assigner, layers
        self._homes: list[Role] = []

    def place(self, instance: Instance, role: Role, egress: Callable[[], Link]) -> None:
        """Every machine can do both; `role` is that of its pool."""
        assert isinstance(instance, SplitMachine)
        index = len(self._homes)
        self._homes.append(role)
        self.prefills(instance, egress())
        self.decodes(instance)
        instance.stays = lambda request: self._stays(index, request.id)

    def arrive(self, request: Request) -> None:
        """Assign both machines, then to the prompt's."""
        machines = self.machines()
        prompt, token = self.assigned[request.id] = self._assigner.assign(request, machines)
        self.mixed |= {i for i, role in ((prompt, Role.DECODE), (token, Role.PREFILL)) if self._homes[i] is role}
        super().arrive(request)

    def _stays(self, index: int, key: int) -> bool:
        """Whether a prompt's machine decodes it as well: also where the other one waits for room that this one holds.

        Decided once, when the prompt is done. Machines that hold KV for one another in a circle could wait for ever.
        """
        reached, seen = {self.assigned[key][1]}, 0
        while index not in reached and len(reached) > seen:
            seen = len(reached)
            held = ((source.view.index, self.assigned[other][1]) for other, (source, _) in self._left_behind.items())
            reached |= {fetcher for holder, fetcher in held if holder in reached}
        if index in reached:
            self.assigned[key] = index, index
        return index in reached

    def machines(self) -> list[Machine]:
        """What was assigned to each and is not done; mixed ones without work of the other pool go home."""
        prompts, coming = [0] * len(self._homes), [0] * len(self._homes)
        foreign: set[int] = set()
        for key, request in self.in_flight.items():
            if key not in self.assigned:
                continue
            prompt, token = self.assigned[key]
            if request.first_token_ns < 0:
                prompts[prompt] += request.num_tokens - request.computed_tokens
                foreign |= {prompt} if self._homes[prompt] is Role.DECODE else set()
            foreign |= {token} if self._homes[token] is Role.PREFILL else set()
            for index in {request.instance, token}:
                if index >= 0 and (index != request.instance or not request.blocks):
                    coming[index] += request.num_tokens
        self.mixed &= foreign
        return [
            Machine(home, i in self.mixed, prompts[i], coming[i] + _held_tokens(instance), _tokens(instance))
            for i, (home, instance) in enumerate(zip(self._homes, self.instances, strict=True))
        ]

    def _left_to_move(self, request: Request, tokens: int, link: Link) -> tuple[int, int]:
        size = tokens * self.kv_bytes_per_token
        if request.prompt_tokens < self._assigner.overlap_tokens:
            return size, 1
        prompt_ns = request.first_token_ns - request.first_scheduled_ns
        meanwhile = link.bandwidth_bytes_per_s * prompt_ns // NS_PER_S
        return max(-(-size // self._layers), size - meanwhile), 1

    def _end(self, request: Request, outcome: Any) -> None:
        super()._end(request, outcome)
        self.assigned.pop(request.id, None)


def _held_tokens(instance: Instance) -> int:
    """Of the KV blocks in use, also inside a leap."""
    instance.refresh_view()
    return (instance.view.total_blocks - instance.view.free_blocks) * instance.ledger.block_size


def _tokens(instance: Instance) -> int:
    return instance.ledger.total * instance.ledger.block_size
