"""From a caller's arguments to the body of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from media_files import encoded, wav
from pydantic import BaseModel

from namel3ss_ollama.prepare import Defaults, chat_request, generate_request, request_body
from namel3ss_ollama.request import Request
from namel3ss_ollama.settings import StreamConfig

HI = [{"role": "user", "content": "hi"}]
HI_SENT = {"model": "m", "messages": HI}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CONFIG = StreamConfig()


def defaults(
    model: str = "m",
    config: StreamConfig = CONFIG,
    timeout: float | None = None,
    on_truncation: Any = "warn",
    **options: Any,
) -> Defaults:
    return Defaults(model, options, config, timeout, on_truncation)


def chat(given: Defaults | None = None, **call: Any) -> Request:
    return chat_request(given or defaults(), HI, call)


def generate(given: Defaults | None = None, prompt: str = "hi", **call: Any) -> Request:
    return generate_request(given or defaults(), prompt, call)


def test_unset_fields_are_not_sent() -> None:
    assert chat().body == HI_SENT
    assert generate().body == {"model": "m", "prompt": "hi"}


def test_none_means_unset() -> None:
    names = ["model", "tools", "tool_choice", "format", "think", "keep_alive", "options", "temperature", "stop",
             "timeout", "logprobs", "top_logprobs", "stream_config", "on_truncation", "shift", "truncate"]  # fmt: skip
    assert chat(**dict.fromkeys(names)) == chat()
    names = ["system", "suffix", "template", "raw", "context", "images", "seed"]
    assert generate(**dict.fromkeys(names)) == generate()


def test_attributes_of_a_request() -> None:
    request = chat()
    assert (request.kind, request.model, request.operation) == ("chat", "m", "chat")
    assert (request.config, request.timeout, request.forced, request.parse_as) == (CONFIG, None, frozenset(), None)
    assert request.on_truncation == "warn"
    assert (generate().kind, generate().operation) == ("generate", "text_completion")


FIELDS = [
    ("think", True, False),
    ("think", "high", "low"),
    ("keep_alive", "5m", 0),
    ("keep_alive", -1, 2.5),
    ("logprobs", True, False),
    ("shift", True, False),
    ("truncate", True, False),
]


@pytest.mark.parametrize(("name", "one", "other"), FIELDS)
def test_a_field_of_the_call_overrides_the_providers(name: str, one: Any, other: Any) -> None:
    for ask in (chat, generate):
        assert ask(**{name: one}).body[name] == one
        assert ask(defaults(**{name: one})).body[name] == one
        assert ask(defaults(**{name: one}), **{name: other}).body[name] == other
        assert name not in ask(defaults(**{name: one}), **{name: None}).body


@pytest.mark.parametrize("ask", [chat, generate])
def test_none_removes_a_default(ask: Callable[..., Request]) -> None:
    given = defaults(
        temperature=0.5, seed=1, max_tokens=5, format=Person, logprobs=True, top_logprobs=2, options={"a": 1, "b": 2}
    )
    request = ask(given, temperature=None, num_predict=None, format=None, logprobs=None, options={"a": None, "c": 3})
    assert request.body["options"] == {"seed": 1, "b": 2, "c": 3}
    assert not {"format", "logprobs", "top_logprobs"} & request.body.keys()
    assert request.parse_as is None
    assert ask(given, options=None).body["options"] == ask(given).body["options"]
    assert given.options["format"] is Person  # the defaults are unchanged


def test_none_as_timeout_is_no_limit() -> None:
    assert chat(defaults(timeout=5.0), timeout=None).timeout is None
    assert chat(defaults(timeout=5.0)).timeout == 5.0


def test_none_leaves_the_providers_model_and_limits() -> None:
    request = chat(defaults(on_truncation="error"), model=None, stream_config=None, on_truncation=None)
    assert (request.model, request.config, request.on_truncation) == ("m", CONFIG, "error")


def test_options_of_the_call_override_the_providers() -> None:
    given = defaults(temperature=0.5, max_tokens=10, options={"a": 1})
    assert chat(given).body["options"] == {"temperature": 0.5, "num_predict": 10, "a": 1}
    assert chat(given, temperature=0, num_predict=5, options={"a": 2}).body["options"] == {
        "temperature": 0,
        "num_predict": 5,
        "a": 2,
    }


def test_a_call_does_not_modify_the_defaults() -> None:
    given = defaults(temperature=0.5, options={"a": 1})
    chat(given, temperature=0, options={"b": 2}, model="other")
    assert chat(given).body == {**HI_SENT, "options": {"temperature": 0.5, "a": 1}}


def test_the_defaults_do_not_change_with_what_they_were_made_from() -> None:
    options = {"temperature": 0.5}
    given = Defaults("m", options, CONFIG, None, "warn")
    options["temperature"] = 1
    assert chat(given).body["options"] == {"temperature": 0.5}


@pytest.mark.parametrize("model", ["other", "hf.co/x/y:Q4_K_M", "größe"])
def test_a_call_may_name_another_model(model: str) -> None:
    assert chat(model=model).model == model
    assert generate(model=model).body["model"] == model


@pytest.mark.parametrize(
    ("model", "error"),
    [("", ValueError), ("a b", ValueError), ("a\n", ValueError), ("\x00", ValueError), (5, TypeError)],
)
def test_a_model_has_a_name(model: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^model: "):
        defaults(model)
    with pytest.raises(error, match=r"^model: "):
        chat(model=model)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("think", "", ValueError),
        ("keep_alive", True, TypeError),
        ("keep_alive", [5], TypeError),
        ("logprobs", 1, TypeError),
        ("shift", "yes", TypeError),
        ("truncate", 0, TypeError),
        ("top_logprobs", 21, ValueError),
        ("top_logprobs", -1, ValueError),
        ("top_logprobs", True, TypeError),
        ("top_logprobs", 1.0, TypeError),
        ("temperature", "hot", TypeError),
        ("temperature", -1, ValueError),
        ("max_tokens", 0, ValueError),
        ("options", 5, TypeError),
    ],
)
def test_an_invalid_value_is_named_at_once(name: str, value: Any, error: type[Exception]) -> None:
    for make in (defaults, chat, generate):
        with pytest.raises(error, match=f"^{name}: "):
            make(**{name: value})


@pytest.mark.parametrize("value", [5, "xml", "{}", ["json"]])
def test_an_invalid_format_is_named_at_once(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^format: expected 'json', a JSON schema or a type that pydantic knows"):
        chat(format=value)


def test_an_invalid_default_format_is_named_at_construction() -> None:
    # Once wrong: all defaults were validated except `format`, which failed in the first call
    with pytest.raises(TypeError, match=r"^format: "):
        defaults(format=5)


@pytest.mark.parametrize(("top", "sent"), [(0, None), (1, True), (20, True)])
def test_top_logprobs_implies_logprobs(top: int, sent: bool | None) -> None:
    body = chat(top_logprobs=top).body
    assert (body["top_logprobs"], body.get("logprobs")) == (top, sent)
    assert chat(defaults(top_logprobs=2)).body["logprobs"] is True


@pytest.mark.parametrize(
    ("on_truncation", "call", "truncate"),
    [
        ("warn", {}, None),
        ("ignore", {}, None),
        ("error", {}, False),
        ("error", {"on_truncation": "warn"}, None),
        ("warn", {"on_truncation": "error"}, False),
        ("error", {"truncate": True}, True),
        ("warn", {"truncate": False}, False),
    ],
)
def test_newer_servers_refuse_a_cut_that_is_an_error(on_truncation: str, call: Any, truncate: Any) -> None:
    for ask in (chat, generate):
        request = ask(defaults(on_truncation=on_truncation), **call)
        assert request.body.get("truncate") is truncate
        assert request.on_truncation == call.get("on_truncation", on_truncation)
        assert request.refusable is (request.on_truncation != "ignore" and "truncate" not in call)


@pytest.mark.parametrize("value", ["raise", "", 5, True])
def test_an_unknown_on_truncation_is_rejected(value: Any) -> None:
    for make in (defaults, chat):
        with pytest.raises(ValueError, match=r"^on_truncation: .* is not one of warn, error, ignore"):
            make(on_truncation=value)


def test_deadlines_of_the_call_override() -> None:
    config = StreamConfig(chunk_timeout=1)
    given = defaults(timeout=5)
    assert (chat(given).timeout, chat(given).config) == (5, CONFIG)
    request = chat(given, timeout=7, stream_config=config)
    assert (request.timeout, request.config) == (7, config)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), ("5", TypeError), (float("nan"), ValueError)]
)
def test_a_timeout_is_above_zero(value: Any, error: type[Exception]) -> None:
    for make in (defaults, chat, generate):
        with pytest.raises(error, match=r"^timeout: "):
            make(timeout=value)


def test_a_stream_config_is_one() -> None:
    with pytest.raises(TypeError, match=r"^stream_config: expected a StreamConfig, not dict"):
        chat(stream_config={"chunk_timeout": 1})


@pytest.mark.parametrize(("stream", "sent"), [(False, False), (True, None), (None, None)])
def test_streaming_is_the_servers_default(stream: Any, sent: Any) -> None:
    assert chat(stream_internally=stream).body.get("stream") is sent


# /api/generate


def test_all_fields_of_a_generation() -> None:
    request = generate(system="s", suffix="x", template="t", raw=True, context=(1, 2), images=[b"picture"])
    assert request.body == {
        "model": "m", "prompt": "hi", "system": "s", "suffix": "x", "template": "t", "raw": True, "context": [1, 2],
        "images": ["cGljdHVyZQ=="],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("system", 5), ("suffix", b"x"), ("template", ["t"]), ("raw", "yes"), ("raw", 1)]
)
def test_a_part_of_a_generation_has_its_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected (str|bool), not "):
        generate(**{name: value})


@pytest.mark.parametrize("prompt", [None, 5, HI, b"hi"])
def test_a_prompt_is_text(prompt: Any) -> None:
    with pytest.raises(TypeError, match=r"^prompt: expected text, .*use achat"):
        generate(prompt=prompt)


def test_an_empty_prompt_only_loads_a_model() -> None:
    with pytest.raises(ValueError, match=r"^prompt: is empty .*preload\(\)"):
        generate(prompt="", system="s")


@pytest.mark.parametrize("more", [{"suffix": "x"}, {"images": [b"x"]}, {"audio": [wav(0.1)]}])
def test_nothing_beside_an_empty_prompt_is_silently_dropped(more: dict[str, Any]) -> None:
    # Once wrong: a server answers an image without a prompt as a request to load its model, with nothing in it
    with pytest.raises(ValueError, match=r"^prompt: is empty"):
        generate(prompt="", **more)


def test_audio_of_a_generation() -> None:
    assert generate(images=[b"picture"], audio=[wav(0.1)]).body["images"] == ["cGljdHVyZQ==", encoded(wav(0.1))]
    with pytest.raises(ValueError, match=r"^audio: the recording is neither WAV nor MP3"):
        generate(audio=[b"picture"])
    with pytest.raises(TypeError, match=r"^audio: expected a list"):
        generate(audio=wav(0.1))
    with pytest.raises(TypeError, match="audio"):
        chat(audio=[wav(0.1)])


@pytest.mark.parametrize("name", ["tools", "tool_choice"])
def test_tools_need_a_conversation(name: str) -> None:
    with pytest.raises(TypeError, match="tools and tool_choice need a conversation"):
        generate(**{name: None})


@pytest.mark.parametrize(
    ("ask", "wrong", "hint"),
    [
        (chat, "temprature", "a chat got .*'temprature'; did you mean 'temperature'"),
        (generate, "max_token", "a generation got .*'max_token'; did you mean 'max_tokens'"),
        (chat, "system", "a chat got .*'system'"),
        (chat, "suffix", "a chat got .*'suffix'"),
        (generate, "messages", "a generation got .*'messages'"),
    ],
)
def test_an_unknown_keyword_is_rejected(ask: Callable[..., Request], wrong: str, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        ask(**{wrong: None})


# format


class Person(BaseModel):
    name: str


class my_person(BaseModel):  # the underscore in the name is what is tested
    name: str
    parent: my_person | None = None


@dataclass
class Point:
    x: int


@pytest.mark.parametrize("value", ["json", {"type": "object"}])
def test_a_format_is_sent_unchanged(value: Any) -> None:
    for request in (chat(format=value), generate(format=value), chat(defaults(format=value))):
        assert request.body["format"] == value
        assert request.parse_as is None


def test_an_empty_format_is_none() -> None:
    assert "format" not in chat(format="").body
    assert "format" not in chat(defaults(format="json"), format="").body


def test_a_format_of_the_call_overrides() -> None:
    request = chat(defaults(format=Person), format="json")
    assert (request.body["format"], request.parse_as) == ("json", None)


@pytest.mark.parametrize("cls", [Person, Point, int])
def test_a_class_is_sent_as_its_schema_and_validates_the_answer(cls: type) -> None:
    request = generate(format=cls)
    assert request.parse_as is not None
    assert request.parse_as.type is cls
    assert request.body["format"]["type"] == ("integer" if cls is int else "object")


def test_a_classes_definitions_get_plain_names() -> None:
    assert "my_person" not in str(chat(format=my_person).body["format"]["$defs"].keys())


class Odd:
    pass


def test_a_class_without_a_schema_is_named() -> None:
    with pytest.raises(TypeError, match=r"^format: Odd has no JSON schema"):
        chat(format=Odd)


class Calls(BaseModel):
    back: Callable[[], None]


def test_a_model_without_a_json_schema_is_named() -> None:
    # Once wrong: pydantic has another error for this (PydanticInvalidForJsonSchema), which was raised unchanged
    with pytest.raises(TypeError, match=r"^format: Calls has no JSON schema"):
        chat(format=Calls)


@pytest.mark.parametrize("value", [5.0, object(), Person(name="x"), lambda: None, "list[int]"])
def test_a_value_that_is_not_a_type_is_rejected(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^format: "):
        chat(format=value)


def test_a_format_with_an_unresolvable_reference() -> None:
    with pytest.raises(ValueError, match=r"^format: a JSON schema refers to '#/x'"):
        chat(format={"$ref": "#/x"})


# think under a grammar


@pytest.mark.parametrize("where", ["call", "defaults"])
@pytest.mark.parametrize("think", [True, "high", "xhigh"])
def test_a_forced_call_leaves_no_room_for_thinking(where: str, think: Any) -> None:
    given, call = (defaults(), {"think": think}) if where == "call" else (defaults(think=think), {})
    assert chat(given, tools=[TOOL], tool_choice="required", **call).body["think"] is False
    assert chat(given, tools=[TOOL], tool_choice="auto", **call).body["think"] == think


def test_think_is_not_sent_if_it_was_not_set() -> None:
    assert "think" not in chat(tools=[TOOL], tool_choice="f").body


def test_a_format_goes_together_with_thinking() -> None:
    request = chat(format=Person, think=True)
    assert request.body["think"] is True
    assert request.parse_as is not None
    assert request.parse_as.thinking


# tools


def test_tools_are_sent_as_definitions() -> None:
    request = chat(tools=[TOOL, Person])
    assert [tool["function"]["name"] for tool in request.body["tools"]] == ["f", "Person"]
    assert request.forced == frozenset()
    assert "format" not in request.body
    assert "tools" not in chat(tools=[]).body


def test_no_tools_are_sent_if_none_may_be_called() -> None:
    assert chat(tools=[TOOL], tool_choice="none").body == HI_SENT


@pytest.mark.parametrize(("choice", "forced"), [("required", {"f", "Person"}), ("f", {"f"}), ("Person", {"Person"})])
def test_a_forced_call_is_a_format(choice: str, forced: set[str]) -> None:
    request = chat(tools=[TOOL, Person], tool_choice=choice)
    assert request.forced == forced
    assert len(request.body["tools"]) == 2
    assert request.body["format"]["anyOf" if len(forced) == 2 else "properties"]
    assert request.parse_as is None


def test_a_forced_call_and_a_format_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"^format: cannot be combined with a tool_choice"):
        chat(tools=[TOOL], tool_choice="f", format="json")
    assert chat(tools=[TOOL], tool_choice="auto", format="json").body["format"] == "json"


def test_a_forced_call_overrides_the_providers_format() -> None:
    request = chat(defaults(format=Person), tools=[TOOL], tool_choice="f")
    assert request.body["format"]["properties"]["name"] == {"const": "f"}
    assert request.parse_as is None


def test_two_tools_of_one_name_are_rejected() -> None:
    with pytest.raises(ValueError, match="two tools are named 'f'"):
        chat(tools=[TOOL, TOOL])


def test_what_is_first_in_a_body_is_not_overwritten() -> None:
    body = request_body(defaults(seed=1), {"temperature": 0}, {"messages": [], "x": 1})
    assert body == {"model": "m", "messages": [], "x": 1, "options": {"seed": 1, "temperature": 0}}


def test_the_repr_of_a_request_has_no_prompt() -> None:
    # Once wrong: Request had the default repr of a dataclass, which shows the body
    assert "secret" not in repr(generate(prompt="secret"))
