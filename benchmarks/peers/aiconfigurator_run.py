"""Prices rows with AIConfigurator; run by the Python that has it: `python -I aiconfigurator_run.py FOLDER`.

FOLDER holds job.json (see `aiconfigurator.py`) and receives result.json. Timed is `cli_estimate`, one row after the
other in one process; the first row of each GPU and backend loads their tables. The newest version of the tables is
looked up once for each GPU and backend and not timed: left to `cli_estimate`, it is looked up three times a row.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import json
import resource
import sys
import time
from functools import cache
from importlib.metadata import version
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
    tables = newest(arguments["system_name"], arguments["backend_name"])
    begin = time.perf_counter()
    try:
        found = cli_estimate(**arguments, mode="agg", backend_version=tables, database_mode=database_mode)
        ttft, tpot, problem = float(found.ttft), float(found.tpot), ""
    except Exception as error:  # whatever it raises belongs to this row alone
        ttft, tpot, problem = None, None, type(error).__name__
    return ttft, tpot, time.perf_counter() - begin, problem


def main(folder: Path) -> None:
    """Price all rows, those of the same tables after each other."""
    start = time.perf_counter() - _BEGIN
    job = json.loads((folder / "job.json").read_text())
    rows = sorted(job["rows"], key=lambda row: (row["system_name"], row["backend_name"], row["model_path"]))
    priced = [(row.pop("row"), *estimate(row, job["database_mode"])) for row in rows]
    result = {
        "version": version("aiconfigurator"),
        "start_s": start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": priced,
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
