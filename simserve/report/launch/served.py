"""What a launched server loads: the model of a result, by Hugging Face id or by folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Served:
    """What `vllm serve` and the others load.

    target: a Hugging Face id or a folder; context_tokens: the model's own limit, None if unknown;
    remark: what the user has to put there or to check, '' for nothing.
    """

    target: str
    context_tokens: int | None = None
    remark: str = ""

    @property
    def in_pods(self) -> str:
        """What to do about a checkpoint in a folder where servers are pods; '' for a Hugging Face id."""
        if self.target.count("/") == 1 and not self.target.startswith((".", "/", "~")):
            return ""
        return f"{self.target} is no Hugging Face id: mount a volume with the checkpoint and name it in its place"


def served_model(provenance: Mapping[str, Any]) -> Served:
    """The model of a result; one that was read from a file is served from where that file lies."""
    model = provenance["model"]
    name, context = str(model["name"]), model.get("max_position_embeddings")
    given = str(provenance.get("study", {}).get("model", name))
    path = Path(given).expanduser()
    imported = path.suffix == ".json" or (path / "config.json").is_file()
    if "/" in name or not (imported or path.suffix in (".yaml", ".yml")):
        return Served(name, context)
    if imported and (path.name == "config.json" or path.suffix != ".json"):
        folder = str(path.parent if path.name == "config.json" else path)
        return Served(folder, context, f"# {folder} has to hold the weights and the tokenizer beside config.json")
    remark = f"# {name} is described in {given}: put the checkpoint's folder or Hugging Face id in its place"
    return Served(name, context, remark)
