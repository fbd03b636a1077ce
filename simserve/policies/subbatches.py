"""Two sub-batches of one step, so that CPU attention of one hides behind the GPU's work of the other (NEO) [N].

Times are of one layer, in ns, as the predictor believes them; see `simserve.perf.hybrid` for the formula.
"""

from __future__ import annotations

from collections.abc import Iterable

from simserve.sim.hybrid import Predictor
from simserve.sim.request import Seen

Part = tuple[int, int]  # requests, tokens that they attend


class SubBatch:
    """Prompts, GPU decodes and CPU decodes; tokens, and predicted times of one layer."""

    def __init__(
        self, predictor: Predictor, decodes: Iterable[Seen] = (), chunks: Iterable[tuple[int, int]] = ()
    ) -> None:  # fmt: skip
        self._times = predictor
        self.gpu: Part = _part(decodes)
        self.cpu: list[Seen] = []
        self.chunks: list[tuple[int, int]] = []
        self._gpu_decode_ns = predictor.attention_ns((), *self.gpu) if self.gpu[0] else 0.0
        self._prompt_ns: list[float] = []
        self._prefill_ns = self.cpu_ns = 0.0
        self._prompt_tokens = self._cpu_context = 0
        for chunk in chunks:
            self.add_prompt(chunk)

    def __len__(self) -> int:
        return len(self.chunks) + self.gpu[0] + len(self.cpu)

    @property
    def tokens(self) -> int:
        """Tokens through the linear layers."""
        return self._prompt_tokens + self.gpu[0] + len(self.cpu)

    @property
    def linear_ns(self) -> float:
        """All but attention."""
        return self._times.linear_ns(self.tokens)

    @property
    def attention_ns(self) -> float:
        """On the GPU, prompts one by one [N]."""
        return self._prefill_ns + self._gpu_decode_ns

    @property
    def gpu_ns(self) -> float:
        """The GPU's time of one layer."""
        return self.linear_ns + self.attention_ns

    def add(self, request: Seen) -> None:
        """One more CPU decode."""
        self.cpu.append(request)
        self._count(request.num_tokens)

    def drop(self) -> None:
        """Without the CPU decode that was added last."""
        self._count(-self.cpu.pop().num_tokens)

    def drop_prompt(self) -> tuple[int, int]:
        """Without the last prompt, which is returned."""
        chunk = self.chunks.pop()
        self._prompt_tokens -= chunk[0]
        self._prefill_ns -= self._prompt_ns.pop()
        return chunk

    def add_prompt(self, chunk: tuple[int, int]) -> None:
        """With one more prompt: (tokens, tokens before)."""
        self.chunks.append(chunk)
        self._prompt_tokens += chunk[0]
        self._prompt_ns.append(self._times.attention_ns([chunk], 0, 0))
        self._prefill_ns += self._prompt_ns[-1]

    def _count(self, tokens: int) -> None:
        self._cpu_context += tokens
        self.cpu_ns = self._times.cpu_attention_ns(len(self.cpu), self._cpu_context) if self.cpu else 0.0


def windows_ns(batches: tuple[SubBatch, SubBatch], launch_ns: int) -> tuple[float, float]:
    """remain[j] = linr[1-j] + pref[j] + gdec[j] - (cdec[j] + launch) [N]: what hides sub-batch j's CPU attention."""
    first, second = batches
    return (
        second.linear_ns + first.attention_ns - first.cpu_ns - launch_ns,
        first.linear_ns + second.attention_ns - second.cpu_ns - launch_ns,
    )


def fill(batches: tuple[SubBatch, SubBatch], requests: Iterable[Seen], budget: int, launch_ns: int) -> None:
    """Add CPU decodes one by one, the first to the second sub-batch, then to that with more window left; skip one that
    makes a window negative, and from then on those at least as long [N]. At most `budget` of them."""
    shortest_out, to = 1 << 62, 1
    for request in requests:
        if not budget:
            return
        if request.num_tokens >= shortest_out:
            continue
        batches[to].add(request)
        windows = windows_ns(batches, launch_ns)
        if min(windows) < 0:
            batches[to].drop()
            shortest_out = request.num_tokens
            continue
        budget -= 1
        to = int(windows[1] > windows[0])


def _part(requests: Iterable[Seen]) -> Part:
    lengths = [request.num_tokens for request in requests]
    return len(lengths), sum(lengths)
