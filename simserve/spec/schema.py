"""JSON Schema of studies and paper studies, for editors: made from the specs, so that it says what they accept.

The files beside this one are what `simserve schema` prints without a user's own data; a study names one in its first
line. Shapes alone are checked: what goes together is for the specs. Descriptions are those of the specs' docstrings
(`key: what it is`); known names are suggestions, others are valid too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simserve.spec.paper import PaperSpec
from simserve.spec.study import StudySpec

Json = dict[str, Any]
Names = Mapping[str, Sequence[str]]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PUBLISHED = {kind: Path(__file__).with_name(f"{kind}.schema.json") for kind in ("study", "paper")}
COMMENT = "# yaml-language-server: $schema="
# Which of the given names a key suggests.
SUGGESTED = {
    "model": "model", "gpu": "gpu", "scheduler": "scheduler", "router": "router", "system": "system",
    "eviction": "eviction", "engine": "engine", "host": "host", "kv_link": "link", "inter_node_link": "link",
    "ssd_link": "link", "disk_link": "link",
}  # fmt: skip


def study_schema(names: Names) -> Json:
    """The schema of a study; names: what there is of each of the values of SUGGESTED."""
    return _finished(StudySpec.model_json_schema(), "simserve study", names)


def paper_schema(names: Names) -> Json:
    """The schema of a paper study: a run has a study's sections in part."""
    paper, study = PaperSpec.model_json_schema(), StudySpec.model_json_schema()
    parts = {f"Part{name}": _in_part(found) for name, found in study["$defs"].items()}
    paper["$defs"] |= parts
    part = paper["$defs"]["PartSpec"]["properties"]
    for key, spec in (("workload", "WorkloadSpec"), ("deployment", "DeploymentSpec"), ("slo", "SloSpec")):
        part[key] = {"anyOf": [{"$ref": f"#/$defs/Part{spec}"}, {"type": "null"}]}
    return _finished(paper, "simserve paper study", names)


def schema_text(schema: Json) -> str:
    """As it is written to a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def comment_line(kind: str, study: Path) -> str:
    """The first line of the study file at `study`, by which editors find the schema that comes with simserve."""
    try:
        place = Path(os.path.relpath(PUBLISHED[kind], study.resolve().parent)).as_posix()
    except ValueError:  # on another drive
        place = PUBLISHED[kind].as_uri()
    return f"{COMMENT}{place}"


def _finished(schema: Json, title: str, names: Names) -> Json:
    """With suggestions and descriptions of keys; titles, which only repeat keys, left out."""
    schema["$defs"] |= {_known(kind): {"enum": list(listed)} for kind, listed in names.items()}
    usual = _notes(schema["$defs"].get("DeploymentSpec") or schema["$defs"]["PartDeploymentSpec"])
    for found in _schemas(schema):
        _tidy(found)
        notes = {**(usual if found.get("properties", {}).keys() & {"gpu", "replicas"} else {}), **_notes(found)}
        for key, value in found.get("properties", {}).items():
            if key in notes:
                value.setdefault("description", notes[key])
            if SUGGESTED.get(key) in names:
                _suggest(value, _known(SUGGESTED[key]))
    used = _used(schema)
    schema["$defs"] = {name: found for name, found in schema["$defs"].items() if name in used}
    return {"$schema": DRAFT, "title": title, **schema}


def _tidy(schema: Json) -> None:
    """Without what repeats the key or says nothing; pydantic gives lists behind a validator a length as of text."""
    schema.pop("title", None)
    if schema.get("default", 0) in (None, [], ""):
        schema.pop("default")
    if schema.get("type") == "array" and "minLength" in schema:
        schema["minItems"] = schema.pop("minLength")


def _known(kind: str) -> str:
    return f"Known_{kind}"


def _schemas(found: Any, *, named: bool = False) -> Iterator[Json]:
    """All schemas in one, itself included; named: `found` maps names to schemas."""
    if isinstance(found, list):
        for item in found:
            yield from _schemas(item)
    elif isinstance(found, dict):
        if not named:
            yield found
        for key, value in found.items():
            if key not in ("default", "enum", "const", "examples", "required") or named:
                yield from _schemas(value, named=key in ("properties", "$defs") and not named)


def _notes(schema: Json) -> dict[str, str]:
    """What a docstring says of each key: 'key, other: words; third: words.'"""
    keys = "|".join(sorted(map(re.escape, schema.get("properties", ())), key=len, reverse=True))
    text = " ".join(str(schema.get("description", "")).split())
    if not keys or not text:
        return {}
    found = list(re.finditer(rf"(?:^|(?<=[;.:] ))((?:{keys})(?:(?:, | and )(?:{keys}))*): ", text))
    notes: dict[str, str] = {}
    ends = [*(match.start() for match in found[1:]), len(text)]
    for match, after in zip(found, ends, strict=False):
        said = re.split(r"\.\s+(?=[A-Z])", text[match.end() : after], maxsplit=1)[0].strip(" ;.,")
        notes |= dict.fromkeys(re.split(r", | and ", match[1]), said)
    return notes


def _suggest(value: Json, known: str) -> None:
    """Offer the names of a definition wherever any text will do."""
    for part in (*value.get("anyOf", ()), *([value["items"]] if "items" in value else ())):
        _suggest(part, known)
    if value.get("type") == "string" and not {"enum", "pattern"} & value.keys():
        value.pop("type")
        value["anyOf"] = [{"$ref": f"#/$defs/{known}"}, {"type": "string"}]


def _in_part(schema: Json) -> Json:
    """The same where no key is needed and every key may be taken away with null."""
    copy: Json = _renamed(schema, lambda name: f"Part{name}")
    for found in _schemas(copy):
        found.pop("required", None)
        if "properties" in found:
            found["properties"] = {
                key: {"anyOf": [value, {"type": "null"}]} for key, value in found["properties"].items()
            }
    return copy


def _renamed(found: Any, rename: Callable[[str], str]) -> Any:
    """A copy with other names behind `$ref`."""
    if isinstance(found, list):
        return [_renamed(item, rename) for item in found]
    if not isinstance(found, dict):
        return found
    prefix = "#/$defs/"
    return {
        key: prefix + rename(value.removeprefix(prefix)) if key == "$ref" else _renamed(value, rename)
        for key, value in found.items()
    }


def _used(schema: Json) -> set[str]:
    """Names of the definitions that the schema leads to."""
    wanted, done = [{key: value for key, value in schema.items() if key != "$defs"}], set()
    while wanted:
        for found in _schemas(wanted.pop()):
            name = str(found.get("$ref", "")).rpartition("/")[2]
            if name and name not in done:
                done.add(name)
                wanted.append(schema["$defs"][name])
    return done
