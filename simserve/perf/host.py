"""The engine profile, `perfdb/engines/<name>.yaml`: what an engine adds to its kernels, and its defaults.

Every number of the file is a pair of value and source; `EngineProfile.sources` keeps the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from simserve.errors import SpecError, nearest_name
from simserve.paths import find_data


@dataclass(frozen=True)
class EngineProfile:
    """One engine version.

    host_ns_per_step: time of a step that no kernel accounts for (scheduling, launching, sampling, gaps
    between kernels); host_ns_per_seq: the same per running request; host_ns_sigma: standard deviation over
    the runs it comes from, host_ns_stderr: standard error of host_ns_per_step; api_ns: HTTP time
    that clients see in TTFT, api_ns_per_token: of the tokenizer, one prompt after the other; neither is in engine-side
    times; max_cudagraph_tokens: largest captured step; the
    rest are the engine's default limits.
    """

    name: str
    version: str
    host_ns_per_step: int
    host_ns_per_seq: int
    host_ns_sigma: int
    host_ns_stderr: int
    api_ns: int
    api_ns_per_token: int
    max_cudagraph_tokens: int
    max_num_batched_tokens: int
    max_num_seqs: int
    gpu_memory_utilization: float
    block_size: int
    sources: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Name, version, and value and source of every number."""
        numbers = {key: {"value": getattr(self, key), "source": why} for key, why in self.sources}
        return {"name": self.name, "version": self.version, **numbers}

    def padded_tokens(self, tokens: int, max_num_seqs: int) -> int:
        """Tokens that the GEMMs of a step see: the next captured size, or `tokens` where none is captured."""
        return next((s for s in self.capture_sizes(max_num_seqs) if s >= tokens), tokens)

    def capture_sizes(self, max_num_seqs: int) -> tuple[int, ...]:
        """1, 2, 4, multiples of 8 below 256, of 16 up to the limit; that is at most 2 x max_num_seqs."""
        limit = min(self.max_cudagraph_tokens, 2 * max_num_seqs)
        sizes = [1, 2, 4, *range(8, min(limit + 1, 256), 8), *range(256, limit + 1, 16)]
        return tuple(s for s in sizes if s <= limit)


@lru_cache(maxsize=16)
def load_profile(name: str) -> EngineProfile:
    """The profile called `name`; UnknownName with the nearest, SpecError if the file is not as described."""
    return _read(find_data("perfdb", name), name)


def _read(path: Path, name: str) -> EngineProfile:
    import yaml

    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    wanted = [f.name for f in fields(EngineProfile) if f.name not in ("name", "version", "sources")]
    for key in sorted(set(data) - {"name", "version", *wanted}):
        raise SpecError("unknown key", file=str(path), key=key, nearest=nearest_name(key, wanted))
    values: dict[str, Any] = {}
    sources: list[tuple[str, str]] = []
    for key in wanted:
        entry = data.get(key)
        if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            raise SpecError("needs a value and a source", file=str(path), key=key, value=entry)
        if not isinstance(entry["value"], int | float) or entry["value"] < 0:
            raise SpecError("is not a number of at least 0", file=str(path), key=key, value=entry["value"])
        values[key] = entry["value"]
        sources.append((key, str(entry["source"])))
    return EngineProfile(name=name, version=str(data.get("version", "")), sources=tuple(sources), **values)
