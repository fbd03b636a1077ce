"""YAML for people: keys in the order given, texts of several lines as blocks, comments on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def yaml_text(content: Any, remarks: Sequence[str] = ()) -> str:
    """One YAML document below its comments."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """With lists indented below their key."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    head = "".join(f"{line if line.startswith('#') else '# ' + line}\n" for line in remarks)
    return head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=1000)
