"""The tables of flags come from a package's sources, by parsing alone."""

import importlib.util
import sys
from pathlib import Path

import yaml

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "launch_flags.py"
spec = importlib.util.spec_from_file_location("launch_flags", PATH)
assert spec is not None
assert spec.loader is not None
launch_flags = importlib.util.module_from_spec(spec)
sys.modules["launch_flags"] = launch_flags
spec.loader.exec_module(launch_flags)

ARGS = '''
"""A docstring with --no-such-flag in it."""
parser.add_argument("--tensor-parallel-size", "-tp", type=int, help="not --this-one either")
parser.add_argument("--eager", **kwargs["eager"])
parser.add_argument("--policy", choices=["fcfs", "priority"])
parser.add_argument(f"--{prefix}pd-mode", action="store_true")
parser.add_argument("--timed", action=argparse.BooleanOptionalAction)
add_negatable_bool_argument(g, flag_name="--events", help="")
x: A[str, CLIParameter(name=("--url", "-u"), negative="--no-url")]
'''
FIELDS = '''
class FrontendArgs:
    port: int = 8000
    uvicorn_log_level: Literal["info", "debug"] = "info"
    secret: A[bool, Arg(no_cli=True)] = False
    tp_size: A[int, Arg(help="x", cli_name="--tp", aliases=["--tensor"])] = 1
    _private: int = 1
    kind: ClassVar[str] = "x"
'''
TYPES = "class Config:\n    eager: bool = False\n    policy: str = 'fcfs'\n"


def test_names_and_choices(tmp_path: Path) -> None:
    """String constants that are flags, fields of classes, negations of booleans, literal choices; no help texts."""
    for name, text in (("args.py", ARGS), ("fields.py", FIELDS), ("types_.py", TYPES)):
        (tmp_path / name).write_text(text)
    program = launch_flags.Program(("args.py", "fields.py"), ("FrontendArgs",), ("types_.py",))
    found = launch_flags.collect(tmp_path, program)

    assert found.flags == {
        "--tensor-parallel-size", "--eager", "--no-eager", "--policy", "--pd-mode", "--timed", "--no-timed", "--events",
        "--no-events", "--url", "--no-url", "--port", "--uvicorn-log-level", "--tp", "--tensor",
    }  # fmt: skip
    assert found.choices == {"--policy": ["fcfs", "priority"], "--uvicorn-log-level": ["info", "debug"]}


def test_a_table_names_its_package_version_and_licence(tmp_path: Path) -> None:
    """One file for each known package in the folder."""
    (tmp_path / "sglang_router-9.9.9.dist-info").mkdir()
    (tmp_path / "sglang_router").mkdir()
    (tmp_path / "sglang_router" / "router_args.py").write_text(ARGS)
    package = next(p for p in launch_flags.PACKAGES if p.name == "sglang_router")
    table = yaml.safe_load(launch_flags.table(tmp_path, package, "9.9.9"))

    assert (table["package"], table["version"], table["licence"]) == ("sglang-router", "9.9.9", "Apache-2.0")
    assert "--policy" in table["programs"]["router"]


def test_the_shipped_tables_are_whole() -> None:
    """Each has its source and licence, and no empty command."""
    tables = [yaml.safe_load(path.read_text()) for path in sorted(launch_flags.INTO.glob("*.yaml"))]

    assert {"vllm", "sglang", "sglang-router", "ai-dynamo", "aiperf", "tensorrt-llm", "llm-d"} == {
        table["package"] for table in tables
    }
    for table in tables:
        assert table["source"]
        assert table["licence"]
        assert all(len(flags) > 5 for flags in table["programs"].values())
