"""How fast the simulator is: `python benchmarks/speed.py TRACES [--million] [--json OUT] [--plot OUT.html]`.

TRACES is the folder with azure2023_conv.csv.gz, azure2023_code.csv.gz and mooncake_conversation_trace.jsonl.gz.
Every scenario runs in a process of its own on one core; imports, reading the load and the compilation of cost
tables are not counted; of runs under 5 s the fastest of three counts. `events` are entries of the simulation
clock's heap, `steps` are engine steps. What comes out: the table, growth curves, and the bars, met or missed.

With `--peer vidur --peer-python PATH` two of the loads are also played by Vidur in the Python at PATH, one where
`pip install vidur` was run; `peers/vidur.py` says what is compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bars import verdicts
from charts import CURVES, bars_table, console, growth, line, peer_table, results, write_html
from peers import PeerMissing, vidur
from scenarios import BLOCK_SIZE, LONG, SCENARIOS, Row, llama_cost, measure

from simserve.errors import SimserveError

PEER_SCENARIOS = ("azure conversation", "requests 10,000")


def measure_apart(name: str, traces: Path, head: int | None = None) -> Row:
    """Run one scenario in a process of its own."""
    command = [sys.executable, __file__, str(traces), "--only", name]
    if head is not None:
        command += ["--head", str(head)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    row: Row = json.loads(done.stdout)
    return row


def beside_vidur(python: Path, traces: Path, head: int | None) -> list[Row]:
    """The same loads in both simulators; ratio: Vidur's time over ours."""
    pairs = []
    for name in PEER_SCENARIOS:
        scenario = SCENARIOS[name]
        load = scenario.load(traces)
        load = load if head is None else load.head(head)
        ours = measure_apart(name, traces, head)
        theirs = vidur.play(python, load, llama_cost(), blocks=scenario.blocks, block_size=BLOCK_SIZE)
        pairs.append({
            "scenario": name, "requests": len(load), "ratio": theirs["wall_s"] / ours["wall_s"],
            "simserve": {"simulator": "simserve", **ours}, "peer": theirs,
        })  # fmt: skip
    return pairs


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--million", action="store_true", help="add 1,000,000 requests on 64 replicas and on one")
    parser.add_argument("--json", type=Path, help="save all numbers here")
    parser.add_argument("--plot", type=Path, help="save the charts here, as HTML")
    parser.add_argument("--peer", choices=["vidur"], help="play two of the loads in this simulator too")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="the Python that has the peer")
    parser.add_argument("--peer-requests", type=int, help="only so many requests beside the peer")
    parser.add_argument("--only", choices=[*SCENARIOS, *LONG], help="measure one scenario here, print it as JSON")
    parser.add_argument("--head", type=int, help="with --only: only so many requests")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> None:
    """Measure all scenarios; print, draw and save them."""
    out = console()
    if options.peer:
        vidur.check(options.peer_python)
    rows = []
    for name in [*SCENARIOS, *(LONG if options.million else [])]:
        rows.append(measure_apart(name, options.traces))
        print(line(rows[-1]), flush=True)
    for part in (results(rows), *(growth(rows, name) for name in CURVES), bars_table(verdicts(rows))):
        out.print(part)
    pairs = []
    if options.peer:
        pairs = beside_vidur(options.peer_python, options.traces, options.peer_requests)
        out.print(peer_table(pairs))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "bars": verdicts(rows), "peer": pairs}, indent=2))
    if options.plot:
        write_html(rows, options.plot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or end with one line and exit code 2."""
    options = options_from(arguments)
    try:
        if options.only:
            print(json.dumps(measure(options.only, options.traces, options.head)))
        else:
            report(options)
    except (SimserveError, PeerMissing) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
