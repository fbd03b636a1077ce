"""`simserve schema`: the JSON Schema of studies, by which editors complete keys and names and mark mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    paper: Annotated[bool, typer.Option("--paper", help="Of paper studies (`simserve reproduce`).")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write (default: print).")] = None,
) -> None:
    """Print the JSON Schema of study files, with the names of your own models and GPUs as suggestions.

    Editors with yaml-language-server (VS Code, Neovim, Emacs, JetBrains) take it from a study's first line,
    `# yaml-language-server: $schema=FILE`, which `simserve init` writes.

    Examples:
      # write it
      simserve schema -o study.schema.json
      # print that of paper studies
      simserve schema --paper
    """
    from simserve.report.save import check_targets, write_atomic
    from simserve.spec.schema import paper_schema, schema_text, study_schema

    check_targets(None, None, out)
    text = schema_text(paper_schema(known_names()) if paper else study_schema(known_names()))
    if out is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"wrote {write_atomic(out, text)}")


def known_names() -> dict[str, list[str]]:
    """What editors suggest, by kind of name."""
    from simserve.perf.host import profile_names
    from simserve.policies import EVICTIONS, ROUTERS
    from simserve.spec.hardware import gpu_names, host_names, link_names
    from simserve.spec.model import model_names
    from simserve.systems import SCHEDULERS, SYSTEMS

    return {
        "model": model_names(), "gpu": gpu_names(), "host": host_names(), "link": link_names(),
        "scheduler": SCHEDULERS.names(), "system": SYSTEMS.names(), "router": ROUTERS.names(),
        "eviction": EVICTIONS.names(), "engine": profile_names(),
    }  # fmt: skip
