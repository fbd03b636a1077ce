"""The keys of a study file, from the models that read it."""

from __future__ import annotations

import re
from typing import Any

from docsgen.markdown import cell, code, prose, table
from simserve.spec.study import StudySpec


def keys() -> str:
    """A section for each part of a study, in the order in which they are met."""
    schema = StudySpec.model_json_schema()
    specs = {"StudySpec": schema, **schema["$defs"]}
    order, paths = ["StudySpec"], {"StudySpec": ""}
    for name in order:
        for key, field in specs[name].get("properties", {}).items():
            for inner in _references(field):
                if inner not in paths:
                    order.append(inner)
                    paths[inner] = f"{paths[name]}.{key}".lstrip(".")
    titles = {name: _title(name, paths[name]) for name in order}
    return "\n".join(_section(specs[name], titles, name) for name in order)


def _title(name: str, path: str) -> str:
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", name.removesuffix("Spec")).lower()
    return "The study" if name == "StudySpec" else f"{words[0].upper()}{words[1:]}: {path}"


def _section(spec: dict[str, Any], titles: dict[str, str], name: str) -> str:
    required = set(spec.get("required", ()))
    rows = [
        (code(key), _kind(field, titles), "required" if key in required else _default(field))
        for key, field in spec.get("properties", {}).items()
    ]
    about = [prose(p) for p in spec.get("description", "").split("\n\n")]
    shown = table(("key", "value", "default"), rows) if rows else ""
    return "\n".join([f"## {titles[name]} {{#{name.lower()}}}", "", "\n\n".join(about), "", shown, ""])


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or isinstance(value, dict) or value in ([], ""):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else value)


def _references(field: Any) -> list[str]:
    """Names of the models in a field, in order."""
    if isinstance(field, dict):
        own = [field["$ref"].rpartition("/")[2]] if "$ref" in field else []
        return own + [name for key, part in field.items() if key != "default" for name in _references(part)]
    return [name for part in field for name in _references(part)] if isinstance(field, list) else []


def _kind(field: dict[str, Any], titles: dict[str, str]) -> str:
    """What a key may hold, in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{titles[name].partition(':')[0].lower()}](#{name.lower()})"
    if "anyOf" in field:
        kinds = [_kind(part, titles) for part in field["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(code(value) for value in field["enum"])
    if "const" in field:
        return code(field["const"])
    if field.get("type") == "array":
        return _list(field, titles)
    if field.get("type") == "object":
        inner = next(iter((field.get("patternProperties") or {}).values()), field.get("additionalProperties"))
        return f"name: {_kind(inner, titles)}" if isinstance(inner, dict) else "mapping"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", "number": "number"}
    return names.get(field.get("type", ""), "any") + _bounds(field)


def _list(field: dict[str, Any], titles: dict[str, str]) -> str:
    items, fixed = field.get("items"), field.get("prefixItems")
    if fixed:
        return "[" + ", ".join(_kind(part, titles) for part in fixed) + "]"
    if isinstance(items, dict) and len(items.get("prefixItems", ())) == 2:  # a mapping, kept as pairs
        return f"name: {_kind(items['prefixItems'][1], titles)}"
    return f"list of {_kind(items, titles)}" if isinstance(items, dict) else "list"


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f" {cell(', '.join(found))}" if found else ""
