"""Which column of a CSV trace is the time, the prompt and the output, by the names that traces give them.

Azure's are TIMESTAMP, ContextTokens and GeneratedTokens. The others are those of Vidur (arrived_at, num_prefill_tokens,
num_decode_tokens), BurstGPT (Timestamp, Request tokens, Response tokens), of vLLM's and OpenAI's logs (prompt_tokens,
completion_tokens) and of plain words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from simserve.errors import SpecError, nearest_name
from simserve.workload.files import header

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
# As they are compared: small letters and digits alone; a time without its unit.
NAMES = {
    "TIMESTAMP": ("timestamp", "time", "arrival", "arrivaltime", "arrivaltimestamp", "arrivedat", "arrived", "start",
                  "starttime", "requesttime", "submittime", "sentat", "date", "datetime"),
    "ContextTokens": ("contexttokens", "prompttokens", "inputtokens", "numprefilltokens", "prefilltokens",
                      "requesttokens", "promptlength", "inputlength", "promptlen", "inputlen", "numprompttokens",
                      "numinputtokens", "inputtoks", "prompttoks", "isl", "prompt", "input"),
    "GeneratedTokens": ("generatedtokens", "outputtokens", "completiontokens", "numdecodetokens", "decodetokens",
                        "responsetokens", "outputlength", "outputlen", "responselength", "numoutputtokens",
                        "numcompletiontokens", "outputtoks", "osl", "completion", "output", "response"),
}  # fmt: skip
SHOWN = {
    "TIMESTAMP": "timestamp, time, arrival, arrived_at, arrival_ms",
    "ContextTokens": "prompt_tokens, input_tokens, num_prefill_tokens",
    "GeneratedTokens": "output_tokens, completion_tokens, num_decode_tokens",
}  # in messages
_UNIT = re.compile(r"[\s_(\[-](s|sec|seconds|ms|us|ns)[)\]]?$", re.IGNORECASE)


@dataclass(frozen=True)
class TraceColumns:
    """The columns of a trace, and in what its times are: "time" for dates or seconds, else s, ms, us or ns."""

    time: str
    kind: str
    prompt: str
    output: str

    @property
    def names(self) -> tuple[str, str, str]:
        """In the order of AZURE."""
        return self.time, self.prompt, self.output


def trace_columns(path: Path) -> TraceColumns:
    """The columns of the CSV at `path`; SpecError for one that is missing, or that two may be."""
    found = header(path)
    time, prompt, output = (name if name in found else _one(name, found, path) for name in AZURE)
    unit = _UNIT.search(time)
    kind = unit.group(1).lower()[:2].removesuffix("e") if unit is not None else "time"
    return TraceColumns(time, kind, prompt, output)


def _one(wanted: str, found: list[str], path: Path) -> str:
    """The column that means `wanted`."""
    fitting = [name for name in found if _folded(name, wanted) in NAMES[wanted]]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise SpecError(f"the columns {' and '.join(fitting)} may both be it; call one of them {wanted}",
                        file=str(path), key=wanted)  # fmt: skip
    problem = f"the column is missing; the file has {', '.join(found)}; it may also be called {SHOWN[wanted]}"
    raise SpecError(problem, file=str(path), key=wanted, nearest=nearest_name(wanted, found))


def _folded(name: str, wanted: str) -> str:
    plain = _UNIT.sub("", name) if wanted == AZURE[0] else name
    return re.sub(r"[^a-z0-9]", "", plain.lower())
