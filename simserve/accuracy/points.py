"""Measured points: one row per run of a server at one load, as CSV with the columns of `Point`.

Needed: model, gpu, concurrency, prompt_tokens, output_tokens, and ttft_ms or tpot_ms. The run is a closed loop of
`concurrency` clients and `requests` requests (0: ten per client), whose lengths are uniform between `least_share` of
prompt_tokens and output_tokens and all of them, without shared prefixes; TTFT and TPOT are means over requests.
gpu_memory_utilization 0 and max_num_seqs 0: the engine's own; scheduler_options: knobs of the engine's scheduler, as in
'scheduler_recv_interval=10; max_prefill_tokens=16384'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simserve.errors import MissingData, SpecError, nearest_name

NEEDED = ("model", "gpu", "concurrency", "prompt_tokens", "output_tokens")
MEASURED = ("ttft_ms", "tpot_ms")


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point; ttft_ms, tpot_ms: None where it was not measured. `obstacle`: why it cannot be predicted."""

    model: str
    gpu: str
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    id: str = ""
    framework: str = ""
    version: str = ""
    requests: int = 0
    least_share: float = 0.8
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    moe_tensor_parallel_size: int = 0
    dtype: str = "bf16"
    moe_dtype: str = ""
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 0
    gpu_memory_utilization: float = 0.0
    scheduler_options: str = ""
    num_speculative_tokens: int = 0
    acceptance_rate: float = 0.7
    obstacle: str = ""

    @property
    def num_gpus(self) -> int:
        """GPUs of the server."""
        return self.tensor_parallel_size * self.data_parallel_size

    @property
    def scenario(self) -> tuple[str, str, str, int, int]:
        """Points that differ in configuration and load alone."""
        return self.model, self.gpu, self.framework, self.prompt_tokens, self.output_tokens

    @property
    def group(self) -> tuple[object, ...]:
        """What makes two points the same measurement, repeated."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in ("id", "ttft_ms", "tpot_ms"))


def read_points(path: Path) -> list[Point]:
    """Points of a CSV; SpecError names line and column of what is wrong."""
    import pandas as pd

    if not path.is_file():
        raise MissingData(f"{path}: no such file")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    known = [f.name for f in fields(Point) if f.name != "obstacle"]
    for name in frame.columns:
        if name not in known:
            problem = f"unknown column; the columns are {', '.join(known)}"
            raise SpecError(problem, file=str(path), key=name, nearest=nearest_name(name, known))
    for name in NEEDED:
        if name not in frame.columns:
            near = nearest_name(name, list(frame.columns))
            raise SpecError("this column is missing", file=str(path), key=name, nearest=near)
    rows = frame.to_dict("records")
    return [_point({str(k): str(v) for k, v in row.items()}, str(path), line) for line, row in enumerate(rows, 2)]


def _point(row: Mapping[str, str], file: str, line: int) -> Point:
    values: dict[str, Any] = {}
    for f in fields(Point):
        text = row.get(f.name, "").strip()
        if text:
            values[f.name] = _value(text, str(f.type), file, line, f.name)
    for name in NEEDED:
        if name not in values:
            raise SpecError("is empty", file=file, line=line, key=name)
    if not any(name in values for name in MEASURED):
        raise SpecError(f"needs {' or '.join(MEASURED)}", file=file, line=line)
    return Point(**values)


def _value(text: str, kind: str, file: str, line: int, key: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false", "0", "1"):
            raise SpecError("must be true or false", file=file, line=line, key=key, value=text)
        return text.lower() in ("true", "1")
    try:
        number = float(text)
    except ValueError:
        raise SpecError("must be a number", file=file, line=line, key=key, value=text) from None
    whole = kind == "int"
    if number != number or number < 0 or (whole and number != int(number)) or (number == 0 and key in NEEDED):
        what = "a whole number" if whole else "a number"
        raise SpecError(f"must be {what} above 0", file=file, line=line, key=key, value=text)
    return int(number) if whole else number
