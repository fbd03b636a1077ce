"""A wheel built from the tree carries the data folders and works outside the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network and unpacked into an empty folder."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    target = out / "site"
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def test_data_folders_travel(unpacked: Path) -> None:
    """All four data folders, and licence and notice."""
    data = unpacked / "simserve" / "_data"
    names = {p.name for p in unpacked.rglob("*") if p.parent.name == "licenses"}

    assert {"perfdb", "hw_specs", "models", "studies"} == {p.name for p in data.iterdir()}
    assert {"LICENSE", "NOTICE"} == names
    assert list(data.rglob("*.parquet"))
    assert list((unpacked / "simserve" / "report" / "launch" / "flags").glob("vllm-*.yaml"))
    assert {"page.html", "page.css", "main.js"} <= {p.name for p in (unpacked / "simserve/ui/static").iterdir()}
    assert {"study.schema.json", "paper.schema.json"} <= {p.name for p in (unpacked / "simserve/spec").iterdir()}


def test_it_simulates_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    """The installed package finds its own tables, models and hardware."""
    args = ["simulate", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "h100_sxm", "--rate", "2",
            "--isl", "100", "--osl", "10", "--requests", "20", "--json", "out.json"]  # fmt: skip
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); from simserve.cli.main import main; sys.exit(main())"

    out = subprocess.run(
        [sys.executable, "-I", "-c", code, *args], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (out.returncode, (tmp_path / "out.json").exists()) == (0, True), out.stderr
