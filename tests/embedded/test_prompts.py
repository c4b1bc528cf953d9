"""Rendering a conversation as the text that the model continues, with both kinds of templates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import EMBEDDING_MODEL, TEXT_MODEL, write_gguf

from namel3ss_ollama.embedded.prompts import capabilities, chat_prompt
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model
from namel3ss_ollama.embedded.weights import CATALOG

Make = Callable[..., Model]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model with these fields; `jinja` is the template in its weights."""

    def make(*, jinja: str = "", metadata: Any = None, **fields: Any) -> Model:
        header = {**(TEXT_MODEL if metadata is None else metadata), "tokenizer.chat_template": jinja}
        return Model("m", write_gguf(tmp_path / "m.gguf", header), "0" * 64, **fields)

    return make


def message(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


HELLO = [message("user", "Hi!")]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "properties": {"city": {"description": "Where.", "type": "string"}},
            "required": ["city"],
            "type": "object",
        },
    },
}
GO = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"
JINJA = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"  # noqa: E501 -- newlines would be part of it


# What a model can do


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({}, ["completion", "embedding"]),
        ({"template": GO}, ["completion", "embedding"]),
        ({"template": "{{ .Tools }}"}, ["completion", "embedding", "tools"]),
        ({"template": "{{ .Prompt }}{{ .Thinking }}"}, ["completion", "embedding", "thinking"]),
        ({"jinja": "{{ tools }}<think>"}, ["completion", "embedding", "tools", "thinking"]),
        ({"jinja": "{{ tools }}<think>", "template": GO}, ["completion", "embedding"]),
        ({"metadata": EMBEDDING_MODEL}, ["embedding"]),
    ],
)
def test_capabilities(make: Make, fields: dict[str, Any], can: list[str]) -> None:
    assert capabilities(make(**fields)) == can


# Ollama's templates


def test_consecutive_messages_of_one_role_are_merged(make: Make) -> None:
    history = [
        message("system", "A"),
        message("system", "B"),
        message("user", "C"),
        message("user", None),
        message("user", "D"),
        message("assistant", "E"),
        message("assistant", "F"),
        message("tool", "G"),
        message("tool", "H"),
    ]
    assert chat_prompt(make(template=GO), history) == (
        "<system>A\n\nB<user>C\n\n\n\nD<assistant>E<assistant>F<tool>G<tool>H"
    )


def test_the_models_own_system_prompt_and_messages_come_first(make: Make) -> None:
    model = make(template="[{{ .System }}]" + GO, system="Own.", messages=({"role": "user", "content": "Before."},))
    assert chat_prompt(model, [message("assistant", "Yes?")]) == ("[Own.]<system>Own.<user>Before.<assistant>Yes?")
    given = chat_prompt(model, [message("system", "Given."), *HELLO])
    assert given == "[Given.]<user>Before.<system>Given.<user>Hi!"


def test_another_template_than_the_models(make: Make) -> None:
    assert chat_prompt(make(template=GO), HELLO, template="{{ .Prompt }}!") == "Hi!!"
    assert chat_prompt(make(jinja=JINJA), HELLO, template="{{ .Prompt }}!") == "Hi!!"


def test_a_message_without_a_role_is_the_users(make: Make) -> None:
    assert chat_prompt(make(template=GO), [{"content": "Hi!"}]) == "<user>Hi!"
    assert chat_prompt(make(jinja=JINJA), [{"content": "Hi!"}]) == "<user>Hi!<assistant>"


def test_tools_have_gos_names_and_are_printed_like_in_the_api(make: Make) -> None:
    template = (
        "{{ .Tools }}|{{ range .Tools }}{{ .Function.Name }}: {{ .Function.Description }}"
        "{{ range $name, $p := .Function.Parameters.Properties }} {{ $name }} ({{ $p.Type }}, {{ $p.Description }})"
        "{{ end }}{{ end }}"
    )
    printed = (
        '[{"type":"function","function":{"name":"weather","description":"The weather.","parameters":{"type":"object",'
        '"required":["city"],"properties":{"city":{"description":"Where.","type":"string"}}}}}]'
    )
    prompt = chat_prompt(make(template=template + "{{ .Prompt }}"), HELLO, tools=[WEATHER])
    assert prompt == f"{printed}|weather: The weather. city (string, Where.)Hi!"


def test_a_tool_without_parameters(make: Make) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    assert chat_prompt(make(template="{{ json .Tools }}"), HELLO, tools=[tool]) == (
        '[{"type":"function","function":{"name":"now"}}]'
    )


def test_calls_and_their_results(make: Make) -> None:
    template = (
        "{{ range .Messages }}{{ .Thinking }}{{ range .ToolCalls }}{{ .ID }}={{ .Function.Name }}"
        "({{ json .Function.Arguments }}){{ end }}{{ with .ToolName }}{{ . }}: {{ end }}{{ .Content }};{{ end }}"
    )
    calls = [{"id": "1", **call("a", {"x": 1})}, call("b", '{"y": 2}'), call("c", "no JSON"), call("d", None)]
    history = [
        message("assistant", None, tool_calls=calls, thinking="Hm. "),
        message("tool", "3", tool_name="a"),
    ]
    assert chat_prompt(make(template=template), history) == ('Hm. 1=a({"x":1})=b({"y":2})=c("no JSON")=d({});a: 3;')


@pytest.mark.parametrize(
    ("think", "text"), [(None, "FalseFalse"), (True, "TrueTrue"), (False, "FalseTrue"), ("high", "TrueTruehigh")]
)
def test_whether_to_think(make: Make, think: Any, text: str) -> None:
    template = "{{ if .Think }}True{{ else }}False{{ end }}{{ if .IsThinkSet }}True{{ else }}False{{ end }}"
    assert chat_prompt(make(template=template + "{{ .ThinkLevel }}"), HELLO, think=think) == text


OLDER = "{{ if .System }}S:{{ .System }};{{ end }}{{ if .Prompt }}P:{{ .Prompt }};{{ end }}R:{{ .Response }};"


@pytest.mark.parametrize(
    ("history", "prompt"),
    [
        ([("user", "a")], "P:a;R:"),
        ([("system", "s"), ("user", "a")], "S:s;P:a;R:"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "P:a;R:b;P:c;R:"),
        ([("user", "a"), ("assistant", "b")], "P:a;R:b"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], "P:a;R:b;R:c"),
        ([("user", "a"), ("system", "s"), ("user", "c")], "P:a;R:;S:s;P:c;R:"),
        ([("user", "a"), ("tool", "t")], "P:a;R:;P:t;R:"),
        ([("user", "a"), ("assistant", "b"), ("tool", "t"), ("tool", "u")], "P:a;R:b;P:t;R:;P:u;R:"),
        ([("system", "s")], "S:s;R:"),
    ],
)
def test_the_older_kind_of_template_loses_no_message(make: Make, history: list[Any], prompt: str) -> None:
    assert chat_prompt(make(template=OLDER), [message(*one) for one in history]) == prompt


def test_an_older_template_without_a_place_for_the_response(make: Make) -> None:
    history = [message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "d")]
    assert chat_prompt(make(template="[{{ .Prompt }}]"), history) == "[a]b[c]d"


def test_a_template_that_is_malformed_or_fails(make: Make) -> None:
    for template in ("{{ if }}", "{{ .Messages | unknown }}"):
        with pytest.raises(Refused, match=r"^m: a prompt template ") as refused:
            chat_prompt(make(template=template), HELLO)
        assert refused.value.status == 400


def test_the_template_of_the_weights_that_can_be_fetched(make: Make) -> None:
    model = make(template=CATALOG["smollm2:135m"].template)
    assert chat_prompt(model, HELLO) == "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    history = [
        message("system", "Be brief."),
        *HELLO,
        message("assistant", "", tool_calls=[call("weather", {"city": "Rome"})]),
        message("tool", "Sunny.", tool_name="weather"),
        message("assistant", "It is"),
    ]
    prompt = chat_prompt(model, history, tools=[WEATHER])
    assert prompt.startswith("<|im_start|>system\nYou can call functions.")
    assert prompt.endswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
        '{"name": "weather", "arguments": {"city":"Rome"}}<|im_end|>\n'
        "<|im_start|>user\nweather returned: Sunny.<|im_end|>\n<|im_start|>assistant\nIt is"
    )


# Jinja templates


def test_a_conversation_in_jinja(make: Make) -> None:
    history = [message("system", "Be brief."), *HELLO]
    assert chat_prompt(make(jinja=JINJA), history) == "<system>Be brief.<user>Hi!<assistant>"
    assert chat_prompt(make(jinja=JINJA, system="Own."), HELLO) == "<system>Own.<user>Hi!<assistant>"


def test_the_beginning_of_an_answer_is_continued(make: Make) -> None:
    history = [*HELLO, message("assistant", "Hel")]
    assert chat_prompt(make(jinja=JINJA), history) == "<user>Hi!<assistant>Hel"


def test_an_answer_that_is_a_call_is_not_continued_but_kept(make: Make) -> None:
    jinja = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"  # noqa: E501
    calls = [call("a", {"x": 1}), call("b", '{"y": 2}')]
    history = [*HELLO, {"role": "assistant", "tool_calls": calls}]
    assert chat_prompt(make(jinja=jinja), history) == '{"x": 1}{"y": 2}'
    assert calls[1]["function"]["arguments"] == '{"y": 2}'  # the request is not modified


def test_special_tokens_and_the_one_that_the_tokenizer_adds(make: Make) -> None:
    jinja = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert chat_prompt(make(jinja=jinja), HELLO) == "<s>Hi!</s>"
    for extra in ({"tokenizer.ggml.add_bos_token": True}, {"tokenizer.ggml.model": "llama"}):
        assert chat_prompt(make(jinja=jinja, metadata={**TEXT_MODEL, **extra}), HELLO) == "Hi!</s>"
    does_not = {**TEXT_MODEL, "tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False}
    assert chat_prompt(make(jinja=jinja, metadata=does_not), HELLO) == "<s>Hi!</s>"
    assert chat_prompt(make(jinja="{{ bos_token }}", metadata={}), HELLO) == ""


@pytest.mark.parametrize(("think", "text"), [(None, "unset"), (True, "True"), (False, "False"), ("low", "True")])
def test_whether_to_think_in_jinja(make: Make, think: Any, text: str) -> None:
    jinja = "{{ enable_thinking if enable_thinking is defined else 'unset' }}"
    assert chat_prompt(make(jinja=jinja), HELLO, think=think) == text


@pytest.mark.parametrize(
    ("jinja", "text"),
    [
        ("{{ tools | tojson }}", '[{"a": "\u00e9<>"}]'),
        ("{{ tools | tojson(indent=2) }}", '[\n  {\n    "a": "\u00e9<>"\n  }\n]'),
        ("{{ tools | tojson(2) | length }}", "26"),
        ("{{ tools | tojson(ensure_ascii=True) }}", '[{"a": "\\u00e9<>"}]'),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("a\n  {% if true %}\nb\n  {% endif %}\n", "a\nb\n"),
    ],
)
def test_extensions_that_templates_use(make: Make, jinja: str, text: str) -> None:
    assert chat_prompt(make(jinja=jinja), HELLO, tools=[{"a": "\u00e9<>"}]) == text


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{% if %}", "its chat template cannot be parsed"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "its chat template cannot be parsed"),
        ("{{ raise_exception('Only roles that alternate!') }}", "Only roles that alternate!"),
        ("{{ messages[9].content }}", "cannot be rendered"),
        ("{{ 1 / 0 }}", "cannot be rendered"),
        ("{{ messages + 1 }}", "cannot be rendered"),
        ("{{ none.x.y }}", "cannot be rendered"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "cannot be rendered"),
        ("{{ '%d' % 'x' }}", "cannot be rendered"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot be rendered"),
    ],
)
def test_a_jinja_template_that_is_malformed_or_fails(make: Make, jinja: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        chat_prompt(make(jinja=jinja), HELLO)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ messages.__class__.__base__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ '' | attr('__class__') | attr('__mro__') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '{0.__class__.__mro__}'.format_map({'0': ''}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% set x = messages[0].clear() %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_a_hostile_template_reaches_nothing(make: Make, jinja: str) -> None:
    with contextlib.suppress(Refused):  # or it is undefined, which prints as nothing
        assert chat_prompt(make(jinja=jinja), HELLO) == ""


def test_a_model_without_a_template(make: Make) -> None:
    with pytest.raises(Refused, match="has no chat template: use generate with raw=true"):
        chat_prompt(make(), HELLO)
