"""The picture of the first page: `python docs/result_figure.py results/quickstart` writes docs/quickstart.json.

The folder is that of `simserve search studies/quickstart.yaml -o results/quickstart`; a few numbers of each run are
kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(result: Path) -> None:
    """Write what the picture needs."""
    document = json.loads((result / "result.json").read_text(encoding="utf-8"))
    front = set(document["front"])
    runs = [
        {
            "tokens_per_s_per_gpu": round(run["tokens_per_s_per_gpu"], 1), "tpot_ms": round(run["tpot_ms"], 3),
            "meets_slo": run["meets_slo"], "front": index in front, "recommended": index == document["recommended"],
            "name": f"{run['deployment']['replicas']} x {run['deployment']['gpu']} "
                    f"TP{run['deployment']['tensor_parallel_size']} {run['deployment']['dtype']}",
        }
        for index, run in enumerate(document["runs"])
    ]  # fmt: skip
    about = {"command": "simserve search studies/quickstart.yaml -o results/quickstart",
             "simserve": document["provenance"]["simserve"], "seed": document["provenance"]["seed"],
             "runs": runs}  # fmt: skip
    (ROOT / "docs" / "quickstart.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
