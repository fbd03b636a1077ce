"""Prefill and decode in pools of their own, with KV handed over on links.

A request is routed to the prefill pool, gets its first token there, and is routed to the decode pool. Its KV
stays on the prefill instance until the decode instance has blocks for it and has fetched it over the prefill
instance's outgoing link (pull, as DistServe does [known]), so that a full decode pool pushes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simserve.sim.cluster import Cluster
from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.plan import Role, Router
from simserve.sim.request import Outcome, Request


class DisaggregatedCluster(Cluster):
    """A cluster whose instances prefill or decode.

    `add` the instances, then name them with `prefills` or `decodes`. kv_bytes_per_token: bytes that a hand-over
    moves per token, over all ranks of an instance.
    """

    def __init__(
        self, router: Router, decode_router: Router, *, kv_bytes_per_token: int,
        snapshot_interval_ns: int = 0, leap: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(router, snapshot_interval_ns=snapshot_interval_ns, leap=leap)
        self._reads_blocks |= getattr(decode_router, "reads_blocks", False)
        self.decode_router, self.kv_bytes_per_token = decode_router, kv_bytes_per_token
        self._prefill: list[Instance] = []
        self._decode: list[Instance] = []
        self._links: dict[int, Link] = {}
        self._left_behind: dict[int, tuple[Instance, Request]] = {}

    def prefills(self, instance: Instance, egress: Link) -> None:
        """`instance` prefills and sends KV over `egress`, which several instances may share."""
        instance.hand_over = lambda request: self._hand_over(instance, request)
        self._prefill.append(instance)
        self._links[instance.view.index] = egress

    def decodes(self, instance: Instance) -> None:
        """`instance` decodes what the prefill pool hands over."""
        instance.fetch = self._fetch
        self._decode.append(instance)

    def place(self, instance: Instance, role: Role, egress: Callable[[], Link]) -> None:
        """An instance of the pool with this role; egress: makes the link over which its KV leaves, if it does."""
        if role is Role.DECODE:
            self.decodes(instance)
        else:
            self.prefills(instance, egress())

    def arrive(self, request: Request) -> None:
        """Route a request that arrives now to the prefill pool."""
        self.in_flight[request.id] = request
        self._route(request, self.router, self._prefill)

    def _route(self, request: Request, router: Router, pool: Sequence[Instance]) -> bool:
        """Offer a request to the instance that the router chooses, then to the others of the pool."""
        views = self._snapshot()
        chosen = pool[router.route(request, [views[i.view.index] for i in pool])]
        for instance in (chosen, *(i for i in pool if i is not chosen)):
            if instance.submit(request):
                return True
        self._end(request, Outcome.REJECTED)
        return False

    def _hand_over(self, source: Instance, request: Request) -> None:
        """A request has its first token: it goes on in the decode pool, its KV stays until fetched."""
        successor = request.successor()
        self.in_flight[request.id] = successor
        self._left_behind[request.id] = (source, request)
        if not self._route(successor, self.decode_router, self._decode):
            self._fetched(request.id)

    def _fetch(self, request: Request, done: Callable[[], None]) -> None:
        """Move a request's KV to the decode instance that asks for it, but for what its prefix cache had."""
        source, _ = self._left_behind[request.id]

        def arrived() -> None:
            self._fetched(request.id)
            done()

        link = self._links[source.view.index]
        missing = request.remote_tokens - request.computed_tokens
        size, pieces = self._left_to_move(request, missing, link)
        link.transfer(size, arrived, pieces=pieces, request=request.id)

    def _left_to_move(self, request: Request, tokens: int, link: Link) -> tuple[int, int]:
        """(bytes, pieces) of the KV of so many tokens that are to be fetched now: all, in one."""
        return tokens * self.kv_bytes_per_token, 1

    def _fetched(self, key: int) -> None:
        source, request = self._left_behind.pop(key)
        source.free_kv(request)
