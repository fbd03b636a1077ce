"""A gateway in front of the prefill pool: instances refuse, it asks the next one, and gives up in time.

No instance has a queue beyond its slots. One instance at a time may change its pool: it gets no new requests, finishes
what it has, and is back in its new role some time later.
"""

from __future__ import annotations

from collections.abc import Callable

from simserve.sim.clock import ARRIVAL
from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.machines import Gateway, Loads
from simserve.sim.plan import Role, Router
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.request import Outcome, Request


class GatewayCluster(DisaggregatedCluster):
    """A cluster whose requests wait in the gateway. moves: (ns, instance, its new role)."""

    def __init__(
        self, gateway: Gateway, decode_router: Router, *, kv_bytes_per_token: int, snapshot_interval_ns: int = 0,
        leap: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            decode_router, decode_router, kv_bytes_per_token=kv_bytes_per_token,
            snapshot_interval_ns=snapshot_interval_ns, leap=leap,
        )  # fmt: skip
        self.moves: list[tuple[int, int, Role]] = []
        self._gateway = gateway
        self._egress: dict[int, Link] = {}
        self._accepted_ns: dict[int, int] = {}
        self._slots_ns: tuple[list[int], list[int]] = [], []  # how long requests kept them, in prefill and decode
        self._draining: tuple[Instance, Role] | None = None
        self._leaves = False
        self._decides = False

    def place(self, instance: Instance, role: Role, egress: Callable[[], Link]) -> None:
        """Every instance may send KV one day."""
        link = self._egress[instance.view.index] = egress()
        super().place(instance, role, lambda: link)

    def arrive(self, request: Request) -> None:
        """Ask the instances for a slot, from now on until the budget is spent."""
        self.in_flight[request.id] = request
        if self._gateway.rebalance_ns and not self._decides:
            self._decides = True
            self.clock.call_at(self.clock.now_ns + self._gateway.rebalance_ns, self._decide, ARRIVAL)
        if all(request.prompt_tokens >= instance.max_model_len for instance in self.instances):
            self._end(request, Outcome.REJECTED)
            return
        self._ask(request, self.clock.now_ns + self._gateway.ttft_budget_ns)

    def _ask(self, request: Request, deadline_ns: int) -> None:
        """One round through the candidates; the next one later, the last one at the deadline."""
        if request.id not in self.in_flight:
            return
        now, views = self.clock.now_ns, self._snapshot()
        for index in self._gateway.candidates([views[i.view.index] for i in self._prefill]):
            instance = self._prefill[index]
            if self._has_slot(instance) and instance.submit(request):
                self._accepted_ns[request.id] = now
                return
        if now >= deadline_ns:
            self._end(request, Outcome.REJECTED)
            return
        again_ns = min(now + self._gateway.retry_ns, deadline_ns)
        self.clock.call_at(again_ns, lambda: self._ask(request, deadline_ns), ARRIVAL)

    def _has_slot(self, instance: Instance) -> bool:
        return instance.view.num_running + instance.view.num_waiting < self._gateway.prefill_slots

    def _hand_over(self, source: Instance, request: Request) -> None:
        self._slots_ns[0].append(self.clock.now_ns - self._accepted_ns.pop(request.id))
        super()._hand_over(source, request)

    def _left_to_move(self, request: Request, tokens: int, link: Link) -> tuple[int, int]:
        blocks = self.instances[request.instance].ledger.count(tokens)
        return tokens * self.kv_bytes_per_token, self._gateway.pieces(blocks)

    def _end(self, request: Request, outcome: Outcome) -> None:
        self._accepted_ns.pop(request.id, None)
        if request.prefill_instance >= 0 and outcome is Outcome.FINISHED:
            self._slots_ns[1].append(request.last_token_ns - request.first_token_ns)
        super()._end(request, outcome)
        self._leave()

    def _fetched(self, key: int) -> None:
        super()._fetched(key)
        self._leave()

    def _decide(self) -> None:
        """What the last interval was like, and whether an instance shall move."""
        if not self.in_flight:
            self._decides = False
            return
        prefill_ns, decode_ns = (sum(times) // len(times) if times else 0 for times in self._slots_ns)
        loads = Loads(len(self._prefill), len(self._decode), prefill_ns, decode_ns)
        role = self._gateway.change(loads) if self._draining is None else None
        for times in self._slots_ns:
            times.clear()
        if role is not None:
            self._drain(role)
        self.clock.call_at(self.clock.now_ns + self._gateway.rebalance_ns, self._decide, ARRIVAL)

    def _drain(self, role: Role) -> None:
        """The instance of the other pool with the fewest requests gets no more of them."""
        pool = self._prefill if role is Role.DECODE else self._decode
        instance = min(pool, key=lambda i: i.view.num_running + i.view.num_waiting)
        pool.remove(instance)
        self._draining = instance, role
        self._leave()

    def _leave(self) -> None:
        """Once the instance that drains has finished all and its KV was fetched, it begins to change its role."""
        if self._draining is None or self._leaves:
            return
        instance, role = self._draining
        if instance.queues.can_go_on or any(source is instance for source, _ in self._left_behind.values()):
            return
        self._leaves = True
        back_ns = self.clock.now_ns + self._gateway.move_ns
        self.moves.append((back_ns, instance.view.index, role))
        self.clock.call_at(back_ns, lambda: self._take_role(instance, role), ARRIVAL)

    def _take_role(self, instance: Instance, role: Role) -> None:
        instance.hand_over = instance.fetch = None
        super().place(instance, role, lambda: self._egress[instance.view.index])
        self._draining, self._leaves = None, False
