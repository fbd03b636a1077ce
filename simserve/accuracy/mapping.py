"""Over which GPUs a row of the silicon sample was run, where its columns say something else.

Read otherwise than written, each because other rows of the file hold the same measurement or the id says so:
- Clients: the notes state them; else `batch_size` of one data-parallel rank times attention_dp_size. Where the notes
  of other runs than InferenceX's state more than that, `batch_size` is of one GPU, of servers of tp GPUs, as many as
  the clients fill [derived].
- Squares: where moe_tp = moe_ep = n, the exports of InferenceX hold n x n in the place of n ranks, and the experts are
  over n ranks (87 measurements of n = 4 and 8 are in the file with n ranks, too; ids of 22 rows of n = 2 say tp2_ep2).
- Where attention_dp_size is empty and experts are over more ranks than tp, attention is data-parallel over the rest (19
  rows of Qwen3-235B on H200, too large for tp GPUs).
- Under vLLM tp = attention dp = n stands for n GPUs: n ranks of tp 1, as the benchmark's scripts start them; or one
  server of tp n, where another row gives the same measurement so. On the calibration scenarios n x n GPUs miss TPOT by
  26 %, n by 9 % (46 rows), and only n explain H100 rows that ran out of KV cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from simserve.accuracy.inferencex import is_inferencex

Row = dict[str, Any]
_SIZES = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")


def repaired(rows: Sequence[Row]) -> list[Row]:
    """Rows with the mapping that was run; those that need none as they are."""
    rows = [_with_attention_ranks(_unsquared(row)) for row in rows]
    plain = {measurement(row): row for row in rows if size(row, "attention_dp") == 1}
    return [_as_one_server(row, plain.get(measurement(row))) for row in rows]


def _unsquared(row: Row) -> Row:
    n = size(row, "moe_ep")
    if n == 1 or size(row, "moe_tp") != n or not is_inferencex(str(row["silicon_data_source"])):
        return row
    spread = {name: n if size(row, name) == n * n else size(row, name) for name in ("tp", "attention_dp")}
    return {**row, "moe_tp_size": 1.0, **{f"{name}_size": float(value) for name, value in spread.items()}}


def _with_attention_ranks(row: Row) -> Row:
    """Experts over more ranks than attention, of which nothing is said: attention is data-parallel over the rest."""
    experts, tp = size(row, "moe_tp") * size(row, "moe_ep"), size(row, "tp")
    if row["mode"] != "agg" or row["attention_dp_size"] == row["attention_dp_size"] or experts <= tp or experts % tp:
        return row
    return {**row, "attention_dp_size": float(experts // tp)}


def measurement(row: Row) -> tuple[Any, ...]:
    """What the copies of a measurement share, whatever they call its model: times to hundredths of a millisecond."""
    same = ("backend", "system", "mode", "isl", "osl")
    return *(row[name] for name in same), round(row["silicon_ttft_ms"], 2), round(row["silicon_tpot_ms"], 2)


def _as_one_server(row: Row, plain: Row | None) -> Row:
    """Under vLLM, the mapping of the row that gives the same measurement without data parallelism."""
    if not counts_twice(row) or plain is None or size(plain, "tp") != size(row, "tp"):
        return row
    return {**row, "batch_size": plain["batch_size"], **{f"{name}_size": plain[f"{name}_size"] for name in _SIZES}}


def counts_twice(row: Row) -> bool:
    """Whether tensor and data parallel size are the same GPUs."""
    tp, dp = size(row, "tp"), size(row, "attention_dp")
    return bool(row["backend"] == "vllm" and tp == dp > 1 and size(row, "moe_ep") == tp * dp)


def ranks(row: Row) -> tuple[int, int, int, int]:
    """(tp, attention dp, moe_tp, moe_ep) of a row; one that counts its data-parallel ranks twice has tp 1."""
    tp, dp, moe_tp, moe_ep = (size(row, name) for name in ("tp", "attention_dp", "moe_tp", "moe_ep"))
    return (1, dp, moe_tp, dp) if counts_twice(row) else (tp, dp, moe_tp, moe_ep)


def clients(row: Row) -> tuple[int, int]:
    """(clients, servers) of an aggregated row."""
    tp, dp, *_ = ranks(row)
    batch = number(row["batch_size"])
    stated = stated_clients(row) or batch * dp
    servers, rest = divmod(stated, batch * tp * dp)
    per_gpu = stated > batch * dp and not rest and not is_inferencex(str(row["silicon_data_source"]))
    return stated, servers if per_gpu else 1


def stated_clients(row: Row) -> int:
    """The concurrency that the notes of a row state; 0 if none."""
    found = re.search(r"silicon_concurrency=(\d+)", str(row["silicon_data_source"]))
    return int(found[1]) if found else 0


def consistent(row: Row) -> bool:
    """Whether attention and experts are spread over equally many ranks, in both pools of a disaggregated row."""
    if row["mode"] == "disagg":
        return all(consistent({**row, **pool(row, name), "mode": "agg"}) for name in ("prefill", "decode"))
    tp, pp, dp, moe_tp, moe_ep = (size(row, name) for name in _SIZES)
    if not isinstance(row["moe_quant_mode"], str) or (moe_tp, moe_ep) == (1, 1):
        return tp * pp * dp <= 8 or dp == 1
    square = moe_tp > 1 and moe_ep > 1 and moe_tp * moe_ep > 8
    return tp * dp == moe_tp * moe_ep and not square


def pool(row: Row, name: str) -> Row:
    """The sizes of one pool, under the names that aggregated rows have."""
    return {f"{size}_size": row.get(f"{name}_{size}_size") for size in _SIZES}


def size(row: Row, name: str) -> int:
    """A parallel size of a row."""
    return number(row[f"{name}_size"])


def number(value: Any) -> int:
    """A size; empty and 0 mean one."""
    return int(value) if value is not None and value == value and value else 1
