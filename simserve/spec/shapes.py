"""How a study writes what is kept in another form, for its JSON Schema: markers at the end of `Annotated`."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler

Json = dict[str, Any]


class OneOrMore:
    """A list, or its only entry alone."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Json:
        listed = handler(core)
        return {"anyOf": [listed["items"], listed]}


class AsMapping:
    """A mapping, kept as pairs."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Json:
        pairs = handler(core)
        return {"type": "object", "additionalProperties": pairs["items"]["prefixItems"][1]}


class OrNull:
    """The same, or nothing after the colon."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Json:
        return {"anyOf": [handler(core), {"type": "null"}]}


class OrText:
    """The same, or text of this pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Json:
        return {"anyOf": [handler(core), {"type": "string", "pattern": self.pattern}]}


class OnlyText:
    """Text of this pattern alone."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Json:
        return {"type": "string", "pattern": self.pattern}
