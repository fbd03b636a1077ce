"""Vidur (MIT, `pip install vidur`) beside simserve: the same requests at the same step costs, in Vidur's own Python.

Vidur needs execution times per operation and batch, which it fits to profiles or downloads. Here its tables are
filled from simserve's cost model, so that both simulators play the same work: everything that depends on a step's
tokens alone goes into one projection, attention into the two attention tables. The scheduler is Vidur's Sarathi,
the nearest to vLLM V1 that it has: chunked prefill mixed with decodes, decodes first.

Timed is Vidur's event loop alone; creating its requests, its tables and its metrics are not counted, and metrics,
plots and traces are off. simserve's time includes creating its requests and recording all requests and steps.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import peers
from simserve.perf.model import TableCost
from simserve.units import NS_PER_MS, NS_PER_S
from simserve.workload.requests import RequestSet

RUNNER = Path(__file__).with_name("vidur_run.py")
MODEL = "meta-llama/Llama-3-8B"  # the shape of Llama-3.1-8B
DATE = "2023-11-16"  # any: Vidur plays the rows of one date
GRANULARITY = 256  # context lengths of the attention tables, Vidur's default
ROUNDED_TOKENS, ROUNDED_CHUNK = 8, 32  # how Vidur rounds tokens and prefill chunks up before it looks them up
ATTENTION = ("prefill_attention", "decode_attention")
NOT_USED = (
    "attn_pre_proj", "attn_post_proj", "mlp_down_proj", "mlp_act", "attn_rope", "attn_kv_cache_save",
    "input_layernorm", "post_attention_layernorm", "add",
)  # fmt: skip

Step = tuple[tuple[tuple[int, int], ...], int, int, int]
Table = list[tuple[tuple[int, ...], float]]


def check(python: Path) -> None:
    """PeerMissing if `python` cannot import Vidur."""
    peers.check("Vidur", python, "vidur.simulator")


def play(python: Path, load: RequestSet, cost: TableCost, *, blocks: int, block_size: int) -> dict[str, Any]:
    """Play `load` on one replica; wall seconds, steps, restarts, mean latency, peak memory."""
    longest = int((load.prompt_tokens + load.output_tokens).max())
    longest = -(-longest // GRANULARITY) * GRANULARITY
    job = {
        "model": MODEL, "date": DATE, "num_blocks": blocks, "block_size": block_size, "max_tokens": longest,
        "granularity": GRANULARITY, "max_num_seqs": cost.formats.max_num_seqs,
        "max_num_batched_tokens": cost.formats.max_tokens, "tables": tables(cost, longest),
    }  # fmt: skip
    return peers.play("Vidur", python, RUNNER, job, {"trace.csv": _trace(load)})


def tables(cost: TableCost, longest: int) -> dict[str, Table]:
    """Vidur's tables in milliseconds per layer, by the keys that it looks up; contexts up to `longest`."""
    top, seqs = cost.formats.max_tokens, cost.formats.max_num_seqs
    contexts = range(GRANULARITY, longest + 1, GRANULARITY)
    tokens = range(ROUNDED_TOKENS, top + 1, ROUNDED_TOKENS)
    chunks = range(ROUNDED_CHUNK, top + 1, ROUNDED_CHUNK)
    nothing: Table = [((m,), 0.0) for m in range(1, top + 1)]

    def step(m: int) -> Step:
        return ((), m, m, m) if m <= seqs else (((m, 0),), 0, 0, 1)

    return {
        **dict.fromkeys(NOT_USED, nothing),
        "mlp_up_proj": [((m,), _ms(cost, step(m), attention=False)) for m in tokens],
        "attn_decode": [((b, c), _ms(cost, ((), b, b * c, b), attention=True))
                        for b in range(1, seqs + 1) for c in contexts],
        # Vidur's context of a chunk includes the chunk.
        "attn_prefill": [((c, m), _ms(cost, (((m, max(c - m, 0)),), 0, 0, 1), attention=True))
                         for m in chunks for c in contexts],
    }  # fmt: skip


def _ms(cost: TableCost, step: Step, *, attention: bool) -> float:
    """Milliseconds per layer of a step's attention, or of all else."""
    ns = sum(price.ns for name, price in cost.explain(*step) if (name in ATTENTION) == attention)
    return ns / cost.ops.attentions[0].count / NS_PER_MS


def _trace(load: RequestSet) -> str:
    columns = ((load.arrival_ns / NS_PER_S).tolist(), load.prompt_tokens.tolist(), load.output_tokens.tolist())
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("Date", "Time", "PromptTokenCount", "CompletionTokenCount"))
    writer.writerows((DATE, *row) for row in zip(*columns, strict=True))
    return out.getvalue()
