"""MkDocs hook: pages and tables that are made from the code and its data when the site is built.

`<!-- generated: NAME -->` on a line of its own in a page stands for what `docsgen.BLOCKS[NAME]` returns, with arguments
after the name, indented as the mark is. Each file of `simserve/systems` becomes a page.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

from docsgen import BLOCKS
from docsgen.systems import index_page, page_names, system_page
from mkdocs.structure.files import File, Files

MARK = re.compile(r"^( *)<!-- generated: ([a-z_]+)((?: [\w./-]+)*) -->$", re.MULTILINE)
PLACE = "SYSTEMS"  # the value of the navigation entry whose pages are made here


def on_config(config: Any) -> Any:
    """Put the pages of the systems into the navigation."""
    pages = ["systems/index.md", *(f"systems/{name}.md" for name in page_names())]
    for entry in config.nav:
        for title, value in entry.items():
            if value == PLACE:
                entry[title] = pages
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file of systems, and their index."""
    files.append(File.generated(config, "systems/index.md", content=index_page()))
    for name in page_names():
        files.append(File.generated(config, f"systems/{name}.md", content=system_page(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for."""
    return MARK.sub(lambda found: indent(BLOCKS[found[2]](*found[3].split()), found[1]), markdown)
