"""The notebooks run on the small settings that each states, and hold no output, no long cell, no dead name."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_LINES, MOST_COLUMNS, MOST_CELLS, PATIENCE_S = 45, 112, 30, 300


def read(path: Path) -> Any:
    """A notebook."""
    return nbformat.read(path, as_version=4)


def parameters(notebook: Any) -> Any:
    """Its one cell of settings."""
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def test_all_are_there() -> None:
    """In the order in which one reads them."""
    assert [
        "01_first_search", "02_what_if_hardware", "03_what_if_workload", "04_offload_on_small_gpus",
        "05_diffusion_llm", "06_epd_multimodal", "07_write_a_scheduler", "08_calibrate_to_my_cluster",
    ] == [path.stem for path in NOTEBOOKS]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short_and_stripped(path: Path) -> None:
    """Outputs are made by whoever reads it; its small settings are names of its own."""
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    own = {target.id for node in ast.parse(parameters(notebook).source).body
           for target in node.targets}  # type: ignore[attr-defined]

    nbformat.validate(notebook)
    assert [] == [cell.outputs for cell in code if cell.outputs or cell.execution_count is not None]
    assert MOST_LINES >= max(len(cell.source.splitlines()) for cell in code)
    assert MOST_COLUMNS >= max(len(line) for cell in code for line in cell.source.splitlines())
    assert MOST_CELLS >= len(notebook.cells)
    assert set(notebook.metadata["simserve"]["small"]) <= own
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """On its small settings; every cell that ends in an expression shows something."""
    notebook = read(path)
    small = notebook.metadata["simserve"]["small"]
    parameters(notebook).source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in small.items())
    NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    silent = [cell.source for cell in cells if shows(cell.source) and not cell.outputs]

    assert [] == silent
    assert [] == [output for cell in cells for output in cell.outputs
                  if output.output_type == "stream" and output.name == "stderr"]  # fmt: skip


def shows(source: str) -> bool:
    """Whether a cell ends in an expression, and not in a semicolon or a shell command."""
    if "\n!" in source or source.rstrip().endswith(";"):
        return False
    return isinstance(ast.parse(source).body[-1], ast.Expr)
