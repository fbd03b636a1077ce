"""What lies between a client and the engine: HTTP, and an API process that works on prompts and tokens in order."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FrontEnd:
    """The API server of a deployment, one process.

    latency_ns: what every request pays; ns_per_token: of its tokenizer; ns_per_request: of its work on a request;
    ns_per_output_token: of its work on a token that it streams.
    """

    latency_ns: int
    ns_per_token: int
    ns_per_request: int = 0
    ns_per_output_token: int = 0
    behind_ns: int = field(default=0, init=False)
    _free_ns: int = field(default=0, init=False)

    def ready_ns(self, now_ns: int, prompt_tokens: int) -> int:
        """When a request that arrives now, after all that came before it, reaches the engine."""
        self._free_ns = max(self._free_ns, now_ns) + self.ns_per_request + prompt_tokens * self.ns_per_token
        return self._free_ns + self.latency_ns

    def stream(self, now_ns: int, tokens: int) -> None:
        """Take the tokens of a step that ends now; behind_ns is how long after now the last of them is sent."""
        self._free_ns = max(self._free_ns, now_ns) + tokens * self.ns_per_output_token
        self.behind_ns = self._free_ns - now_ns
