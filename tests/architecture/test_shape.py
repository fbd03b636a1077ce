"""The shape of the code: file and function sizes, import contracts, what starts quickly."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "simserve"
FILES = sorted(PACKAGE.rglob("*.py"))


def too_long(source: str, limit: int) -> list[str]:
    """Functions of more than `limit` lines, docstring aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines >= limit:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_and_functions_are_small(path: Path) -> None:
    """Files under 400 lines, functions under 40, every module documented."""
    source = path.read_text(encoding="utf-8")

    assert len(source.splitlines()) < 400
    assert too_long(source, 40) == []
    assert source == "" or ast.get_docstring(ast.parse(source))


def test_the_size_rule_can_fail() -> None:
    """A function of 40 lines is found."""
    source = "def f():\n" + "\n".join(f"    x{i} = {i}" for i in range(40))

    assert too_long(source, 40) == ["f: 40 lines"]


@pytest.mark.parametrize("package", ["search", "report", "cli", "sim", "spec", "policies", "systems", "workload"])
def test_classes_of_a_package_have_names_of_their_own(package: str) -> None:
    """Two of one name would be taken for each other where both are imported."""
    names = [
        node.name
        for path in (PACKAGE / package).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]

    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_policies_read_no_clock_and_no_output_length() -> None:
    """Names that would let a policy look into the future do not occur in systems and policies."""
    forbidden = {"final_tokens", "output_tokens", "env", "Clock"}
    found = [
        f"{path.name}: {name}"
        for folder in ("systems", "policies")
        for path in (PACKAGE / folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in [node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")]
        if name in forbidden
    ]

    assert found == []


@pytest.mark.parametrize("module", ["simserve", "simserve.cli.main"])
def test_start_up_imports_nothing_heavy(module: str) -> None:
    """`simserve --help` stays fast: numpy, pandas and the like load only when a command needs them."""
    heavy = ["numpy", "pandas", "scipy", "optuna", "pydantic", "pyarrow", "simpy", "yaml", "joblib"]
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"


def test_import_contracts_hold() -> None:
    """import-linter's contracts in pyproject are the map of the layers."""
    out = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert out.returncode == 0, out.stdout
