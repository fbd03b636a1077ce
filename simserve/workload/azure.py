"""Traces as CSV: the Azure LLM inference traces (TIMESTAMP, ContextTokens, GeneratedTokens), and a user's own.

Source: Azure Public Dataset, https://github.com/Azure/AzurePublicDataset (CC-BY-4.0), traces of 2023. Columns of other
names: `workload/columns.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.errors import SpecError
from simserve.workload.arrivals import scaled_ns
from simserve.workload.columns import AZURE, trace_columns
from simserve.workload.files import read_columns
from simserve.workload.requests import RequestSet


def read_azure(path: Path, *, rate_scale: float = 1.0, limit: int | None = None) -> RequestSet:
    """The requests of a trace; gaps between arrivals are divided by `rate_scale`."""
    named = trace_columns(path)
    columns = read_columns(path, {named.time: named.kind, named.prompt: "int", named.output: "int"})
    times = columns[named.time]
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        raise SpecError("times go backwards; sort the trace", file=f"{path}, row {int(back[0]) + 3}", key=named.time)
    for name in (named.prompt, named.output):
        short = np.flatnonzero(columns[name] < 1)
        if len(short):
            raise SpecError("every request needs at least 1 token", file=f"{path}, row {int(short[0]) + 2}",
                            key=name, value=int(columns[name][short[0]]))  # fmt: skip
    take = slice(limit)
    count = len(times[take])
    public = named.names == AZURE
    whose = {"format": "azure"} if public else {"format": "csv", "columns": list(named.names)}
    licence = {"licence": "CC-BY-4.0 (Azure Public Dataset)"} if public else {}
    return RequestSet(
        arrival_ns=scaled_ns(times[take], rate_scale),
        prompt_tokens=columns[named.prompt][take],
        output_tokens=columns[named.output][take],
        priority=np.zeros(count, dtype=np.int64),
        concurrency=None,
        provenance={"kind": "trace", **whose, "file": path.name, "rate_scale": rate_scale, "limit": limit, **licence},
    )
