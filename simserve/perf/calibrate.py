"""The host constant of an engine profile, from measured serving runs: what the kernels leave unexplained.

For a run at rate r with mean end-to-end time e: mean batch b = r (e - api), by Little's law; mean context =
prompt + output / 2. Measured time per token y; modelled decode step d(b); a share r y of the steps also
carries a prompt, which adds x = r y (mixed step - d) if its prefix was not cached. The runs share prefixes to
an unknown degree, so half of x is charged and only runs with x below 0.7 ms are used. The constant is the
median of y - d - x / 2; runs whose two ways to give y (mean ITL, and end-to-end over the nominal output
length) differ by more than 5 % are left out, because their output length is not known.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import median, stdev

from simserve.errors import MissingData, UnknownName
from simserve.perf.host import load_profile
from simserve.perf.model import build_cost
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

MAX_PREFILL_MS, MAX_DISAGREEMENT = 0.7, 0.05


@dataclass(frozen=True, slots=True)
class Residual:
    """One load stage: ms per token measured, decode step modelled without host time, prefill share."""

    run: str
    rate_rps: float
    batch: int
    measured_ms: float
    decode_ms: float
    prefill_ms: float
    disagreement: float

    @property
    def host_ms(self) -> float:
        """Unexplained time per step, half of the prefill charged."""
        return self.measured_ms - self.decode_ms - self.prefill_ms / 2

    @property
    def usable(self) -> bool:
        """Whether output length and cached prefixes leave the residual well enough known."""
        return self.prefill_ms < MAX_PREFILL_MS and self.disagreement < MAX_DISAGREEMENT


def residuals(path: Path) -> list[Residual]:
    """One entry per load stage of the dense H100 runs of the training split; nothing else is looked at."""
    if not path.is_file():
        raise MissingData(f"no measured runs at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        train = (row for row in csv.DictReader(file) if row["split"] == "train" and row["stage"] != "all")
        return [_residual(row) for row in train if row["hardware"] == "H100" and _dense(row["model"])]


def host_constant(path: Path) -> tuple[int, int, int]:
    """(median, standard deviation, number of runs) of the host time per step in ns."""
    values = [entry.host_ms for entry in residuals(path) if entry.usable]
    return round(median(values) * 1e6), round(stdev(values) * 1e6), len(values)


def _residual(row: dict[str, str]) -> Residual:
    engine = load_profile("vllm", calibrated=False)
    limit = int(row["max_num_batched_tokens"])
    cost = build_cost(
        load_model(row["model"]),
        load_gpu("h100_sxm"),
        tensor_parallel_size=int(row["tp"]),
        max_num_batched_tokens=limit,
        max_num_seqs=128,
        profile=engine,
    )
    rate, measured_ms = float(row["stage_rate_rps"]), float(row["tpot_from_e2e_ms"])
    prompt, output = int(row["in_tok"]), int(row["out_tok"])
    inside_s = float(row["e2e_mean"]) / 1e3 - (engine.api_ns + engine.api_ns_per_request) / 1e9
    batch = max(1, min(128, round(rate * inside_s)))
    context = int(batch * (prompt + output / 2))
    decode_ns = cost.step_ns((), batch, context, batch) - engine.host_ns_per_step
    chunk = min(prompt, limit - batch)
    mixed_ns = cost.step_ns([(chunk, 0)], batch, context, batch + 1) - engine.host_ns_per_step
    return Residual(
        run=row["exp"],
        rate_rps=rate,
        batch=batch,
        measured_ms=measured_ms,
        decode_ms=decode_ns / 1e6,
        prefill_ms=rate * measured_ms / 1e3 * (mixed_ns - decode_ns) / 1e6 * (prompt / chunk),
        disagreement=abs(float(row["itl_mean"]) / measured_ms - 1),
    )


def _dense(name: str) -> bool:
    """Whether this is a dense model that `models/` describes."""
    try:
        return load_model(name).experts is None
    except UnknownName:
        return False
