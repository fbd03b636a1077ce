"""Where the requests of one instance are: each is in exactly one of these, in order of arrival there."""

from __future__ import annotations

from collections.abc import Collection

from simserve.errors import LawBroken
from simserve.sim.plan import Plan
from simserve.sim.request import Request, Seen


class Queues:
    """Requests by id.

    hosted: they run with their KV on the host; loading: their KV is on the way here, into blocks that they hold;
    loaded: it has arrived; swapped: it lies on the host; late: they arrived when the next step was planned already;
    suspended: plans that were interrupted, by the key that resumes them.
    """

    def __init__(self) -> None:
        self.running: dict[int, Request] = {}
        self.waiting: dict[int, Request] = {}
        self.preempted: dict[int, Request] = {}
        self.loading: dict[int, Request] = {}
        self.loaded: dict[int, Request] = {}
        self.swapped: dict[int, Request] = {}
        self.hosted: dict[int, Request] = {}
        self.late: dict[int, Request] = {}
        self.suspended: dict[int, Plan] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that do not run."""
        queued = len(self.waiting) + len(self.late) + len(self.preempted)
        return queued + len(self.loading) + len(self.loaded) + len(self.swapped)

    @property
    def can_go_on(self) -> bool:
        """Whether a plan may find work without an arrival."""
        return bool(self.running or self.suspended or self.hosted or self.num_waiting)

    def admit_late(self) -> bool:
        """Let those wait who arrived after a plan was made; whether there were any."""
        if not self.late:
            return False
        self.waiting.update(self.late)
        self.late.clear()
        return True

    def move(self, plan: Plan, now_ns: int) -> list[Request]:
        """Apply a plan; returns the requests whose KV is to be fetched now."""
        for victim in plan.preempted:
            self._preempt(victim, now_ns)
        for seen in plan.swapped_out:
            if seen.blocks:
                raise LawBroken("swap", "a victim still holds blocks", time_ns=now_ns, request=seen.id)
            self.swapped[seen.id] = self.running.pop(seen.id)
            self.swapped[seen.id].preemptions += 1
        for seen in plan.swapped_in:
            self.running[seen.id] = self.swapped.pop(seen.id)
        for seen in plan.fetched:
            request = self.loading[seen.id] = self._take(seen, (self.waiting, self.preempted), now_ns)
            request.computed_tokens = plan.cached.get(seen, 0)
        for seen in plan.admitted:
            self.running[seen.id] = self._admitted(seen, plan, now_ns)
        return [self.loading[seen.id] for seen in plan.fetched] if plan.fetched else []

    def change_tiers(self, plan: Plan, now_ns: int) -> None:
        """Apply the part of a plan that is about the host: what leaves the GPU goes to the head there, the last one
        first; prompts go to the end."""
        kept = list(self.hosted.items())
        self.hosted.clear()
        for seen in reversed(plan.to_host):
            if seen.id not in self.running:
                raise LawBroken("tiers", "what goes to the host does not run", time_ns=now_ns, request=seen.id)
            self.hosted[seen.id] = self.running.pop(seen.id)
        self.hosted.update(kept)
        for seen in plan.to_gpu:
            if seen.id not in self.hosted:
                raise LawBroken("tiers", "what comes to the GPU is not hosted", time_ns=now_ns, request=seen.id)
            self.running[seen.id] = self.hosted.pop(seen.id)
        for seen in plan.admitted_host:
            self.hosted[seen.id] = self._admitted(seen, plan, now_ns)

    def _preempt(self, victim: Seen, now_ns: int) -> None:
        request = self.running.pop(victim.id, None) or self.hosted.pop(victim.id, None)
        if request is None or request.blocks or any(request in s.tokens for s in self.suspended.values()):
            raise LawBroken("preempt", "victim not running, still holding blocks or suspended", time_ns=now_ns,
                            request=victim.id)  # fmt: skip
        request.computed_tokens = 0
        request.preemptions += 1
        self.preempted[request.id] = request

    def _admitted(self, seen: Seen, plan: Plan, now_ns: int) -> Request:
        """A request that leaves the waiting side now."""
        request = self._take(seen, (self.loaded, self.preempted, self.waiting), now_ns)
        request.computed_tokens = plan.cached.get(seen, request.computed_tokens)
        if request.first_scheduled_ns < 0:
            request.first_scheduled_ns = now_ns
            request.cached_tokens = request.computed_tokens
        return request

    def _take(self, seen: Seen, places: Collection[dict[int, Request]], now_ns: int) -> Request:
        for place in places:
            if seen.id in place:
                return place.pop(seen.id)
        raise LawBroken("admit", "request is not waiting", time_ns=now_ns, request=seen.id)
