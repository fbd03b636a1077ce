"""The engine profile, `perfdb/engines/<name>.yaml`: what an engine adds to its kernels, and its defaults.

Every number of the file is a pair of value and source; `EngineProfile.sources` keeps the latter. A key that a file
leaves out is taken from the profile that it names as `base`, without versions and fits where it says `other_engine:
true`, for those are of that engine's runs. `versions` changes numbers from a version of the engine
on: `load_profile("vllm", "0.16.0")` takes those of the latest entry that is not newer. What `simserve calibrate` fitted
lies beside, in `<name>.calibrated.yaml`, by version in the same form; `load_profile(name, calibrated=False)` leaves it
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from simserve.arch.ops import StepOps
from simserve.errors import SpecError, UnknownName, nearest_name
from simserve.paths import data_files, find_data

# What the engine's memory fraction f is of: the device, weights and activations included (vLLM); the device, weights
# included and activations not (SGLang); what weights and activations leave (TensorRT-LLM).
MEMORY_RULES = ("utilization", "static", "free")


@dataclass(frozen=True)
class EngineProfile:
    """One engine version.

    host_ns_per_step: time of a step that no kernel accounts for (scheduling, launching, sampling, gaps
    between kernels); host_ns_per_seq: the same per running request, verify_ns_per_seq: what a step with drafts takes
    besides for each; host_ns_sigma: standard deviation over
    the runs it comes from, host_ns_stderr: standard error of host_ns_per_step; api_ns: HTTP time that clients see in
    TTFT, api_ns_per_request, api_ns_per_token, api_ns_per_output_token: work of the API process on requests, their
    prompts and the tokens that it streams, one after the other,
    handover_ns: what a client's first token takes longer where prefill and decode are pools; none is in engine-side
    times; encode_host_ns: host time of an encoder's pass, during which its process does nothing else;
    max_cudagraph_tokens: largest captured step of decodes, max_mixed_cudagraph_tokens: of steps with prompts;
    shared_expert_stream_tokens: steps of at most so many tokens run shared experts beside the routed ones;
    eager_ns_per_op: host time to launch one operation of a step that is not captured, which no such step can undercut,
    expert_launches, linear_launches, latent_launches: operations of expert layers, gated delta nets, latent attention;
    piecewise_capture: 1 where of steps that are not captured whole, attention alone is launched so
    (`StepOps.uncaptured_launches`);
    data_parallel_padding: 1 where all steps of data-parallel ranks are padded to the largest, 0: captured ones alone;
    *_time_factor: what the kernels of a family take, against the tables (exchange: of experts' tokens; fp8_moe: of
    experts in fp8 beside moe_time_factor);
    memory_rule: see `MEMORY_RULES`; kernel_tables: folders beside a device's own tables, parted by blanks, that are
    asked first, for kernels of the engine's own; fused_passes: passes over the tokens, parted by blanks, that those
    kernels do besides; ttft_spread, tpot_spread: of 90 % of the calibration points
    |log(predicted / measured)| was at most that (0: not calibrated); the rest are the engine's default limits
    (gpu_memory_utilization 0: by `arch.memory.static_share`).
    """

    name: str
    version: str
    host_ns_per_step: int
    host_ns_per_seq: int
    verify_ns_per_seq: int
    host_ns_sigma: int
    host_ns_stderr: int
    api_ns: int
    handover_ns: int
    encode_host_ns: int
    shared_expert_stream_tokens: int
    api_ns_per_request: int
    api_ns_per_token: int
    api_ns_per_output_token: int
    max_cudagraph_tokens: int
    max_mixed_cudagraph_tokens: int
    eager_ns_per_op: int
    expert_launches: int
    linear_launches: int
    latent_launches: int
    piecewise_capture: int
    data_parallel_padding: int
    gemm_time_factor: float
    moe_time_factor: float
    fp8_moe_time_factor: float
    prefill_attention_time_factor: float
    decode_attention_time_factor: float
    gdn_prefill_time_factor: float
    all_reduce_time_factor: float
    elementwise_time_factor: float
    exchange_time_factor: float
    memory_rule: str
    kernel_tables: str
    fused_passes: str
    ttft_spread: float
    tpot_spread: float
    max_num_batched_tokens: int
    max_num_seqs: int
    gpu_memory_utilization: float
    block_size: int
    sources: tuple[tuple[str, str], ...]

    def launching_ns(self, ops: StepOps, drafts: int = 0) -> int:
        """What the host takes to launch a step that is not captured, or what of it is not.

        drafts: passes through a layer that draft tokens, as MTP modules are: not captured beside prompts [derived].
        """
        whole = ops.launches(self.expert_launches, self.linear_launches, self.latent_launches)
        pieces = ops.uncaptured_launches(self.linear_launches, self.latent_launches)
        launches = pieces if self.piecewise_capture else whole
        return self.eager_ns_per_op * (launches + drafts * whole // max(ops.layers, 1))

    def experts_factor(self, dtype: str) -> float:
        """What expert layers in a format take against the tables."""
        return self.moe_time_factor * (self.fp8_moe_time_factor if dtype.startswith("fp8") else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Name, version, and value and source of every number."""
        numbers = {key: {"value": getattr(self, key), "source": why} for key, why in self.sources}
        return {"name": self.name, "version": self.version, **numbers}

    def times(self, factors: Mapping[str, float]) -> EngineProfile:
        """The same with some of its numbers so many times as large; whole numbers stay whole."""
        changed: dict[str, Any] = {}
        for name, factor in factors.items():
            value = getattr(self, name) * factor
            changed[name] = round(value) if isinstance(getattr(self, name), int) else value
        return replace(self, **changed)

    def padded_tokens(self, tokens: int, max_num_seqs: int) -> int:
        """Tokens that the GEMMs of a step see: the next captured size, or `tokens` where none is captured."""
        return next((s for s in self.capture_sizes(max_num_seqs) if s >= tokens), tokens)

    def capture_sizes(self, max_num_seqs: int) -> tuple[int, ...]:
        """1, 2, 4, multiples of 8 below 256, of 16 up to the limit; that is at most 2 x max_num_seqs."""
        limit = min(self.max_cudagraph_tokens, 2 * max_num_seqs)
        sizes = [1, 2, 4, *range(8, min(limit + 1, 256), 8), *range(256, limit + 1, 16)]
        return tuple(s for s in sizes if s <= limit)


@lru_cache(maxsize=64)
def load_profile(name: str, version: str = "", *, calibrated: bool = True) -> EngineProfile:
    """The profile called `name` for one version of the engine ('' for the newest); calibrated: with what was fitted.

    UnknownName with the nearest, SpecError if the file is not as described.
    """
    if not has_profile(name):
        raise UnknownName("engine", name, profile_names())
    entries: dict[str, Any] = {}
    stated = _gather(name, version, calibrated, entries)
    values: dict[str, Any] = {}
    sources: list[tuple[str, str]] = []
    for key in NUMBERS:
        if key not in entries:
            raise SpecError("is missing", file=f"perfdb/engines/{name}.yaml", key=key)
        values[key] = entries[key]["value"]
        sources.append((key, str(entries[key]["source"])))
    return EngineProfile(name=name, version=version or stated, sources=tuple(sources), **values)


def profile_names() -> list[str]:
    """Names of all profiles, the user's own included."""
    known = {path.stem for path in data_files("perfdb") if path.parent.name == "engines"}
    return sorted(name for name in known if "." not in name)


@lru_cache(maxsize=64)
def has_profile(name: str) -> bool:
    """Whether there is a profile of this name, the user's own among them."""
    return any(path.stem == name and path.parent.name == "engines" for path in data_files("perfdb"))


@lru_cache(maxsize=1)
def kernel_folders() -> frozenset[str]:
    """Folders beside devices' tables that some version of a profile asks first."""
    found: set[str] = set()
    for name in profile_names():
        data = _mapping(find_data("perfdb", name))
        for section in (data, *(data.get("versions") or {}).values()):
            found.update(str((section.get("kernel_tables") or {}).get("value", "")).split())
    return frozenset(found)


TEXTS = ("name", "version", "base", "other_engine", "versions")
NUMBERS = tuple(f.name for f in fields(EngineProfile) if f.name not in ("name", "version", "sources"))


def _gather(name: str, version: str, calibrated: bool, entries: dict[str, Any]) -> str:
    """Collect the entries of a profile over those of its base; returns the version that the file states."""
    path = find_data("perfdb", name)
    data = _mapping(path)
    if data.get("base") == name:
        raise SpecError("a profile cannot rest on itself", file=str(path), key="base", value=name)
    if "base" in data:
        same = not data.get("other_engine", False)
        _gather(str(data["base"]), version if same else "", calibrated and same, entries)
    _take({key: entry for key, entry in data.items() if key not in TEXTS}, path, entries)
    _take_versions(data.get("versions") or {}, version, path, entries)
    fitted = fitted_path(path)
    if calibrated and fitted.is_file():
        _take_versions(_mapping(fitted), version, fitted, entries)
    return str(data.get("version", ""))


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML file that is a mapping of names; SpecError for any other."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpecError(f"is no YAML: {str(error).splitlines()[0]}", file=str(path)) from None
    if not isinstance(data, dict) or not isinstance(data.get("versions") or {}, dict):
        raise SpecError("must be a mapping, and versions one too", file=str(path))
    return data


def fitted_path(path: Path) -> Path:
    """Where the fitted numbers of a profile's file lie."""
    return path.with_name(f"{path.stem}.calibrated.yaml")


def _take_versions(by_version: dict[str, Any], version: str, path: Path, entries: dict[str, Any]) -> None:
    for since in sorted(by_version, key=_order):
        if not is_older(version, since):
            _take(by_version[since], path, entries)


def _take(section: dict[str, Any], path: Path, entries: dict[str, Any]) -> None:
    """Check and keep the numbers of one section."""
    for key, entry in section.items():
        if key not in NUMBERS:
            raise SpecError("unknown key", file=str(path), key=key, nearest=nearest_name(key, NUMBERS))
        if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            raise SpecError("needs a value and a source", file=str(path), key=key, value=entry)
        value = entry["value"]
        if key == "memory_rule":
            if value not in MEMORY_RULES:
                raise SpecError(f"must be one of {', '.join(MEMORY_RULES)}", file=str(path), key=key, value=value)
        elif key in ("kernel_tables", "fused_passes"):
            if not isinstance(value, str):
                raise SpecError("must be names, parted by blanks", file=str(path), key=key, value=value)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            raise SpecError("is not a number of at least 0", file=str(path), key=key, value=value)
        elif key.endswith("_factor") and not value:
            raise SpecError("must be above 0", file=str(path), key=key, value=value)
        entries[key] = entry


def is_older(version: str, since: str) -> bool:
    """Whether an engine's version came before another; '' and what is no number are the newest."""
    return bool(version) and _order(version) < _order(since)


def _order(version: str) -> tuple[int, ...]:
    """Versions in order: '1.2.0rc6.post3' after '1.2.0rc2'; what is no number counts as newest ('nightly', '')."""
    numbers = re.findall(r"\d+", str(version)) if re.match(r"v?\d", str(version)) else ["9999"]
    return tuple(int(n) for n in numbers)
