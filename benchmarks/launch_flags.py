"""The names of a framework's command-line flags, from its package: what `simserve/report/launch/flags` holds.

python benchmarks/launch_flags.py FOLDER [--into simserve/report/launch/flags]

FOLDER is an unpacked wheel, or the site-packages of an installation; for every package in it that `PACKAGES` knows a
table `<package>-<version>.yaml` is written. Nothing is imported (that would need GPUs and gigabytes): the sources are
parsed, and taken are string constants that are flags, the fields of classes that become flags, and literal `choices`.
Wheels come by `pip download --no-deps vllm==0.33.0`, and so on. Names only; no code and no help texts.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FLAG = re.compile(r"--[a-z][a-z0-9_-]*")
INTO = Path(__file__).resolve().parents[1] / "simserve" / "report" / "launch" / "flags"


@dataclass(frozen=True)
class Program:
    """One command: files (globs) with its flags; classes, or bases, whose fields are flags; files of their types."""

    files: tuple[str, ...]
    classes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    values: tuple[tuple[str, str, str], ...] = ()  # (flag, file, constant with its choices: a list or a Literal)


@dataclass(frozen=True)
class Package:
    """Its name on PyPI, its licence, its commands."""

    name: str
    licence: str
    programs: dict[str, Program]


DYNAMO = "dynamo/common/configuration/groups/"
RUNTIME = (f"{DYNAMO}runtime_args.py", f"{DYNAMO}router_args.py")
PACKAGES = (
    Package("vllm", "Apache-2.0", {
        "serve": Program(
            ("vllm/engine/arg_utils.py", "vllm/entrypoints/*/cli_args.py"), ("FrontendArgs", "BaseFrontendArgs"),
            ("vllm/config/*.py", "vllm/engine/arg_utils.py", "vllm/entrypoints/*/cli_args.py"),
            (("--quantization", "vllm/model_executor/layers/quantization/__init__.py", "QuantizationMethods"),),
        ),
        "bench": Program(
            ("vllm/benchmarks/serve.py", "vllm/benchmarks/datasets.py", "vllm/benchmarks/datasets/datasets.py")
        ),
    }),
    Package("sglang", "Apache-2.0", {
        "serve": Program(
            ("sglang/srt/server_args.py", "sglang/srt/arg_groups/fields/*.py"),
            ("msgspec.Struct",),
            values=(
                ("--quantization", "sglang/srt/arg_groups/choices.py", "QUANTIZATION_CHOICES"),
                ("--disaggregation-transfer-backend", "sglang/srt/arg_groups/choices.py",
                 "DISAGG_TRANSFER_BACKEND_CHOICES"),
            ),
        ),
        "bench": Program(("sglang/benchmark/serving.py",)),
    }),
    Package("sglang_router", "Apache-2.0", {"router": Program(("sglang_router/router_args.py",))}),
    Package("ai_dynamo", "Apache-2.0", {
        "frontend": Program(
            ("dynamo/frontend/frontend_args.py", f"{DYNAMO}router_args.py", f"{DYNAMO}kv_router_args.py")
        ),
        "vllm": Program(("dynamo/vllm/backend_args.py", *RUNTIME)),
        "sglang": Program(("dynamo/sglang/backend_args.py", *RUNTIME)),
        "trtllm": Program(("dynamo/trtllm/backend_args.py", *RUNTIME)),
    }),
    Package("aiperf", "Apache-2.0", {"profile": Program(("aiperf/config/flags/cli_config.py",))}),
)  # fmt: skip


@dataclass
class Found:
    """Flags of one command, and the values that some of them are restricted to."""

    flags: set[str] = field(default_factory=set)
    choices: dict[str, list[str]] = field(default_factory=dict)


def main() -> None:
    """Write a table for every known package in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--into", type=Path, default=INTO)
    args = parser.parse_args()
    for package in PACKAGES:
        for metadata in sorted(args.folder.glob(f"{package.name}-*.dist-info")):
            version = metadata.name.removesuffix(".dist-info").removeprefix(f"{package.name}-")
            path = args.into / f"{package.name}-{version}.yaml"
            path.write_text(table(args.folder, package, version))
            print(path)


def table(folder: Path, package: Package, version: str) -> str:
    """The YAML of one package."""
    found = {name: collect(folder, program) for name, program in package.programs.items()}
    content = {
        "package": package.name.replace("_", "-"), "version": version, "licence": package.licence,
        "source": f"names of flags in {package.name} {version} of PyPI, by benchmarks/launch_flags.py",
        "programs": {name: sorted(one.flags) for name, one in found.items()},
        "choices": {name: dict(sorted(one.choices.items())) for name, one in found.items() if one.choices},
    }  # fmt: skip
    return yaml.safe_dump(content, sort_keys=False, width=120, default_flow_style=None)


def collect(folder: Path, program: Program) -> Found:
    """All flags of one command."""
    found = Found()
    for tree in trees(folder, program.files):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                of_call(node, found)
            elif isinstance(node, ast.ClassDef) and program.classes and (
                {node.name, *map(ast.unparse, node.bases)} & set(program.classes)
            ):
                of_class(node, found)
    booleans = {
        node.target.id
        for tree in trees(folder, program.types) for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        and "bool" in ast.unparse(node.annotation)
    }  # fmt: skip
    for flag, file, name in program.values:
        if flag in found.flags and (values := constant(folder, file, name)):
            found.choices[flag] = values
    named = {flag for flag in found.flags if flag[2:].replace("-", "_") in booleans}
    found.flags |= {f"--no-{flag[2:]}" for flag in named}
    return found


def constant(folder: Path, file: str, name: str) -> list[str]:
    """The texts of a module's list, or `Literal[...]`, of that name."""
    for tree in trees(folder, (file,)):
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == name for t in node.targets):
                return literal(node.value) or literals(node.value)
    return []


def trees(folder: Path, globs: tuple[str, ...]) -> Iterator[ast.Module]:
    """The parsed files."""
    for glob in globs:
        for path in sorted(folder.glob(glob)):
            yield ast.parse(path.read_text(encoding="utf-8"))


def of_call(call: ast.Call, found: Found) -> None:
    """Flags among the arguments of `add_argument`, `CLIParameter(name=...)` and the like, with literal choices."""
    keywords = {k.arg: k.value for k in call.keywords if k.arg is not None}
    name = keywords.get("name")
    names = name.elts if isinstance(name, ast.Tuple) else [name]
    named = [keywords.get("flag_name"), keywords.get("negative"), *names]
    flags = [flag for node in (*call.args, *named) if (flag := text(node)) and FLAG.fullmatch(flag)]
    found.flags |= set(flags)
    action = keywords.get("action")
    if action is not None and "BooleanOptional" in ast.unparse(action):
        found.flags |= {f"--no-{flag[2:]}" for flag in flags}
    if call_name(call) == "add_negatable_bool_argument":
        found.flags |= {f"--no-{flag[2:]}" for flag in flags}
    if flags and (values := literal(keywords.get("choices"))):
        found.choices[flags[0]] = values


def of_class(node: ast.ClassDef, found: Found) -> None:
    """Fields of a class of settings as flags, by the name and aliases that the annotation states; none for no_cli."""
    for item in node.body:
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        stated = ast.unparse(item.annotation)
        if "ClassVar" in stated or "no_cli=True" in stated or item.target.id.startswith("_"):
            continue
        own = f"--{item.target.id.replace('_', '-')}"
        calls = [n for n in ast.walk(item.annotation) if isinstance(n, ast.Call)]
        keywords = {k.arg: k.value for call in calls for k in call.keywords}
        renamed = text(keywords.get("cli_name")) or own
        found.flags |= {renamed, *literal(keywords.get("aliases"))}
        if values := literal(keywords.get("choices")) or literals(item.annotation):
            found.choices[renamed] = values


def literals(annotation: ast.expr) -> list[str]:
    """The values of a `Literal[...]` of texts anywhere in an annotation."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return literal(node.slice if isinstance(node.slice, ast.Tuple) else ast.Tuple([node.slice]))
    return []


def literal(node: ast.expr | None) -> list[str]:
    """The texts of a list or tuple that has nothing else; else none."""
    if not isinstance(node, ast.List | ast.Tuple):
        return []
    values = [text(element) for element in node.elts]
    return [value for value in values if value is not None] if None not in values else []


def text(node: ast.expr | None) -> str | None:
    """A string constant; of an f-string the constant parts, for a prefix of flags is empty on the command line."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value for part in node.values if isinstance(part, ast.Constant))
    return None


def call_name(call: ast.Call) -> str:
    """The last part of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


if __name__ == "__main__":
    main()
