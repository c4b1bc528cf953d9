"""The part of a tool's definition that a server keeps, which is what the model's template sees.

A server decodes tools into Go structs (api/types.go: Tool, ToolFunction, ToolProperty) and drops everything else.
`items` and `$defs` are of any type, and are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import versions
from .values import as_list, as_object

__all__ = ["kept_tools"]


def kept_tools(tools: object, version: str) -> list[dict[str, object]]:
    """The tools of a request, as a server of this version keeps them.

    >>> address = {"type": "object", "properties": {"street": {"type": "string", "minLength": 1}}}
    >>> tool = {"function": {"name": "send", "parameters": {"type": "object", "properties": {"to": address}}}}
    >>> kept_tools([tool], "0.12")[0]["function"]["parameters"]["properties"]
    {'to': {'type': 'object'}}
    >>> kept_tools([tool], "0.40")[0]["function"]["parameters"]["properties"]
    {'to': {'type': 'object', 'properties': {'street': {'type': 'string'}}}}
    """
    kept: list[dict[str, object]] = []
    for tool in map(as_object, as_list(tools)):
        function = as_object(tool.get("function"))
        read = _picked(function, ("name", "description"))
        if "parameters" in function:
            read["parameters"] = _parameters(as_object(function["parameters"]), version)
        kept.append({**_picked(tool, ("type", "items")), "function": read})
    return kept


def _parameters(given: dict[str, object], version: str) -> dict[str, object]:
    kept = _picked(given, ("type", "$defs", "items", "required"))
    return {**kept, "properties": _properties(given.get("properties"), version)}


def _properties(given: object, version: str) -> dict[str, object]:
    return {name: _property(as_object(one), version) for name, one in as_object(given).items()}


def _property(given: dict[str, object], version: str) -> dict[str, object]:
    kept: dict[str, object] = {}
    if versions.TOOL_ANY_OF.on(version) and given.get("anyOf"):
        kept["anyOf"] = [_property(as_object(one), version) for one in as_list(given["anyOf"])]
    kept |= _picked(given, ("type", "items", "description", "enum"))
    if versions.TOOL_PROPERTIES.on(version) and "properties" in given:
        kept["properties"] = _properties(given["properties"], version)
    if versions.TOOL_REQUIRED.on(version):
        kept |= _picked(given, ("required",))
    return kept


def _picked(given: dict[str, object], names: Iterable[str]) -> dict[str, object]:
    return {name: given[name] for name in names if name in given}
