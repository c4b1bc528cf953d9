"""Every fault, as a raw socket receives it."""

from __future__ import annotations

import gzip
import json

import pytest

from namel3ss_ollama.testing import FAULTS, Fault, Gate, OllamaServer, ToolCall

WORDS = ["one", " two", " three", " four"]


@pytest.fixture(autouse=True)
def reply(server: OllamaServer):
    server.reply(WORDS, path="/api/chat")


def whole(chat):
    return chat(stream=False)


def test_the_same_answer_without_a_fault(wire, server):
    seen = wire.ask()
    assert seen.complete
    assert not seen.reset
    assert seen.text == "one two three four"
    assert [len(chunk.splitlines()) for chunk in seen.chunks] == [1] * 5
    assert server.requests[0].outcome == "complete"
    assert server.requests[0].fault is None


def test_refuse_as_a_fault(wire, server):
    server.fault("refuse")
    seen = wire.ask()
    assert seen.reset
    assert seen.data == b""
    with pytest.raises(ConnectionRefusedError):
        wire.connect()
    server.reset()
    server.accept()
    assert wire.ask().status == 200


def test_reset_before_headers(wire, server):
    server.fault("reset_before_headers", times=1)
    seen = wire.ask()
    assert seen.reset
    assert seen.data == b""
    record = server.requests[0]
    assert (record.outcome, record.fault, record.status, record.bytes_sent) == (
        "fault",
        "reset_before_headers",
        None,
        0,
    )
    assert wire.ask().text == "one two three four"


def test_close_before_headers(wire, server):
    server.fault("close_before_headers")
    seen = wire.ask()
    assert not seen.reset
    assert seen.data == b""


@pytest.mark.parametrize("n", [0, 1, 3, 4, 99])
def test_reset_mid_stream(wire, server, n):
    server.fault("reset_mid_stream", at_token=n)
    seen = wire.ask()
    assert seen.reset
    assert seen.status == 200
    assert not seen.complete
    assert seen.text == "".join(WORDS[:n])
    assert server.requests[0].tokens_sent == min(n, 4)


def test_reset_at_a_byte(wire, server):
    server.fault("reset_mid_stream", at_byte=10)
    seen = wire.ask()
    assert seen.reset
    assert len(seen.body) == 10


@pytest.mark.parametrize("name", ["cut", "half_close"])
def test_cut(wire, server, name):
    server.fault(name, at_token=2)
    seen = wire.ask(headers="")
    assert not seen.reset
    assert not seen.complete
    assert seen.text == "one two"
    server.wait_for(lambda s: s.open_connections == 0)
    assert server.requests[0].outcome == "fault"


def test_cut_in_the_middle_of_one_object(wire, server, chat):
    server.fault("cut")
    seen = wire.ask(whole(chat))
    total = int(seen.headers["content-length"])
    assert len(seen.body) == total // 2
    assert not seen.complete
    assert not seen.reset


def test_half_close_keeps_reading(wire, server):
    server.fault("half_close", at_token=1)
    with wire.send(headers="") as sock:
        assert wire.read_all(sock).text == "one"
        assert server.open_connections == 1
        sock.sendall(b"still open")
    server.wait_for(lambda s: s.open_connections == 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["stall_before_headers", "stall_mid_stream"])
def test_stall_until_the_client_disconnects(wire, server, chat, name, stream):
    server.fault(name)
    with wire.send(chat(stream=stream)) as sock:
        if name == "stall_mid_stream":
            wire.read_until(sock, b'"one"' if stream else b'{"model"')
        server.wait_for(lambda s: s.active_requests == 1)
        assert server.requests[0].outcome == "active"
    server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    server.wait_for(lambda s: s.open_connections == s.active_requests == 0)


@pytest.mark.parametrize("name", ["stall_before_headers", "stall_mid_stream"])
def test_stall_until_a_gate_opens(wire, server, name):
    gate = Gate()
    server.fault(name, gate=gate)
    with wire.send() as sock:
        server.wait_for(lambda s: gate.waiting == 1)
        gate.open()
        seen = wire.read_all(sock)
    assert seen.complete
    assert seen.text == "one two three four"


@pytest.mark.parametrize("name", ["stall_before_headers", "stall_mid_stream"])
def test_stall_for_some_seconds(wire, server, name):
    server.fault(name, seconds=0.01)
    assert wire.ask().complete
    record = server.requests[0]
    assert record.ended is not None
    assert record.ended - record.time >= 0.009


def test_slow_drip(wire, server, chat):
    server.reset()
    server.reply("x")
    server.fault("slow_drip", seconds=0)
    seen = wire.ask(whole(chat))
    assert seen.complete
    assert json.loads(seen.body)["message"]["content"] == "x"


def test_slow_drip_is_byte_by_byte(wire, server):
    server.fault("slow_drip", seconds=600)
    with wire.send() as sock:
        assert sock.recv(100) == b"H"
        server.wait_for(lambda s: s.requests[0].bytes_sent == 1)


def test_truncated(wire, server, chat):
    server.fault("truncated")
    seen = wire.ask()
    assert seen.complete
    assert seen.text == "one two three four"
    assert not any(x["done"] for x in seen.lines)
    seen = wire.ask(whole(chat))
    assert seen.complete
    with pytest.raises(json.JSONDecodeError):
        json.loads(seen.body)


def test_truncated_after_a_token(wire, server):
    server.fault("truncated", at_token=2)
    seen = wire.ask()
    assert seen.complete
    assert seen.text == "one two"


def test_error_line(wire, server, chat):
    server.fault("error_line", at_token=2, message="boom")
    seen = wire.ask()
    assert seen.status == 200
    assert seen.complete
    assert seen.lines[-1] == {"error": "boom"}
    assert seen.text == "one two"
    seen = wire.ask(whole(chat))
    assert (seen.status, seen.body) == (500, b'{"error":"boom"}')


def test_malformed_line(wire, server, chat):
    server.fault("malformed_line", at_token=2)
    bad = wire.ask().body.split(b"\n")
    json.loads(bad[1])
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad[2])
    json.loads(bad[3])
    with pytest.raises(json.JSONDecodeError):
        json.loads(wire.ask(whole(chat)).body)


@pytest.mark.parametrize("stream", [True, False])
def test_invalid_utf8(wire, server, chat, stream):
    server.fault("invalid_utf8")
    seen = wire.ask(chat(stream=stream))
    assert seen.complete
    with pytest.raises(UnicodeDecodeError):
        seen.body.decode()
    assert len(json.loads(seen.body.decode("utf-8", "replace").splitlines()[0])) > 2


def test_lines_in_one_chunk(wire, server):
    server.fault("lines_in_one_chunk")
    seen = wire.ask()
    assert len(seen.chunks) == 1
    assert len(seen.lines) == 5


@pytest.mark.parametrize("stream", [True, False])
def test_byte_chunks(wire, server, chat, stream):
    server.fault("byte_chunks")
    seen = wire.ask(chat(stream=stream))
    assert seen.complete
    assert {len(chunk) for chunk in seen.chunks} == {1}
    assert seen.text == "one two three four"


@pytest.mark.parametrize("stream", [True, False])
def test_huge_line(wire, server, chat, stream):
    server.fault("huge_line", size=5000)
    seen = wire.ask(chat(stream=stream))
    assert max(map(len, seen.body.split(b"\n"))) > 5000
    assert seen.lines[-1]["done"] is True
    assert "a" * 5000 in seen.text


def test_empty_lines_crlf_and_line_ends(wire, server):
    server.sequence(
        Fault("empty_lines"), Fault("crlf"), Fault("no_final_newline"), Fault("extra_after_done", body=b"\0x")
    )
    assert wire.ask().body.count(b"\n\n") == 5
    body = wire.ask().body
    assert body.count(b"\r\n") == body.count(b"\n") == 5
    body = wire.ask().body
    assert body.endswith(b"}")
    assert body.count(b"\n") == 4
    seen = wire.ask()
    assert seen.complete
    assert seen.body.endswith(b"}\n\0x")


def test_duplicate_done(wire, server):
    server.fault("duplicate_done")
    assert [line["done"] for line in wire.ask().lines] == [False] * 4 + [True, True]


def test_wrong_content_type(wire, server):
    server.sequence(Fault("wrong_content_type"), Fault("wrong_content_type", content_type="text/html"))
    seen = wire.ask()
    assert seen.headers["content-type"] == "text/plain; charset=utf-8"
    assert seen.text == "one two three four"
    assert wire.ask().headers["content-type"] == "text/html"


def test_html_page(wire, server):
    server.fault("html_page")
    seen = wire.ask()
    assert (seen.status, seen.headers["content-type"]) == (200, "text/html")
    assert seen.body.startswith(b"<html>")


@pytest.mark.parametrize("stream", [True, False])
def test_empty_body(wire, server, chat, stream):
    server.fault("empty_body")
    seen = wire.ask(chat(stream=stream))
    assert (seen.status, seen.body, seen.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504])
def test_status(wire, server, status):
    server.fault("status", status=status)
    seen = wire.ask()
    assert seen.status == status
    assert seen.headers["content-type"] == "application/json; charset=utf-8"
    assert list(json.loads(seen.body)) == ["error"]
    assert "retry-after" not in seen.headers


def test_forms_of_status(wire, server):
    server.sequence(
        Fault("status", status=503, html=True),
        Fault("status", status=429, retry_after=7),
        Fault("status", status=502, body="plain", headers={"X-Proxy": "1"}),
        Fault("status", status=599, message="other"),
        Fault("status"),
    )
    seen = wire.ask()
    assert seen.headers["content-type"] == "text/html"
    assert b"503 Service Unavailable" in seen.body
    assert wire.ask().headers["retry-after"] == "7"
    seen = wire.ask()
    assert (seen.body, seen.headers["x-proxy"]) == (b"plain", "1")
    assert wire.ask().body == b'{"error":"other"}'
    assert wire.ask().status == 500


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect(wire, server, status):
    server.fault("redirect", status=status, location="http://127.0.0.1:1/x")
    seen = wire.ask()
    assert (seen.status, seen.headers["location"]) == (status, "http://127.0.0.1:1/x")


@pytest.mark.parametrize("stream", [True, False])
def test_gzip(wire, server, chat, stream):
    server.fault("gzip")
    seen = wire.ask(chat(stream=stream))
    assert seen.headers["content-encoding"] == "gzip"
    assert seen.complete
    assert b"three" in gzip.decompress(seen.body)


def test_bomb(wire, server):
    server.fault("bomb", size=300_000)
    seen = wire.ask()
    assert len(seen.body) < 3000
    assert len(gzip.decompress(seen.body)) == 300_000


@pytest.mark.parametrize("stream", [True, False])
def test_wrong_content_length(wire, server, chat, stream):
    server.sequence(Fault("content_length_long", size=3), Fault("content_length_short", size=4))
    seen = wire.ask(chat(stream=stream), headers="")
    assert not seen.complete
    assert len(seen.body) == int(seen.headers["content-length"]) - 3
    seen = wire.ask(chat(stream=stream))
    assert seen.complete
    assert len(seen.rest) == 4


def test_done_reason_and_counters(wire, server, chat):
    server.sequence(
        Fault("done_reason", reason="load"),
        Fault("done_reason"),
        Fault("missing_counter", counter="eval_count"),
        Fault("missing_counter"),
    )
    assert wire.ask().lines[-1]["done_reason"] == "load"
    assert wire.ask().lines[-1]["done_reason"] == "length"
    last = wire.ask().lines[-1]
    assert "eval_count" not in last
    assert "eval_duration" in last
    assert set(json.loads(wire.ask(whole(chat)).body)) == {"model", "created_at", "message", "done", "done_reason"}


def test_tool_arguments(wire, server, chat):
    server.reset()
    server.reply(tool_calls=[ToolCall("add", {"a": 1, "b": "x"})])
    server.sequence(*(Fault(f"tool_arguments_{kind}") for kind in ("string", "object", "broken")))

    def arguments():
        return wire.ask().lines[0]["message"]["tool_calls"][0]["function"]["arguments"]

    assert json.loads(arguments()) == {"a": 1, "b": "x"}
    assert arguments() == {"a": 1, "b": "x"}
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments())


def test_tool_arguments_call_an_offered_tool(wire, server, chat):
    server.reset()
    server.fault("tool_arguments_string")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "count", "description": "", "parameters": schema}}
    call = wire.ask(chat(tools=[tool])).lines[0]["message"]["tool_calls"][0]["function"]
    assert call == {"name": "count", "arguments": '{"n": 0}'}


OPTIONS = {"redirect": {"location": "/x"}, "bomb": {"size": 1000}, "huge_line": {"size": 1000}}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/tags", "/api/pull", "/api/delete"])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_on_other_endpoints(wire, server, name, path):
    """No fault makes the server itself fail, whatever the request."""
    options = dict(OPTIONS.get(name, {}))
    if "seconds" in FAULTS[name].options:
        options["seconds"] = 0
    server.fault(name, times=1, **options)
    method = {"/api/tags": "GET", "/api/delete": "DELETE"}.get(path, "POST")
    payload = {"model": "llama3.2", "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    with wire.send(None if method == "GET" else payload, path, method=method) as sock:
        wire.read_all(sock)
    server.wait_for(lambda s: s.active_requests == 0)
    assert server.errors == []
    assert server.requests[0].fault == name


def test_names_are_checked():
    with pytest.raises(ValueError, match="nearest: reset_mid_stream"):
        Fault("reset_midstream")
    with pytest.raises(ValueError, match="location: a redirect needs a location"):
        Fault("redirect")
    for arguments, named in (
        ({"at_token": 1, "at_byte": 1}, "at_byte"),
        ({"at_token": -1}, "at_token"),
        ({"status": 500}, "status"),
        ({"gate": Gate()}, "gate"),
    ):
        with pytest.raises(ValueError, match=rf"^{named}: "):
            Fault("cut", **arguments)
    with pytest.raises(ValueError, match=r"^size: "):
        Fault("bomb", size=0)
    with pytest.raises(ValueError, match=r"^status: 99 "):
        Fault("status", status=99)
    with pytest.raises(ValueError, match=r"^status: 200 is not a redirect"):
        Fault("redirect", status=200, location="/")
    with pytest.raises(ValueError, match=r"^seconds: "):
        Fault("stall_mid_stream", seconds=1, gate=Gate())
    with pytest.raises(ValueError, match=r"^body: "):
        Fault("status", html=True, body="x")


def test_every_fault_has_a_description():
    for name, info in FAULTS.items():
        assert info.about, name
        assert "\n" not in info.about, name
