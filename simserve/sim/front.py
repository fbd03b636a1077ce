"""What lies between a client and the engine: HTTP, and one process that takes requests and tokenizes them in turn."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FrontEnd:
    """The API server of a deployment. latency_ns: what requests pay side by side; the rest: of its one process."""

    latency_ns: int
    ns_per_request: int
    ns_per_token: int
    _free_ns: int = field(default=0, init=False)

    def ready_ns(self, now_ns: int, prompt_tokens: int) -> int:
        """When a request that arrives now, after all that came before it, reaches the engine."""
        own_ns = self.ns_per_request + prompt_tokens * self.ns_per_token
        self._free_ns = max(self._free_ns, now_ns) + own_ns
        return self._free_ns + self.latency_ns
