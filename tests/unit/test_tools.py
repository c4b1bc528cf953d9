"""Tools from functions, models and schemas, and the schema that enforces a forced call."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from namel3ss_ollama.patterns import portable_pattern
from namel3ss_ollama.prompting import describe_tools
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.tools import choose, forced_format, names_of, tool_definition

Schema = dict[str, Any]
INTEGER = {"type": "integer"}


class Node(BaseModel):
    """A place in a tree."""

    name: str
    children: list[Node] = []


class Street(BaseModel):
    name: str


class Address(BaseModel):
    """Where somebody lives."""

    street: Street
    number: int = Field(ge=1, description="The house's number.")


class my_address(BaseModel):  # the underscore in the name is what is tested
    street: Street
    next: my_address | None = None


def references(node: Any, *, names: bool = False) -> list[str]:
    """Every `$ref` of a schema, but not what only looks like one: a property's name, a constant."""
    if isinstance(node, list):
        return [ref for item in node for ref in references(item)]
    if not isinstance(node, dict):
        return []
    found = [node["$ref"]] if not names and isinstance(node.get("$ref"), str) else []
    for key, value in node.items():
        if names or key not in ("const", "enum", "default", "examples"):
            found += references(value, names=not names and key in ("properties", "$defs", "definitions"))
    return found


def resolve(ref: str, root: Schema) -> Any:
    assert ref.startswith("#"), ref
    node: Any = root
    for part in filter(None, ref[1:].split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        node = node[int(name)] if isinstance(node, list) else node[name]
    return node


def check_references(schema: Schema) -> None:
    for ref in references(schema):
        resolve(ref, schema)


def unrolled(node: Any, root: Schema, depth: int = 6, *, names: bool = False) -> Any:
    """The schema with references replaced by what they refer to, to some depth: how a validator sees it."""
    if depth == 0:
        return "..."
    if isinstance(node, list):
        return [unrolled(item, root, depth) for item in node]
    if not isinstance(node, dict):
        return node
    if not names and isinstance(node.get("$ref"), str):
        rest = {k: v for k, v in node.items() if k != "$ref"}
        return [
            unrolled(rest, root, depth),
            unrolled(without_definitions(resolve(node["$ref"], root)), root, depth - 1),
        ]
    return {
        k: v if not names and k in ("const", "enum", "default", "examples")
        else unrolled(v, root, depth, names=not names and k == "properties")
        for k, v in node.items()
    }  # fmt: skip


def without_definitions(schema: Any) -> Any:
    return (
        {k: v for k, v in schema.items() if k not in ("$defs", "definitions")} if isinstance(schema, dict) else schema
    )


def bare(node: Any, *, names: bool = False) -> Any:
    """A schema without annotations."""
    if isinstance(node, list):
        return [bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        k: bare(v, names=not names and k in ("properties", "$defs"))
        for k, v in node.items()
        if names or k not in ("title", "description", "default")
    }


# Definitions


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {"function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
        {"name": "f", "description": "d", "parameters": {"type": "object"}},
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}},
    ],
    ids=["whole", "without type", "inner part", "inner part with type"],
)
def test_a_definition_in_each_of_its_forms(tool: Schema) -> None:
    before = copy.deepcopy(tool)
    assert tool_definition(tool) == {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
    }
    assert tool == before


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "f", "strict": True, "parameters": INTEGER}},
        {"type": "function", "name": "f", "strict": True, "parameters": INTEGER},
        {"name": "f", "inputSchema": INTEGER, "title": "F", "annotations": {"readOnlyHint": True}, "outputSchema": {}},
    ],
    ids=["OpenAI chat", "OpenAI responses", "MCP"],
)
def test_other_shapes_of_a_definition(tool: Schema) -> None:
    assert tool_definition(tool) == {"type": "function", "function": {"name": "f", "parameters": INTEGER}}


@pytest.mark.parametrize(
    ("tool", "error", "what"),
    [
        ({"name": "f", "parametres": {}}, TypeError, "'parametres'; did you mean 'parameters'"),
        ({"function": {"name": "f", "descripton": ""}}, TypeError, "'descripton'; did you mean 'description'"),
        ({"type": "function", "function": {"name": "f"}, "extra": 1}, TypeError, "'extra'; a tool has"),
        ({"name": "f", "parameters": {}, "inputSchema": {}}, TypeError, "both parameters and inputSchema"),
        ({"name": "f", "parameters": []}, TypeError, "parameters must be a JSON schema, not list"),
        ({"type": "custom", "name": "f"}, ValueError, "the type 'custom'"),
    ],
)
def test_an_invalid_definition_is_named(tool: Schema, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=f"^tools: f.*{what}"):
        tool_definition(tool)


@pytest.mark.parametrize(
    "tool",
    [{}, {"name": ""}, {"name": 5}, {"function": None}, {"function": {}}, {"function": {"name": ""}}, {"function": []}],
)
def test_a_definition_without_a_name_is_rejected(tool: Schema) -> None:
    with pytest.raises(ValueError, match=r'^tools: a schema needs {"name"'):
        tool_definition(tool)


@pytest.mark.parametrize("tool", ["f", 5, None, int, dict, [1]])
def test_what_is_not_a_tool_is_rejected(tool: Any) -> None:
    with pytest.raises(TypeError, match=r"^tools: expected a JSON schema of a function, a pydantic model class or a f"):
        tool_definition(tool)


def test_a_models_fields_are_the_parameters() -> None:
    definition = tool_definition(Address)
    function = definition["function"]
    assert (definition["type"], function["name"], function["description"]) == (
        "function",
        "Address",
        "Where somebody lives.",
    )
    parameters = function["parameters"]
    assert "title" not in parameters
    assert "description" not in parameters
    assert parameters["required"] == ["street", "number"]
    assert parameters["properties"]["number"]["description"] == "The house's number."
    check_references(parameters)


def test_a_model_without_a_docstring_has_no_description() -> None:
    assert "description" not in tool_definition(Street)["function"]


def google(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather.

    For some days ahead,
    not more than ten.

    Args:
        city: The city,
            in English.
        days: How many days.
        other: There is no such parameter.

    Returns:
        The weather.
    """
    return ""


def numpy(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather.

    For some days ahead,
    not more than ten.

    Parameters
    ----------
    city : str
        The city,
        in English.
    days : int
        How many days.

    Returns
    -------
    str
        The weather.
    """
    return ""


def sphinx(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather.

    For some days ahead,
    not more than ten.

    :param city: The city,
        in English.
    :param days: How many days.
    :returns: The weather.
    """
    return ""


async def asynchronous(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather.

    For some days ahead,
    not more than ten.

    Args:
        city: The city, in English.
        days: How many days.
    """
    return ""


@pytest.mark.parametrize("function", [google, numpy, sphinx, asynchronous])
def test_a_function_is_described_by_signature_and_docstring(function: Callable[..., Any]) -> None:
    assert tool_definition(function) == {
        "type": "function",
        "function": {
            "name": function.__name__,
            "description": "Tell the weather.\n\nFor some days ahead,\nnot more than ten.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city, in English."},
                    "days": {"type": "integer", "default": 3, "description": "How many days."},
                    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                },
                "required": ["city"],
            },
        },
    }


def test_functions_of_every_kind() -> None:
    def bare(a, b=1):
        return a

    def open_ended(a: int, **more: int) -> None: ...

    class Tools:
        def method(self, a: int) -> None:
            """Do it."""

        def __call__(self, a: int) -> None: ...

    function = tool_definition(bare)["function"]
    assert (function["name"], function["parameters"]["required"]) == ("bare", ["a"])
    assert "description" not in function
    assert tool_definition(open_ended)["function"]["parameters"]["required"] == ["a"]
    function = tool_definition(Tools().method)["function"]
    assert (function["name"], function["description"]) == ("method", "Do it.")
    assert set(function["parameters"]["properties"]) == {"a"}


def test_a_function_without_parameters() -> None:
    def now() -> str:
        """The time."""
        return ""

    assert tool_definition(now)["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_models_own_description_of_a_parameter_is_kept() -> None:
    def move(to: Address) -> None:
        """Move.

        Args:
            to: Where to.
        """

    parameters = tool_definition(move)["function"]["parameters"]
    assert parameters["properties"]["to"]["description"] == "Where to."
    check_references(parameters)


def only_positional(a: int, /) -> None: ...


def any_number(*a: int) -> None: ...


def unknown_type(a: Unknown) -> None: ...  # noqa: F821


def no_schema(a: Callable[[], None], b: object = object) -> None: ...


@pytest.mark.parametrize("function", [only_positional, any_number, unknown_type, no_schema])
def test_a_function_that_cannot_be_described_is_named(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"^tools: .*{function.__name__}\(\)"):
        tool_definition(function)


def test_a_partial_has_the_name_of_its_function() -> None:
    # Once wrong: a functools.partial has no __name__, so the tool is called "partial" (and two of them clash); and
    # annotations that are text are looked up in functools' module, so that this one has no schema at all
    function = tool_definition(functools.partial(google, days=1))["function"]
    assert function["name"] == "google"
    assert list(function["parameters"]["properties"]) == ["city", "unit"]
    assert function["parameters"]["required"] == ["city"]
    parameters = tool_definition(functools.partial(google, "Bonn"))["function"]["parameters"]
    assert list(parameters["properties"]) == ["days", "unit"]
    assert "required" not in parameters


# Choosing

TOOLS = [
    tool_definition({"name": name, "parameters": {"type": "object", "properties": {"a": INTEGER}}}) for name in "fgh"
]


@pytest.mark.parametrize(
    ("choice", "sent", "forced"),
    [
        (None, "fgh", ""),
        ("auto", "fgh", ""),
        ("none", "", ""),
        ("required", "fgh", "fgh"),
        ("g", "fgh", "g"),
    ],
)
def test_a_choice_determines_what_is_sent_and_what_is_forced(choice: str | None, sent: str, forced: str) -> None:
    found = choose(TOOLS, choice)
    assert tuple("".join(names_of(tools)) for tools in found) == (sent, forced)


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_tools_nothing_is_sent_or_forced(choice: str | None) -> None:
    assert choose([], choice) == ([], [])


@pytest.mark.parametrize("choice", ["required", "f"])
def test_a_forced_choice_needs_tools(choice: str) -> None:
    with pytest.raises(ValueError, match=f"^tool_choice: '{choice}' needs tools"):
        choose([], choice)


@pytest.mark.parametrize("name", ["f", "h"])
def test_a_choice_in_openais_form(name: str) -> None:
    sent, forced = choose(TOOLS, {"type": "function", "function": {"name": name}})
    assert (names_of(sent), names_of(forced)) == (["f", "g", "h"], [name])


@pytest.mark.parametrize(
    ("choice", "what"),
    [
        ({"type": "function"}, "expected"),
        ({"type": "tool", "function": {"name": "f"}}, "expected"),
        ({"type": "function", "function": {"name": "auto"}}, "there is no tool 'auto' .*f, g, h"),
    ],
)
def test_a_choice_in_an_unknown_form_is_rejected(choice: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"^tool_choice: {what}"):
        choose(TOOLS, choice)


@pytest.mark.parametrize("choice", ["x", "", "any"])
def test_an_error_about_an_unknown_choice_lists_the_tools(choice: Any) -> None:
    with pytest.raises(ValueError, match=r"^tool_choice: .* is neither .* nor a tool \(f, g, h\)"):
        choose(TOOLS, choice)


def test_two_tools_of_one_name_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"^tools: two tools are named 'g'"):
        names_of([*TOOLS, TOOLS[1]])
    assert names_of(TOOLS) == ["f", "g", "h"]


# The schema of a forced call


def arguments_of(schema: Schema) -> Schema:
    return schema["properties"]["arguments"]


def test_one_tool_is_its_call() -> None:
    assert forced_format(TOOLS[:1]) == {
        "type": "object",
        "properties": {"name": {"const": "f"}, "arguments": {"type": "object", "properties": {"a": INTEGER}}},
        "required": ["name", "arguments"],
    }


def test_several_tools_are_a_choice_of_calls() -> None:
    schema = forced_format(TOOLS)
    assert set(schema) == {"anyOf"}
    assert [call["properties"]["name"] for call in schema["anyOf"]] == [{"const": n} for n in "fgh"]
    assert schema["anyOf"][0] == forced_format(TOOLS[:1])


@pytest.mark.parametrize(
    "parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}, "additionalProperties": False}]
)
def test_a_tool_without_arguments_gets_an_empty_object(parameters: Schema | None) -> None:
    definition = {"type": "function", "function": {"name": "now", "parameters": parameters}}
    assert arguments_of(forced_format([definition])) == {"const": {}}
    del definition["function"]["parameters"]
    assert arguments_of(forced_format([definition])) == {"const": {}}


@pytest.mark.parametrize("key", ["anyOf", "allOf"])
def test_a_union_of_parameters_is_kept(key: str) -> None:
    parameters = {"type": "object", key: [{"properties": {"a": INTEGER}}]}
    whole = {"type": "object", "properties": {"a": INTEGER}}
    found = arguments_of(forced_format([tool_definition({"name": "f", "parameters": parameters})]))
    assert found == ({"anyOf": [whole]} if key == "anyOf" else whole)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "oneOf": [{"properties": {"a": INTEGER}, "required": ["a"]}]},
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 1},
        {"type": "object", "patternProperties": {"^x": INTEGER}, "minProperties": 1},
    ],
    ids=["oneOf", "additionalProperties", "patternProperties"],
)
def test_parameters_without_properties_of_their_own_are_parameters(parameters: Schema) -> None:
    # Once wrong: these three are taken for a tool without arguments, so that the forced call is always {}
    found = arguments_of(forced_format([tool_definition({"name": "f", "parameters": parameters})]))
    if "oneOf" in parameters:
        parameters = {"anyOf": [{"type": "object", **parameters["oneOf"][0]}]}
    if "patternProperties" in parameters:
        parameters = {**parameters, "additionalProperties": INTEGER}
    assert found == parameters


@pytest.mark.parametrize("model", [Address, Node, my_address])
def test_definitions_are_at_the_root_under_plain_names(model: type[BaseModel]) -> None:
    definition = tool_definition(model)
    before = copy.deepcopy(definition)
    schema = forced_format([definition])
    assert definition == before
    assert references(schema)
    check_references(schema)
    assert all(name.isalnum() for name in schema["$defs"])
    assert "$defs" not in arguments_of(schema)
    parameters = definition["function"]["parameters"]
    assert unrolled(arguments_of(schema), schema) == unrolled(without_definitions(bare(parameters)), bare(parameters))


def inner(kind: str) -> Schema:
    """Parameters whose only definition has the same name in all of these tools, but other content."""
    return {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/Item"}},
        "$defs": {"Item": {"type": kind}},
    }


def test_definitions_of_one_name_in_two_tools_do_not_clash() -> None:
    tools = [tool_definition({"name": kind, "parameters": inner(kind)}) for kind in ("string", "integer", "boolean")]
    schema = forced_format(tools)
    assert len(schema["$defs"]) == 3
    for call in schema["anyOf"]:
        kind = call["properties"]["name"]["const"]
        assert resolve(call["properties"]["arguments"]["properties"]["x"]["$ref"], schema) == {"type": kind}


def test_the_older_name_of_definitions_is_supported() -> None:
    parameters = {
        "properties": {"x": {"$ref": "#/definitions/a b"}, "y": {"$ref": "#/$defs/a"}},
        "definitions": {"a b": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
        "$defs": {"a": INTEGER},
    }
    schema = forced_format([tool_definition({"name": "f", "parameters": parameters})])
    check_references(schema)
    assert unrolled(arguments_of(schema), schema) == unrolled(without_definitions(parameters), parameters)


def test_a_reference_to_the_root_of_a_schema_still_works() -> None:
    parameters = {
        "type": "object",
        "properties": {"v": INTEGER, "next": {"$ref": "#"}, "all": {"type": "array", "items": {"$ref": "#"}}},
    }
    both = [tool_definition({"name": name, "parameters": parameters}) for name in "fg"]
    for tools in (both[:1], both):
        schema = forced_format(tools)
        check_references(schema)
        assert "#" not in references(schema)
        call = schema["anyOf"][1] if "anyOf" in schema else schema
        assert unrolled(arguments_of(call), schema) == unrolled(parameters, parameters)


def test_two_recursive_schemas_do_not_clash() -> None:
    tools = [
        tool_definition({"name": kind, "parameters": {"properties": {"v": {"type": kind}, "next": {"$ref": "#"}}}})
        for kind in ("string", "integer")
    ]
    schema = forced_format(tools)
    for call in schema["anyOf"]:
        following = resolve(arguments_of(call)["properties"]["next"]["$ref"], schema)
        assert following["properties"]["v"] == {"type": call["properties"]["name"]["const"]}
        assert following["properties"]["next"] == arguments_of(call)["properties"]["next"]


def test_what_only_looks_like_a_reference_is_unchanged() -> None:
    data = {"$ref": "#/$defs/Item"}
    parameters = {
        "properties": {
            "$ref": {"type": "string", "const": data},
            "properties": {"enum": [data]},
            "const": {"$ref": "#/$defs/Item"},
            "x": {"properties": {"enum": {"$ref": "#/$defs/Item"}}},
        },
        "patternProperties": {"$ref": {"$ref": "#/$defs/Item"}},
        "$defs": {"Item": INTEGER},
    }
    properties = arguments_of(schema := forced_format([tool_definition({"name": "f", "parameters": parameters})]))
    assert properties["properties"]["$ref"] == {"type": "string", "const": data}
    assert properties["properties"]["properties"] == {"enum": [data]}
    for node in (
        properties["properties"]["const"],
        properties["properties"]["x"]["properties"]["enum"],
        properties["patternProperties"]["$ref"],
    ):
        assert resolve(node["$ref"], schema) == INTEGER
        assert node["$ref"] != "#/$defs/Item"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"type": "object", "properties": {"b": INTEGER}}, "c": {"$ref": "#/properties/a"}}},
        {
            "properties": {"c": {"$ref": "#/$defs/Item/properties/b"}},
            "$defs": {"Item": {"type": "object", "properties": {"b": INTEGER}}},
        },
        {"properties": {"a": {"anyOf": [INTEGER, {"type": "string"}]}, "c": {"$ref": "#/properties/a/anyOf/1"}}},
        {"properties": {"c": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": INTEGER}},
        {
            "properties": {
                "a": {"$defs": {"Item": INTEGER}, "properties": {"b": {"$ref": "#/properties/a/$defs/Item"}}},
            }
        },
    ],
    ids=["to a property", "into a definition", "into a list", "an escaped name", "nested definitions"],
)
def test_a_reference_to_anywhere_else_resolves_too(parameters: Schema) -> None:
    # Once wrong: only "#", "#/$defs/<name>" and "#/definitions/<name>", unescaped, follow what moves; the others
    # are sent as they are and point to nothing (tools made by zod, as MCP servers send them, have the first kind)
    check_references(parameters)
    schema = forced_format([tool_definition({"name": "f", "parameters": parameters})])
    check_references(schema)


@pytest.mark.parametrize(
    "ref",
    [
        "#/$defs/nope",
        "#/properties/c/enum/7",
        "#/properties/c/enum/x",
        "#/type/x",
        "https://example.com/schema",
        "Item",
        "",
    ],
)
def test_an_unresolvable_reference_is_rejected_before_sending(ref: str) -> None:
    parameters = {"type": "object", "properties": {"c": {"enum": [1]}, "d": {"$ref": ref}}}
    with pytest.raises(ValueError, match="which is not in it"):
        forced_format([tool_definition({"name": "f", "parameters": parameters})])


# A model whose template does not support tools


@pytest.mark.parametrize(
    ("messages", "begins", "rest"),
    [
        ([{"role": "user", "content": "hi"}], "Answer with one call", [{"role": "user", "content": "hi"}]),
        (
            [{"role": "system", "content": "Be nice."}, {"role": "user", "content": "hi"}],
            "Be nice.\n\nAnswer with one call",
            [{"role": "user", "content": "hi"}],
        ),
        ([{"role": "system", "content": ""}], "Answer with one call", []),
    ],
)
def test_tools_can_be_described_in_the_system_message(messages: Any, begins: str, rest: Any) -> None:
    tools = [tool_definition({"name": name, "description": "Größe", "parameters": {}}) for name in "efg"]
    body = {"model": "m", "messages": messages, "tools": tools, "format": {"x": 1}}
    before = copy.deepcopy(body)
    described = describe_tools(body, {"f", "g"})
    assert body == before
    assert {k: v for k, v in described.items() if k != "messages"} == {"model": "m", "format": {"x": 1}}
    system, *others = described["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith(begins)
    assert [json.loads(line) for line in system["content"].splitlines() if line.startswith("{")] == [
        tool["function"]
        for tool in tools[1:]  # only those that may be called
    ]
    assert "Größe" in system["content"]
    assert others == rest


# portable_schema


ANYTHING = {"type": ["object", "array", "string", "number", "boolean", "null"]}
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize(
    ("schema", "portable"),
    [
        ({}, ANYTHING),
        ({"title": "A", "default": 1}, ANYTHING),
        ({"minLength": 3}, {**ANYTHING, "minLength": 3}),
        ({"format": "email"}, {**ANYTHING, "format": "email"}),
        ({"format": "date"}, {"format": "date"}),
        ({"properties": {"a": True, "b": False}}, {"properties": {"a": ANYTHING}}),
        ({"type": "array", "items": {}}, {"type": "array", "items": ANYTHING}),
        ({"type": "array", "items": False}, {"type": "array"}),
        ({"prefixItems": [INTEGER], "items": False}, {"prefixItems": [INTEGER]}),
        ({"type": "object", "additionalProperties": {"title": "x"}},
         {"type": "object", "additionalProperties": ANYTHING}),
        ({"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"type": "string", "pattern": "^[a-z]$"}, {"type": "string", "pattern": "^[a-z]$"}),
        ({"type": "string", "pattern": "[a-z]"}, {"type": "string"}),
        ({"type": "string", "not": {"const": "a"}, "x-y": 1, "$comment": "c"}, {"type": "string"}),
        ({"type": "integer", "maximum": 2**31, "minimum": -(2**31) + 1}, {"type": "integer", "minimum": -(2**31) + 1}),
        ({"allOf": [{"$ref": "#/$defs/E"}], "default": 1, "$defs": {"E": INTEGER}},
         {"$ref": "#/$defs/D0", "$defs": {"D0": INTEGER}}),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, {"type": "string", "minLength": 2}),
        ({"allOf": [NAMED, NAMED | {"required": []}]}, NAMED),
        ({"allOf": [{"minimum": 1, "maximum": 7}, {"minimum": 5, "maximum": 9}]},
         {**ANYTHING, "minimum": 5, "maximum": 7}),
        ({"allOf": [{"type": ["integer", "null"]}, {"type": ["string", "null"]}]}, {"type": ["null"]}),
        ({"allOf": [{"$ref": "#/$defs/E"}, {"minimum": 2}], "$defs": {"E": INTEGER}}, {**INTEGER, "minimum": 2}),
        ({"allOf": [{"$ref": "#"}, NAMED]}, NAMED),
        ({"type": "array", "minItems": 2}, {"type": "array", "minItems": 2, "items": ANYTHING}),
        ({"type": "array", "items": INTEGER, "uniqueItems": True}, {"type": "array", "items": INTEGER}),
        ({"type": "string", "minLength": 3000, "maxLength": 5000}, {"type": "string", "minLength": 2000}),
        ({"type": "string", "format": "uuid4"}, {"type": "string", "format": "uuid"}),
        ({"type": "string", "format": "binary"}, {"type": "string"}),
        ({"type": "string", "format": None}, {"type": "string"}),
        ({"patternProperties": {"^a": INTEGER, "^b": NAMED}},
         {"patternProperties": {"^a": INTEGER, "^b": NAMED}, "additionalProperties": {"anyOf": [INTEGER, NAMED]}}),
        ({"type": "object", "properties": {"": INTEGER}},
         {"$ref": "#/$defs/D0", "$defs": {"D0": {"type": "object", "properties": {"": INTEGER}}}}),
        ({"anyOf": [False]}, ANYTHING),
        ({**NAMED, "anyOf": [{"required": ["x"]}, {"properties": {"y": INTEGER}}]},
         {"anyOf": [{**NAMED, "required": ["name", "x"]},
                    {**NAMED, "properties": {"name": {"type": "string"}, "y": INTEGER}}]}),
        ({"anyOf": [INTEGER, {"type": "null"}], "title": "T"}, {"anyOf": [INTEGER, {"type": "null"}]}),
        ({"enum": [{"title": 1}], "const": {"default": 2}}, {"enum": [{"title": 1}], "const": {"default": 2}}),
        ({"properties": {"title": INTEGER, "default": INTEGER}},
         {"properties": {"title": INTEGER, "default": INTEGER}}),
    ],
)  # fmt: skip
def test_what_a_grammar_compiler_does_not_support_is_rewritten(schema: Schema, portable: Schema) -> None:
    before = copy.deepcopy(schema)
    assert portable_schema(schema) == portable
    assert schema == before


@pytest.mark.parametrize(
    ("pattern", "portable"),
    [
        (r"^\d{4}-\d{2}$", "^[0-9]{4}-[0-9]{2}$"),
        (r"^(?:a|b)+?$", "^(a|b)+$"),
        (r"^[\w.\-]+$", "^[A-Za-z0-9_.-]+$"),
        (r"^a\-b\/c\.$", r"^a-b/c\.$"),
        (r"^.$", r'^[^"\\\x7F\x00-\x1F]$'),
        (r"^[^,]$", r'^[^,"\\\x7F\x00-\x1F]$'),
        ("^$", "^$"),
        *((bad, None) for bad in ("a", "^a", "a$", r"^a\$", "^(?=a)$", "^(?P<x>a)$", "^a]$", "^a}$", "^[[:alpha:]]$",
                                  r"^\bx$", r"^\p{L}$", '^"$', r"^\\$", r"^\n$", "^$|^a$", "^(a$", "^a)$", "^*$",
                                  "^a{1,9999}$", "^a{x}$", "^[z-a]$", "^[]$", "^[\\^a]$", 5)),
    ],
)  # fmt: skip
def test_a_pattern_is_simplified_or_left_out(pattern: Any, portable: str | None) -> None:
    assert portable_pattern(pattern) == portable


@given(st.text(alphabet='^$ab0-9\\dws[](){}*+?|.,"', max_size=12))
def test_a_rewritten_pattern_accepts_no_more_than_the_pattern(text: str) -> None:
    portable = portable_pattern(f"^{text}$")
    if portable is None:
        return
    try:
        original = re.compile(f"(?:^{text}$)")
    except re.error:
        return
    for candidate in ("", "a", "b", "ab", "0", "a0b", " ", ".", "aaa", "^", "a|b", "[", "]", ",", "ds", '"', "\\"):
        if re.fullmatch(portable[1:-1], candidate):
            assert original.search(candidate)


def test_definitions_with_other_names_get_plain_ones() -> None:
    schema = my_address.model_json_schema()
    before = copy.deepcopy(schema)
    portable = portable_schema(schema)
    assert schema == before
    check_references(portable)
    assert all(name.isalnum() for name in portable["$defs"])
    assert "my_address" not in "".join(references(portable))
    schema = bare(schema)
    assert unrolled(without_definitions(portable), portable) == unrolled(without_definitions(schema), schema)


names = st.sampled_from(["A", "B2", "a_b", "a b", "Ä", "Foo[int]"])


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """Schemas whose every reference resolves, in both places for definitions, with any recursion."""
    definitions = {f"#/{section}/{name}" for section, name in draw(
        st.lists(st.tuples(st.sampled_from(["$defs", "definitions"]), names), max_size=4)
    )}  # fmt: skip
    targets = st.sampled_from(["#", *sorted(definitions)])
    data = st.just({"const": {"$ref": "#/$defs/nowhere"}})
    leaves = st.just({"type": "integer"}) | targets.map(lambda ref: {"$ref": ref}) | data
    nodes = st.recursive(
        leaves,
        lambda node: (
            st.dictionaries(st.sampled_from(["x", "$ref", "const", "properties"]), node, max_size=3).map(
                lambda properties: {"type": "object", "properties": properties}
            )
            | node.map(lambda items: {"type": "array", "items": items})
            | st.lists(node, min_size=1, max_size=2).map(lambda choices: {"anyOf": choices})
        ),
        max_leaves=5,
    )
    root: Schema = {"type": "object", "properties": {"p": draw(nodes), "q": draw(nodes)}}
    for ref in sorted(definitions):
        _, section, name = ref.split("/")
        root.setdefault(section, {})[name] = draw(nodes)
    return root


@pytest.mark.slow
@given(schemas())
def test_a_portable_schema_is_the_same_schema(schema: Schema) -> None:
    before = copy.deepcopy(schema)
    check_references(schema)
    portable = portable_schema(schema)
    assert schema == before
    check_references(portable)
    for section in ("$defs", "definitions"):
        assert all(name.isalnum() and name.isascii() for name in portable.get(section, {}))
    assert unrolled(without_definitions(portable), portable) == unrolled(without_definitions(schema), schema)


@pytest.mark.slow
@given(st.lists(schemas(), min_size=1, max_size=3))
def test_forced_calls_have_the_parameters_of_their_tools(parameters: list[Schema]) -> None:
    tools = [tool_definition({"name": f"t{n}", "parameters": each}) for n, each in enumerate(parameters)]
    schema = forced_format(tools)
    check_references(schema)
    calls = schema["anyOf"] if len(tools) > 1 else [schema]
    for call, each in zip(calls, parameters, strict=True):
        assert unrolled(arguments_of(call), schema) == unrolled(without_definitions(each), each)
