"""Accelerators, hosts, links and models, each number with its source."""

from __future__ import annotations

from typing import Any

from docsgen.markdown import cell, code, details, table
from simserve.arch.memory import parameter_count
from simserve.spec.hardware import gpu_names, host_names, link_names, load_gpu, load_host, load_link
from simserve.spec.model import load_model, model_names

GIB = 1 << 30


def gpus() -> str:
    """The table of GPUs, then all numbers of each with their sources."""
    rows = []
    for name in gpu_names():
        gpu = load_gpu(name)
        peaks = [
            f"{gpu.peak_flops[kind] / 1e12:,.0f}" if kind in gpu.peak_flops else "" for kind in ("bf16", "fp8", "fp4")
        ]
        rows.append((
            code(name), cell(gpu.title.removeprefix("NVIDIA ")), f"{gpu.memory_bytes / GIB:.1f}",
            f"{gpu.memory_bandwidth_bytes_per_s / 1e9:,.0f}", *peaks, code(gpu.interconnect), gpu.tdp_watts,
            f"{gpu.price_usd_per_hour:.2f}",
        ))  # fmt: skip
    head = ("name", "GPU", "GiB", "GB/s", "bf16 TFLOP/s", "fp8", "fp4", "link", "W", "USD/h")
    own = [details(f"{name}: all numbers, with sources", sourced(load_gpu(name))) for name in gpu_names()]
    return "\n".join([table(head, rows, range(2, 7)), "", *own])


def hosts_and_links() -> str:
    """All numbers of each, with their sources."""
    found = [*((name, load_host(name)) for name in host_names()), *((name, load_link(name)) for name in link_names())]
    return "\n".join(details(f"{name}: {spec.title}", sourced(spec)) for name, spec in found)


def sourced(spec: Any) -> str:
    """A table of every field with its source."""
    fields = spec.model_dump(mode="json")
    sources, rows = fields.pop("sources"), []
    for field, value in fields.items():
        for key, entry in value.items() if isinstance(value, dict) else [(None, value)]:
            path = field if key is None else f"{field}.{key}"
            if entry not in (None, "", []):
                shown = f"{entry:,}" if isinstance(entry, int) and not isinstance(entry, bool) else entry
                rows.append((code(path), cell(shown), cell(sources.get(path, ""))))
    return table(("field", "value", "source"), rows)


def models() -> str:
    """One line per model."""
    rows = []
    for name in model_names():
        model = load_model(name)
        heads = f"{model.num_attention_heads} / {model.num_key_value_heads}"
        kinds = [*model.encoders, *(["diffusion"] if model.diffusion else [])]
        rows.append((code(model.name), f"{parameter_count(model) / 1e9:.2f}", model.num_hidden_layers, heads,
                     f"{model.max_position_embeddings:,}", ", ".join(kinds),
                     ", ".join(code(alias) for alias in model.aliases)))  # fmt: skip
    head = ("model", "parameters, 10^9", "layers", "heads / KV heads", "context", "beside text", "aliases")
    return table(head, rows, (1, 2, 3, 4))
