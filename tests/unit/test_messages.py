"""Encoding messages of all accepted forms for the API."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from media_files import MP3, encoded, wav

from namel3ss_ollama.media import Audio, Image
from namel3ss_ollama.messages import encode_media, encode_messages, has_files
from namel3ss_ollama.types import Message, ToolCall

IMAGE = base64.b64encode(b"picture").decode()


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),
        (Message("user", "hi"), {"role": "user", "content": "hi"}),
        (MappingProxyType({"role": "user", "content": "hi"}), {"role": "user", "content": "hi"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        ({"role": "system"}, {"role": "system", "content": ""}),
        (
            {"role": "assistant", "content": "a", "thinking": "hm"},
            {"role": "assistant", "content": "a", "thinking": "hm"},
        ),
        ({"role": "assistant", "content": "a", "thinking": ""}, {"role": "assistant", "content": "a"}),
        (
            {"role": "user", "content": "a", "images": [b"picture"]},
            {"role": "user", "content": "a", "images": [IMAGE]},
        ),
        (Message("user", "a", images=[Image(IMAGE)]), {"role": "user", "content": "a", "images": [IMAGE]}),
        ({"role": "user", "content": "a", "images": None}, {"role": "user", "content": "a"}),
        (
            {"role": "tool", "content": "5", "tool_name": "f", "tool_call_id": "c1"},
            {"role": "tool", "content": "5", "tool_name": "f", "tool_call_id": "c1"},
        ),
        ({"role": "tool", "content": "5", "name": "f"}, {"role": "tool", "content": "5", "tool_name": "f"}),
        (
            {"role": "tool", "content": "5", "name": "f", "tool_name": "g"},
            {"role": "tool", "content": "5", "tool_name": "g"},
        ),
        ({"role": "user", "content": "a", "name": "Ann"}, {"role": "user", "content": "a"}),
    ],
)
def test_each_form_of_a_message(message: Any, encoded: dict[str, Any]) -> None:
    assert encode_messages([message]) == [encoded]


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("f", {"a": 1}, "c1"),
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c1", "name": "f", "arguments": {"a": 1}},
    ],
    ids=["ToolCall", "Ollama's", "OpenAI's", "bare"],
)
def test_each_form_of_a_tool_call(call: Any) -> None:
    (message,) = encode_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
    }


def test_tool_calls_are_numbered_and_no_id_is_invented() -> None:
    calls = [{"function": {"name": "f"}}, {"function": {"name": "g", "arguments": None}}]
    (message,) = encode_messages([{"role": "assistant", "content": "x", "tool_calls": calls}])
    assert message["tool_calls"] == [
        {"function": {"index": 0, "name": "f", "arguments": {}}},
        {"function": {"index": 1, "name": "g", "arguments": {}}},
    ]


@pytest.mark.parametrize(
    ("content", "shown"), [("", '{"a": 1'), ("I call:", 'I call:\n{"a": 1')]
)  # fmt: skip
def test_invalid_arguments_stay_visible_to_the_model(content: str, shown: str) -> None:
    call = {"function": {"name": "f", "arguments": '{"a": 1'}}
    (message,) = encode_messages([{"role": "assistant", "content": content, "tool_calls": [call]}])
    assert message["content"] == shown
    assert message["tool_calls"][0]["function"]["arguments"] == {}


def test_the_result_of_a_tool_is_named_after_its_call() -> None:
    history = [
        {"role": "assistant", "tool_calls": [ToolCall("f", {}, "c1"), ToolCall("g", {}, "c2"), ToolCall("h", {}, "")]},
        {"role": "tool", "content": "2", "tool_call_id": "c2"},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": "0", "tool_call_id": "c1", "tool_name": "mine"},
        {"role": "tool", "content": "?", "tool_call_id": "c9"},
        {"role": "tool", "content": "-"},
    ]
    answers = [m.get("tool_name") for m in encode_messages(history) if m["role"] == "tool"]
    assert answers == ["g", "f", "mine", None, None]


def test_a_result_before_its_call_is_not_named() -> None:
    history = [
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "assistant", "tool_calls": [ToolCall("f", {}, "c1")]},
    ]
    assert "tool_name" not in encode_messages(history)[0]


def test_the_input_is_not_modified() -> None:
    history = [
        {
            "role": "assistant",
            "content": "x",
            "images": [IMAGE],
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a"'}}],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]
    before = copy.deepcopy(history)
    encoded = encode_messages(history)
    assert history == before
    encoded[0]["tool_calls"][0]["function"]["arguments"]["b"] = 1
    assert history == before


def test_messages_come_from_any_iterable() -> None:
    assert len(encode_messages({"role": "user", "content": str(n)} for n in range(3))) == 3
    assert len(encode_messages((Message("user", "x"),))) == 1


@pytest.mark.parametrize("messages", ["hi", b"hi", {"role": "user"}, Message("user", "hi")])
def test_one_message_is_not_a_list(messages: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a list of messages, not one {type(messages).__name__}"):
        encode_messages(messages)


@pytest.mark.parametrize("messages", [[], (), iter(())])
def test_an_empty_list_is_rejected(messages: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one .*preload"):
        encode_messages(messages)


@pytest.mark.parametrize(
    ("message", "error", "what"),
    [
        ("hi", TypeError, "expected a Message or a dict, not str"),
        (None, TypeError, "not NoneType"),
        ({"role": "user", "contents": "x"}, TypeError, "'contents'; did you mean 'content'"),
        ({"role": "User", "content": "x"}, ValueError, "role 'User' is unknown; use one of system, user"),
        ({"content": "x"}, ValueError, "role None is unknown"),
        ({"role": "user", "content": 5}, TypeError, "content must be text or a list of parts, not int"),
        ({"role": "user", "content": [{"type": "text"}]}, TypeError, "a part of the type 'text' needs"),
        ({"role": "user", "content": ["x"]}, TypeError, "a part of content must be a dict, not str"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, ValueError, "input_audio needs base64"),
        ({"role": "user", "content": [{"type": "input_video"}]}, ValueError, "a part of the type 'input_video'"),
        ({"role": "user", "content": [{"type": "image_url"}]}, ValueError, "image_url needs a data URL"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
            ValueError,
            "fetch_image",
        ),
        ({"role": "assistant", "tool_calls": ["f"]}, ValueError, "a tool call needs"),
        ({"role": "assistant", "tool_calls": [{}]}, ValueError, "a tool call needs"),
        ({"role": "assistant", "tool_calls": [{"function": "f"}]}, ValueError, "a tool call needs"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}, ValueError, "a tool call needs"),
        ({"role": "assistant", "tool_calls": {"function": {}}}, ValueError, "a tool call needs"),
    ],
)
def test_an_error_names_the_invalid_message(message: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=rf"^messages\[1\].*{what}"):
        encode_messages([{"role": "user", "content": "fine"}, message])


def test_a_misspelt_key_is_not_sent_to_options() -> None:
    # Once wrong: the hint for an unknown key was that of a call, "options={...} passes on what has no keyword"
    with pytest.raises(TypeError) as caught:
        encode_messages([{"role": "user", "content": "x", "zzzz": 1}])
    assert "options=" not in str(caught.value)


@pytest.mark.parametrize("arguments", [MappingProxyType({"a": 1})])
def test_arguments_are_any_mapping(arguments: Any) -> None:
    # Once wrong: only a dict is taken for an object; any other mapping ends in json.dumps, "not JSON serializable"
    (message,) = encode_messages([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}])
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_an_invalid_image_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^images: .*base64"):
        encode_messages([{"role": "user", "content": "x", "images": ["nope.png"]}])


def test_images_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    assert (
        encode_media([b"picture", path, IMAGE, f"data:image/png;base64,{IMAGE}", Image(b"picture")], None)
        == [IMAGE] * 5
    )
    assert encode_media(None, None) == []
    assert encode_media((), ()) == []


@pytest.mark.parametrize("images", [IMAGE, b"picture", Image(IMAGE)])
def test_one_image_is_not_a_list(images: Any) -> None:
    with pytest.raises(TypeError, match=r"^images: expected a list; wrap the one in \[\.\.\.\]"):
        encode_media(images, None)
    with pytest.raises(TypeError, match=r"^images: expected a list"):
        encode_messages([Message("user", "x", images=images)])


@pytest.mark.parametrize("images", [Path("a.png"), bytearray(b"picture")])
def test_one_image_of_another_form_is_not_a_list_either(images: Any) -> None:
    # Once wrong: only bytes, str and Image were distinguished from a list ("'PosixPath' object is not iterable")
    with pytest.raises(TypeError, match=r"^images: expected a list"):
        encode_media(images, None)


RECORDING = wav(0.1)


def test_audio_is_sent_after_the_images(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(MP3)
    sent = [IMAGE, encoded(RECORDING), encoded(MP3)]
    message = {"role": "user", "content": "x", "images": [b"picture"], "audio": [Audio(RECORDING), path]}
    assert encode_messages([message]) == [{"role": "user", "content": "x", "images": sent}]
    assert encode_messages([Message("user", "x", images=[b"picture"], audio=[RECORDING, path])])[0]["images"] == sent
    assert encode_media(None, [RECORDING]) == sent[1:2]
    assert encode_media(None, []) == []


def test_an_audio_part_in_openais_form() -> None:
    part = {"type": "input_audio", "input_audio": {"data": encoded(RECORDING), "format": "wav"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is said?"}, part], "audio": [MP3]}
    assert encode_messages([message]) == [
        {"role": "user", "content": "What is said?", "images": [encoded(RECORDING), encoded(MP3)]}
    ]
    with pytest.raises(TypeError, match=r"^audio: expected a list"):
        encode_messages([{**message, "audio": MP3}])
    with pytest.raises(ValueError, match=r"^audio: the recording is neither WAV nor MP3"):
        encode_messages([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": IMAGE}}]}])


@pytest.mark.parametrize("audio", [RECORDING, encoded(RECORDING), Audio(RECORDING), Path("a.wav")])
def test_one_recording_is_not_a_list(audio: Any) -> None:
    with pytest.raises(TypeError, match=r"^audio: expected a list; wrap the one in \[\.\.\.\]"):
        encode_media(None, audio)


def test_images_and_audio_are_not_interchangeable() -> None:
    with pytest.raises(TypeError, match=r"^audio: expected Audio or its source, not Image"):
        encode_media(None, [Image(IMAGE)])
    with pytest.raises(TypeError, match=r"^images: expected Image or its source, not Audio"):
        encode_media([Audio(RECORDING)], None)


@pytest.mark.parametrize("name", ["images", "audio"])
def test_whether_there_are_files_to_read(name: str) -> None:
    held: dict[str, Any] = {name: [b"x", Path("file")]}
    assert has_files([{"role": "user"}, held])
    assert has_files([Message("user", **held)])
    for none in ([{name: [b"x"]}], [{name: Path("file")}], [Message("user")], [None, "x"], "x", None, [{name: None}]):
        assert not has_files(none)


def test_parts_of_another_models_answer_are_read_or_left_out() -> None:
    parts: list[Any] = [
        {"type": "text", "text": "I may not."},
        {"type": "refusal", "refusal": "Ask something else."},
        {"type": "audio", "audio": {"id": "1"}},
    ]
    assert encode_messages([{"role": "assistant", "content": parts}]) == [
        {"role": "assistant", "content": "I may not.\nAsk something else."}
    ]


def test_content_parts_become_text_and_images() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        {"type": "text", "text": "this?"},
    ]
    assert encode_messages([{"role": "user", "content": parts, "images": [b"more"]}]) == [
        {"role": "user", "content": "What is\nthis?", "images": ["aGVsbG8=", "bW9yZQ=="]}
    ]
    assert encode_messages([{"role": "user", "content": []}]) == [{"role": "user", "content": ""}]
