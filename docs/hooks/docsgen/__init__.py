"""Blocks of the site that are made from the code and its data; see `docs/hooks/hook.py`."""

from __future__ import annotations

from collections.abc import Callable

from docsgen import accuracy, api, cli, data, hardware, notebooks, papers, quickstart, study
from docsgen.documents import changelog, design, hardware_readme, models_readme, perfdb_readme, result_schema

BLOCKS: dict[str, Callable[..., str]] = {
    "api": api.reference,
    "cli": cli.reference,
    "command": cli.one_command,
    "study_keys": study.keys,
    "result_schema": result_schema,
    "gpus": hardware.gpus,
    "hosts_and_links": hardware.hosts_and_links,
    "models": hardware.models,
    "tables": data.tables,
    "engines": data.engines,
    "papers": papers.papers,
    "design": design,
    "changelog": changelog,
    "perfdb_readme": perfdb_readme,
    "hardware_readme": hardware_readme,
    "models_readme": models_readme,
    "accuracy": accuracy.block,
    "quickstart": quickstart.picture,
    "notebooks": notebooks.listed,
}
