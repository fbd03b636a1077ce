"""What the shell completes: names by the files and decorators that hold them, so that nothing heavy is imported.

Each function takes what was typed so far of a word. A word with commas is completed after the last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from simserve.paths import STUDY_FOLDERS, data_dirs, data_files

_PACKAGE = Path(__file__).resolve().parents[1]
Completer = Callable[[str], list[str]]

# As `simserve.spec` has them, whose import would take longer than the shell should wait.
OBJECTIVES = ("throughput", "gpus", "cost", "front")
MODES = ("aggregated", "disaggregated", "both")
ENGINES = ("vllm", "sglang", "trtllm")
DTYPES = ("bf16", "fp16", "fp8", "fp8_block", "nvfp4")
KV_DTYPES = ("auto", "bf16", "fp16", "fp8")
TRACE_FORMATS = ("azure", "mooncake", "blocks_jsonl")
FRAMEWORKS = ("vllm", "sglang", "trtllm", "dynamo", "llm-d")


def models(incomplete: str) -> list[str]:
    """Models by their Hugging Face id, or by its last part alone if that is how the word begins."""
    names = [path.stem.replace("--", "/") for path in data_files("models")]
    return _folded(names, incomplete) or _folded((name.rpartition("/")[2] for name in names), incomplete)


def gpus(incomplete: str) -> list[str]:
    """GPUs."""
    return _folded(_hardware("gpus"), incomplete)


def hardware(incomplete: str) -> list[str]:
    """GPUs, hosts and links."""
    return _folded(_hardware("gpus", "hosts", "links"), incomplete)


def schedulers(incomplete: str) -> list[str]:
    """Schedulers."""
    return _matching(_registered("systems", "scheduler"), incomplete)


def routers(incomplete: str) -> list[str]:
    """Routers."""
    return _matching(_registered("policies", "router"), incomplete)


def explained(incomplete: str) -> list[str]:
    """What `simserve explain` prints."""
    parts = (("systems", "scheduler"), ("systems", "system"), ("policies", "router"), ("policies", "eviction"))
    return _matching((name for part in parts for name in _registered(*part)), incomplete)


def studies(incomplete: str) -> list[str]:
    """Studies that come with simserve, and YAML files here; paths into folders are left to the shell."""
    shipped = (path.stem for path in data_files("studies") if path.parent.name not in STUDY_FOLDERS)
    return _matching((*shipped, *_files_here()), incomplete)


def papers(incomplete: str) -> list[str]:
    """Paper studies, and YAML files here."""
    shipped = (path.stem for path in data_files("studies") if path.parent.name == STUDY_FOLDERS[0])
    return _matching((*shipped, *_files_here()), incomplete)


def records(incomplete: str) -> list[str]:
    """Records files that come with simserve, and files here."""
    shipped = (path.stem for path in data_files("studies") if path.parent.name == STUDY_FOLDERS[1])
    return _matching((*shipped, *_files_here(".yaml", ".yml", ".csv")), incomplete)


def devices(incomplete: str) -> list[str]:
    """Devices with kernel tables."""
    return _matching((path.parent.relative_to(folder).as_posix() for folder, path in _tables()), incomplete)


def families(incomplete: str) -> list[str]:
    """Families of kernel tables."""
    return _matching((path.name.partition(".")[0] for _, path in _tables()), incomplete)


def one_of(*names: str) -> Completer:
    """One of some words."""
    return lambda incomplete: _matching(names, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    """Names that begin with what was typed."""
    before, comma, word = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted(set(names)) if name.startswith(word)]


def _folded(names: Iterable[str], incomplete: str) -> list[str]:
    """The same for names whose case does not matter: they begin as typed, for shells drop what does not."""
    before, comma, word = incomplete.rpartition(",")
    begun = [name for name in sorted(set(names)) if name.lower().startswith(word.lower())]
    return [f"{before}{comma}{word}{name[len(word) :]}" for name in begun]


def _hardware(*folders: str) -> Iterator[str]:
    return (path.stem for path in data_files("hw_specs") if path.parent.name in folders)


def _files_here(*suffixes: str) -> Iterator[str]:
    endings = suffixes or (".yaml", ".yml")
    return (path.name for path in Path().iterdir() if path.suffix in endings and path.is_file())


def _tables() -> Iterator[tuple[Path, Path]]:
    """(perfdb folder, table in it)."""
    return ((folder, path) for folder in data_dirs("perfdb") for path in folder.rglob("*.parquet"))


def _registered(package: str, decorator: str) -> Iterator[str]:
    """Names that a decorator registers in a package, then those of other distributions."""
    from importlib.metadata import entry_points

    pattern = re.compile(rf'^@{decorator}\("([^"]+)"\)', re.MULTILINE)
    for path in (_PACKAGE / package).glob("*.py"):
        yield from pattern.findall(path.read_text(encoding="utf-8"))
    yield from (entry.name for entry in entry_points(group=f"simserve.{decorator}"))
