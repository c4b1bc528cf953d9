"""Go templates: each construct separately, then complete templates in the styles of Ollama's models."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from namel3ss_ollama.embedded.gotemplate import GoTemplate, TemplateError

VALUES: dict[str, Any] = {
    "Text": "some text",
    "Empty": "",
    "Yes": True,
    "No": False,
    "Two": 2,
    "Nothing": None,
    "List": ["a", "b", "c"],
    "NoList": [],
    "Map": {"b": 1, "a": {"Deep": "down"}},
}


def rendered(source: str, **values: Any) -> str:
    return GoTemplate(source).render({**VALUES, **values})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # values
        ("", ""),
        ("only } text { here", "only } text { here"),
        ("{{ .Text }}", "some text"),
        ("{{.Text}}", "some text"),
        ("{{ $.Text }}", "some text"),
        ("{{ .Map.a.Deep }}", "down"),
        ("{{ .Map }}", '{"b":1,"a":{"Deep":"down"}}'),
        ("{{ .Map.none.deeper }}|{{ .Nothing }}|{{ .Text.none }}", "||"),
        ("{{ .List }}", '["a","b","c"]'),
        ("{{ .Yes }} {{ .Two }} {{ 2.5 }} {{ -3 }} {{ true }} {{ nil }}", "true 2 2.5 -3 true "),
        ('{{ "a\\n\\"b\\"\\u00e9" }}', 'a\n"b"\u00e9'),
        ("{{ `a\\n\"` }}", 'a\\n"'),
        ('{{ "}}" }}{{ `{{` }}', "}}{{"),
        # white space
        ("a {{- .Two -}} b", "a2b"),
        ("a \n\t{{- .Two }} b", "a2 b"),
        ("a {{ .Two -}} \n\n b", "a 2b"),
        ("a {{-\n.Two\n-}} b", "a2b"),
        ("a {{ -3 }} b {{- -3 -}} c", "a -3 b-3c"),
        ("a {{- /* nothing {{ .X \" */ -}} b", "ab"),
        ("a {{/* end */}} b", "a  b"),
        ("a {{ }} b", "a  b"),
        # conditions
        ("{{ if .Yes }}1{{ end }}{{ if .No }}2{{ end }}", "1"),
        ("{{ if .Empty }}1{{ else }}2{{ end }}", "2"),
        ("{{ if .NoList }}1{{ else if .Nothing }}2{{ else if .Text }}3{{ else }}4{{ end }}", "3"),
        ("{{ if .No }}1{{ else if .No }}2{{ else }}3{{ end }}!", "3!"),
        ("{{ if .No }}1{{ else with .Text }}{{ . }}{{ end }}", "some text"),
        ("{{if(eq .Two 2)}}1{{end}}", "1"),
        ("{{ if\n.Yes\n}}1{{\nend\n}}", "1"),
        ("{{ if $x := .Two }}{{ $x }}{{ end }}", "2"),
        ("{{ if $x := .No }}1{{ else }}{{ $x }}{{ end }}", "false"),
        # with
        ("{{ with .Map.a }}{{ .Deep }}{{ $.Two }}{{ end }}", "down2"),
        ("{{ with .Nothing }}1{{ else }}{{ .Text }}{{ end }}", "some text"),
        ("{{ with .No }}1{{ else with .Text }}{{ . }}{{ else }}2{{ end }}", "some text"),
        ("{{ with $x := .Text }}{{ $x }}{{ . }}{{ end }}", "some textsome text"),
        # loops
        ("{{ range .List }}{{ . }},{{ end }}", "a,b,c,"),
        ("{{ range $x := .List }}{{ $x }}{{ . }},{{ end }}", "aa,bb,cc,"),
        ("{{ range $i, $x := .List }}{{ $i }}{{ $x }},{{ end }}", "0a,1b,2c,"),
        ("{{ range $i, $_ := .List }}{{ $i }}{{ end }}", "012"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ json $v }};{{ end }}", 'a={"Deep":"down"};b=1;'),
        ("{{ range .Two }}{{ . }}{{ end }}", "01"),
        ("{{ range .NoList }}1{{ else }}{{ .Two }}{{ end }}", "2"),
        ("{{ range .Nothing }}1{{ else }}none{{ end }}", "none"),
        ('{{ range .List }}{{ if eq . "b" }}{{ continue }}{{ end }}{{ . }}{{ end }}', "ac"),
        ('{{ range .List }}{{ if eq . "b" }}{{ break }}{{ end }}{{ . }}{{ end }}!', "a!"),
        ("{{ range .List }}{{ range $.List }}{{ break }}{{ end }}{{ . }}{{ end }}", "abc"),
        # variables
        ("{{ $x := 1 }}{{ $x }}", "1"),
        ("{{ $x := 1 }}{{ if .Yes }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if .Yes }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := .Map }}{{ $x.a.Deep }}", "down"),
        ("{{ $last := \"\" }}{{ range .List }}{{ $last = . }}{{ end }}{{ $last }}", "c"),
        # functions
        ("{{ eq .Two 2 }}{{ eq .Two 1 2 }}{{ eq .Text 2 }}{{ ne .Two 2 }}", "truetruefalsefalse"),
        ("{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1 2 }}{{ ge 2 2 }}", "truetruefalsetrue"),
        ("{{ and .Yes .Two }}|{{ and .No .Text }}|{{ or .Empty .Text }}|{{ or .No .Empty }}", "2|false|some text|"),
        ("{{ not .Yes }}{{ not .Empty }}", "falsetrue"),
        ("{{ and .No (lt .Text 1) }}{{ or .Yes (lt .Text 1) }}", "falsetrue"),  # the rest is not evaluated
        ("{{ len .List }}{{ len .Nothing }}{{ len .Text }}", "309"),
        ("{{ index .List 1 }}{{ index .Map \"b\" }}", "b1"),
        ("{{ index .Map \"a\" \"Deep\" }}", "down"),
        ("{{ slice .List 1 }}{{ slice .Text 0 4 }}{{ slice .List }}", '["b","c"]some["a","b","c"]'),
        ("{{ json .Map.a }}{{ json .Text }}", '{"Deep":"down"}"some text"'),
        ('{{ print "a" 1 }}{{ println "a" "b" }}', "a1a b\n"),
        ('{{ printf "%s-%v-%d-%q-%%" .Text .Two 3 "x" }}', 'some text-2-3-"x"-%'),
        ('{{ printf "%+v%#v" .Two 3 }}', "23"),
        # pipelines and parentheses
        ("{{ .Text | json }}", '"some text"'),
        ("{{ .List | len | eq 3 }}", "true"),
        ("{{ .Yes | and .Two }}{{ .Text | or .No }}", "truesome text"),
        ("{{ (.Text) }}{{ ((len .List)) }}", "some text3"),
        ("{{ eq (len (slice .List 2)) 1 }}", "true"),
        ("{{ if and (or .No .Yes) (not (eq .Two 3)) }}1{{ end }}", "1"),
        ("{{ (index .Map \"a\").Deep }}", "down"),
        ("{{ eq (index .Map \"a\").Deep \"down\" }}", "true"),
        ("{{ (.Map).a.Deep }}", "down"),
    ],
)  # fmt: skip
def test_each_construct(source: str, text: str) -> None:
    assert rendered(source) == text


def test_dates() -> None:
    day = datetime.date.fromisoformat(rendered("{{ currentDate }}"))
    assert day - datetime.date.fromisoformat(rendered("{{ yesterdayDate }}")) == datetime.timedelta(1)
    assert rendered('{{ printf "%s" currentDate }}') == rendered("{{ currentDate | print }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ if .Yes }}",
        "{{ if .Yes }}{{ else }}",
        "{{ range .List }}{{ if . }}{{ end }}",
        "{{ end }}",
        "{{ else }}",
        "{{ if }}{{ end }}",
        "{{ if .Yes }}{{ else foo }}{{ end }}",
        "{{ if .Yes }}{{ else range .List }}{{ end }}",
        "{{ if .Yes }}{{ else }}{{ else }}{{ end }}",
        "{{ break }}",
        "{{ if .Yes }}{{ continue }}{{ end }}",
        "{{ range .List }}{{ else }}{{ break }}{{ end }}",
        '{{ define "x" }}{{ end }}',
        '{{ template "x" . }}',
        '{{ block "x" . }}{{ end }}',
        "{{ .Text",
        "text {{",
        '{{ "unfinished }}',
        "{{ (len .List }}",
        "{{ len .List) }}",
        "{{ () }}",
        "{{ (.Yes |) }}",
        "{{ .Text | }}",
        "{{ | json }}",
        "{{ .Text ! }}",
        "{{ .Text , .Two }}",
        "{{ $x := }}",
        "{{ x := 1 }}",
        "{{ .x := 1 }}",
        "{{ $x, $y := .Map }}",
        "{{ $x.y := 1 }}",
        "{{ range $a, $b, $c := .List }}{{ end }}",
        "{{ range $a $b := .List }}{{ end }}",
        "{{ if $x = .Yes }}{{ end }}",
        '{{ "\\x41" }}',
        '{{ "\\ud800" }}',
        "{{ if .Yes }}" * 5000,
    ],
)
def test_a_malformed_template_is_an_error_at_once(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^a prompt template "):
        GoTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ unknown .Text }}",
        "{{ .Text .Two }}",
        "{{ .Two | .Text }}",
        "{{ 1 2 }}",
        "{{ $x }}",
        "{{ $x = 1 }}",
        "{{ if .Yes }}{{ $x := 1 }}{{ end }}{{ $x }}",
        "{{ eq foo 1 }}",
        "{{ lt .Text 1 }}",
        "{{ len .Two }}",
        "{{ index .List 9 }}",
        '{{ index .Map "none" }}',
        "{{ slice .Two 1 }}",
        "{{ slice .List 4 }}",
        "{{ slice .List 2 1 }}",
        "{{ slice .List 0 1 2 }}",
        "{{ not }}",
        "{{ range .Text }}{{ end }}",
        "{{ range .Yes }}{{ end }}",
        '{{ printf "%s" }}',
        '{{ printf "%s" 1 2 }}',
        '{{ printf "%z" 1 }}',
        '{{ currentDate "2006" }}',
        "{{ " + "(" * 3000 + ".Two" + ")" * 3000 + " }}",
    ],
)
def test_what_cannot_be_rendered_is_an_error(source: str) -> None:
    template = GoTemplate(source)
    with pytest.raises(TemplateError, match=r"^a prompt template "):
        template.render(VALUES)


def test_a_loop_over_a_number_needs_no_memory() -> None:
    assert rendered("{{ range 100000000000 }}{{ break }}{{ end }}!") == "!"


def test_mentioned_fields() -> None:
    template = GoTemplate("{{ if .Tools }}{{ $.Messages }}{{ (.A).Deep }}{{ end }} and in .Text {{/* .Comment */}}")
    assert [name for name in ("Tools", "Messages", "Deep", "Text", "Comment") if template.mentions(name)] == [
        "Tools",
        "Messages",
        "Deep",
    ]


@settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(st.lists(st.sampled_from(
    ["{{", "}}", "{{- ", " -}}", "if ", "else ", "end", "range ", "with ", ".List ", "$x ", ":= ", "= ", "(", ")", "|",
     '"', "`", "json ", "eq ", "printf ", '"%s" ', "2 ", ", ", "text", "\n", "/*", "*/", "break"]
), max_size=16).map("".join))  # fmt: skip
def test_any_template_renders_or_is_a_template_error(source: str) -> None:
    try:
        assert isinstance(rendered(source), str)
    except TemplateError:
        pass


# Complete templates, in the common styles

USER, SYSTEM = {"Role": "user", "Content": "Hi!"}, {"Role": "system", "Content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"Function": {"Name": name, "Arguments": arguments}}


HEADERS = """\
<|head|>system<|body|>

Today is known.
{{ if .System }}{{ .System }}
{{- end }}
{{- if .Tools }}Answer a tool's call with its result.
{{- end }}<|eot|>
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|head|>user<|body|>
{{- if and $.Tools $last }}

These functions are there:
{{ range $.Tools }}
{{- . }}
{{ end }}
{{ .Content }}<|eot|>
{{- else }}

{{ .Content }}<|eot|>
{{- end }}{{ if $last }}<|head|>assistant<|body|>

{{ end }}
{{- else if eq .Role "assistant" }}<|head|>assistant<|body|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot|>{{ end }}
{{- else if eq .Role "tool" }}<|head|>ipython<|body|>

{{ .Content }}<|eot|>{{ if $last }}<|head|>assistant<|body|>

{{ end }}
{{- end }}
{{- end }}"""


def test_headers_and_ends_of_turns() -> None:
    template = GoTemplate(HEADERS)
    messages = [
        USER,
        {"Role": "assistant", "Content": "", "ToolCalls": [call("now", {"zone": "UTC"})]},
        {"Role": "tool", "Content": "12:00"},
    ]
    assert template.render({"System": "Be brief.", "Messages": messages, "Tools": [TOOL]}) == (
        "<|head|>system<|body|>\n\nToday is known.\nBe brief.Answer a tool's call with its result.<|eot|>"
        "<|head|>user<|body|>\n\nHi!<|eot|>"
        '<|head|>assistant<|body|>\n\n{"name": "now", "parameters": {"zone":"UTC"}}<|eot|>'
        "<|head|>ipython<|body|>\n\n12:00<|eot|><|head|>assistant<|body|>\n\n"
    )
    assert template.render({"Messages": [USER], "Tools": [TOOL]}) == (
        "<|head|>system<|body|>\n\nToday is known.\nAnswer a tool's call with its result.<|eot|>"
        "<|head|>user<|body|>\n\nThese functions are there:\n"
        '{"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}}\n'
        "\nHi!<|eot|><|head|>assistant<|body|>\n\n"
    )


THINKING = """\
{{- $lastUser := -1 }}
{{- range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $lastUser = $i }}{{ end }}{{ end }}
{{- if or .System .Tools }}<|turn|>system
{{ if .System }}{{ .System }}{{ end }}
{{- if .Tools }}

<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
{{- end }}<|end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|turn|>user
{{ .Content }}
{{- if and $.IsThinkSet (eq $i $lastUser) }}
{{- if $.Think -}}
{{- " "}}/think
{{- else -}}
{{- " "}}/no_think
{{- end -}}
{{- end }}<|end|>
{{ else if eq .Role "assistant" }}<|turn|>assistant
{{ if (and $.IsThinkSet (and .Thinking (or $last (gt $i $lastUser)))) -}}
<think>{{ .Thinking }}</think>
{{ end -}}
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|end|>
{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") $last }}<|turn|>assistant
{{ if and $.IsThinkSet (not $.Think) -}}
<think>

</think>

{{ end -}}
{{ end }}
{{- end }}"""


@pytest.mark.parametrize(
    ("think", "marks", "opening"),
    [
        ({}, "", ""),
        ({"IsThinkSet": True, "Think": True}, " /think", ""),
        ({"IsThinkSet": True, "Think": False}, " /no_think", "<think>\n\n</think>\n\n"),
    ],
)
def test_thinking_on_and_off(think: dict[str, bool], marks: str, opening: str) -> None:
    answer = {"Role": "assistant", "Content": "Hello.", "Thinking": "A greeting."}
    values = {"System": "Be brief.", "Messages": [USER, answer, USER], **think}
    assert GoTemplate(THINKING).render(values) == (
        "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nHi!<|end|>\n<|turn|>assistant\nHello.<|end|>\n"
        f"<|turn|>user\nHi!{marks}<|end|>\n<|turn|>assistant\n{opening}"
    )
    tools = GoTemplate(THINKING).render({"Messages": [USER], "Tools": [{"Function": {"name": "now"}}], **think})
    assert '\n<tools>\n{"type": "function", "function": {"name":"now"}}\n</tools><|end|>\n' in tools


BRACKETS = """\
{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (le (len (slice $.Messages $index)) 2) $.Tools }}[TOOLS] {{ json $.Tools }}[/TOOLS]
{{- end }}[INST] {{ if and (eq (len (slice $.Messages $index)) 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[CALLS] [
{{- range $i, $c := .ToolCalls }}{{ if $i }}, {{ end -}}
{"name": "{{ $c.Function.Name }}", "arguments": {{ json $c.Function.Arguments }}}
{{- end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[RESULTS] {"content": {{ .Content }}}[/RESULTS]
{{- end }}
{{- end }}"""


def test_brackets_around_instructions() -> None:
    calls = {"Role": "assistant", "Content": "", "ToolCalls": [call("a", {}), call("b", {"x": [1]})]}
    result = {"Role": "tool", "Content": "3"}
    values = {"System": "Be brief.", "Messages": [USER, calls, result, USER], "Tools": [TOOL]}
    assert GoTemplate(BRACKETS).render(values) == (
        '[INST] Hi![/INST][CALLS] [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {"x":[1]}}]</s>'
        '[RESULTS] {"content": 3}[/RESULTS]'
        '[TOOLS] [{"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}}][/TOOLS]'
        "[INST] Be brief.\n\nHi![/INST]"
    )


OLDER = """\
{{ if .System }}<sys>{{ .System }}</sys>{{ end }}{{ if .Prompt }}<usr>{{ .Prompt }}</usr>{{ end }}<ai>
{{- .Response }}</ai>"""


def test_a_turn_in_the_older_style() -> None:
    template = GoTemplate(OLDER)
    assert not template.mentions("Messages")
    assert template.render({"System": "S", "Prompt": "P", "Response": "R"}) == "<sys>S</sys><usr>P</usr><ai>R</ai>"
    assert template.render({"System": "", "Prompt": "P", "Response": ""}) == "<usr>P</usr><ai></ai>"
