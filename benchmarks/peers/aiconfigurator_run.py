"""Prices rows with AIConfigurator; run by the Python that has it: `python -I aiconfigurator_run.py FOLDER`.

FOLDER holds job.json (see `aiconfigurator.py`) and receives result.json. Timed is `cli_estimate`, one row after the
other in one process. The first row of each GPU, backend and model is priced once before, to load their tables, which
counts as `load_s`. So does the newest version of the tables, which is looked up once for each GPU and backend: left to
`cli_estimate`, it is looked up three times a row, in about 0.3 s each.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import json
import resource
import sys
import time
from functools import cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

_BEGIN = time.perf_counter()

from aiconfigurator.cli.api import cli_estimate  # noqa: E402  the import is timed
from aiconfigurator.sdk.perf_database import get_latest_database_version  # noqa: E402

Priced = tuple[float | None, float | None, float, str]


@cache
def newest(system: str, backend: str) -> str | None:
    """The tables that `cli_estimate` takes by default."""
    found: str | None = get_latest_database_version(system=system, backend=backend)
    return found


def estimate(arguments: dict[str, Any], database_mode: str) -> Priced:
    """(TTFT ms, TPOT ms, wall seconds, problem): the name of the error where there is no estimate."""
    begin = time.perf_counter()
    try:
        tables = newest(arguments["system_name"], arguments["backend_name"])
        found = cli_estimate(**arguments, mode="agg", backend_version=tables, database_mode=database_mode)
        ttft, tpot, problem = float(found.ttft), float(found.tpot), ""
    except Exception as error:  # whatever it raises belongs to this row alone
        ttft, tpot, problem = None, None, type(error).__name__
    return ttft, tpot, time.perf_counter() - begin, problem


def tables_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """What rows share that read the same tables."""
    return row["system_name"], row["backend_name"], row["model_path"]


def main(folder: Path) -> None:
    """Price all rows, those of the same tables after each other."""
    start = time.perf_counter() - _BEGIN
    job = json.loads((folder / "job.json").read_text())
    priced, load_s = [], 0.0
    for _, group in groupby(sorted(job["rows"], key=tables_of), key=tables_of):
        rows = [(row.pop("row"), row) for row in group]
        load_s += estimate(rows[0][1], job["database_mode"])[2]
        priced += [(number, *estimate(row, job["database_mode"])) for number, row in rows]
    result = {
        "version": version("aiconfigurator"),
        "start_s": start,
        "load_s": load_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": priced,
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
