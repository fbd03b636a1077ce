"""What lies between a client and the engine: HTTP, and a tokenizer that takes prompts one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FrontEnd:
    """The API server of a deployment. latency_ns: what every request pays; ns_per_token: of the one tokenizer."""

    latency_ns: int
    ns_per_token: int
    _free_ns: int = field(default=0, init=False)

    def ready_ns(self, now_ns: int, prompt_tokens: int) -> int:
        """When a request that arrives now, after all that came before it, reaches the engine."""
        self._free_ns = max(self._free_ns, now_ns) + prompt_tokens * self.ns_per_token
        return self._free_ns + self.latency_ns
