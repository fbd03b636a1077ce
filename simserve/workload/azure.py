"""Azure LLM inference traces: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

Source: Azure Public Dataset, https://github.com/Azure/AzurePublicDataset (CC-BY-4.0), traces of 2023.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.errors import SpecError
from simserve.workload.arrivals import scaled_ns
from simserve.workload.files import read_columns
from simserve.workload.requests import RequestSet


def read_azure(path: Path, *, rate_scale: float = 1.0, limit: int | None = None) -> RequestSet:
    """The requests of a trace; gaps between arrivals are divided by `rate_scale`."""
    columns = read_columns(path, {"TIMESTAMP": "time", "ContextTokens": "int", "GeneratedTokens": "int"})
    times = columns["TIMESTAMP"]
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        raise SpecError("times go backwards; sort the trace", file=f"{path}, row {int(back[0]) + 3}",
                        key="TIMESTAMP")  # fmt: skip
    for name in ("ContextTokens", "GeneratedTokens"):
        short = np.flatnonzero(columns[name] < 1)
        if len(short):
            raise SpecError("every request needs at least 1 token", file=f"{path}, row {int(short[0]) + 2}",
                            key=name, value=int(columns[name][short[0]]))  # fmt: skip
    take = slice(limit)
    count = len(times[take])
    return RequestSet(
        arrival_ns=scaled_ns(times[take], rate_scale),
        prompt_tokens=columns["ContextTokens"][take],
        output_tokens=columns["GeneratedTokens"][take],
        priority=np.zeros(count, dtype=np.int64),
        concurrency=None,
        provenance={"kind": "trace", "format": "azure", "file": path.name, "rate_scale": rate_scale,
                    "limit": limit, "licence": "CC-BY-4.0 (Azure Public Dataset)"},
    )  # fmt: skip
