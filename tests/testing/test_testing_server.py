"""The server's lifecycle, records, rules, gates and waiting."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import ollama
import pytest

from namel3ss_ollama import testing
from namel3ss_ollama.testing import Fault, Gate, OllamaServer, Record, Reply

HELLO = [{"role": "user", "content": "hello"}]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


# Lifecycle


def test_stop_leaves_nothing_behind(wire):
    before = threads()
    server = OllamaServer(tokens_per_second=1)
    server.fault("stall_mid_stream", contains="stall")
    server.reply("x", gate=Gate(), contains="gate")
    server.start()
    assert len(threads() - before) == 1
    assert server.running
    wire.server = server
    socks = [wire.connect()]
    for word in ("stall", "gate", "pace"):
        socks.append(wire.send({"model": "llama3.2", "prompt": word}, "/api/generate", headers=""))
    server.wait_for(lambda s: s.active_requests == 3 and s.open_connections == 4)
    server.stop()
    assert threads() == before
    assert not server.running
    assert server.open_connections == server.active_requests == 0
    assert {record.outcome for record in server.requests} == {"server_stopped"}
    for sock in socks:
        wire.read_all(sock)
    with pytest.raises(ConnectionRefusedError):
        wire.connect()
    gc.collect()  # an unclosed socket or loop is a ResourceWarning, which pytest's configuration makes an error
    server.stop()


def test_stop_while_refusing():
    server = OllamaServer().start()
    port = server.port
    server.refuse()
    server.stop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))


def test_it_can_be_restarted_and_on_a_chosen_port():
    with OllamaServer() as server:
        port = server.port
        with pytest.raises(RuntimeError, match="running"):
            server.start()
    again = OllamaServer(port=port)
    for _ in range(2):
        with again:
            assert again.port == port
            assert httpx.get(again.url).text == "Ollama is running"


def test_a_port_that_is_in_use(server):
    other = OllamaServer(port=server.port)
    with pytest.raises(OSError, match="in use"):
        other.start()
    assert not other.running


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"^tokens_per_second: "):
        OllamaServer(tokens_per_second=0)
    with pytest.raises(ValueError, match=r"^port: "):
        OllamaServer(port=70000)
    with pytest.raises(TypeError, match=r"^models: "):
        OllamaServer("llama3.2")
    server = OllamaServer()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url
    with pytest.raises(RuntimeError, match="not running"):
        server.refuse()
    with pytest.raises(ValueError, match=r"^path: "):
        server.on(path="api/chat")
    with pytest.raises(ValueError, match=r"^predicate: "):
        server.on(predicate=3)
    with pytest.raises(ValueError, match=r"^times: "):
        server.reply("x", times=0)
    with pytest.raises(ValueError, match=r"^outcomes: "):
        server.sequence()
    with pytest.raises(ValueError, match=r"^how: "):
        server.drop_connections("gently")
    with pytest.raises(ValueError, match=r"^done_reason: set it on"):
        server.reply(Reply("x"), done_reason="length")
    with pytest.raises(ValueError, match=r"^at_token: set it on"):
        server.fault(Fault("cut"), at_token=1)
    for arguments, named in (
        ({"counters": {"evals": 1}}, "counters"),
        ({"tokens_per_second": -1}, "tokens_per_second"),
        ({"delay": -1}, "delay"),
        ({"gates": {-1: Gate()}}, "gates"),
        ({"status": 100}, "status"),
        ({"text": "x", "status": 500}, "status"),
        ({"json": {}, "lines": []}, "lines"),
        ({"json": {}, "text": "x"}, "json"),
        ({"json": {1, 2}}, "json"),
        ({"lines": [object()]}, "lines"),
        ({"tool_calls": [{"arguments": {}}]}, "tool_calls"),
    ):
        with pytest.raises(ValueError, match=rf"^{named}: "):
            Reply(**arguments)
    with pytest.raises(ValueError, match=r"^count: "):
        Gate().step(0)


def test_the_plugins_fixture(tmp_path):
    """The plugin as users get it, in a separate pytest run."""
    (tmp_path / "test_it.py").write_text(
        "import urllib.request\n"
        "def test_it(ollama_server):\n"
        "    assert urllib.request.urlopen(ollama_server.url).read() == b'Ollama is running'\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "namel3ss_ollama.testing.plugin", "-c", "/dev/null"]
    root = Path(testing.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def divide(record: Record) -> bool:
    return 1 / 0 == 0


def test_a_failing_predicate_is_reported(chat):
    server = OllamaServer().start()
    server.reply("x", predicate=divide)
    response = httpx.post(server.url + "/api/chat", json=chat())
    assert response.status_code == 500
    assert "ZeroDivisionError" in response.json()["error"]
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        server.__exit__(None, None, None)
    assert not server.running


def test_a_function_that_returns_no_reply(chat):
    server = OllamaServer().start()
    server.reply(lambda record: "text")
    httpx.post(server.url + "/api/chat", json=chat())
    with pytest.raises(RuntimeError, match="returned str, not a Reply"):
        server.__exit__(None, None, None)


def test_an_error_in_the_block_comes_first(chat):
    server = OllamaServer().start()
    server.reply("x", predicate=divide)
    httpx.post(server.url + "/api/chat", json=chat())
    server.__exit__(KeyError, KeyError(), None)
    assert not server.running


# Records


def test_what_is_recorded(server, chat):
    with httpx.Client(base_url=server.url, headers={"X-One": "1"}) as client:
        client.post("/api/chat?q=1", json=chat())
        client.get("/api/version")
    first, second = server.requests
    assert (first.method, first.path, first.query, first.number, first.connection) == ("POST", "/api/chat", "q=1", 1, 1)
    assert first.headers["x-one"] == "1"
    assert ("x-one", "1") in first.raw_headers
    assert first.json == chat()
    assert json.loads(first.body) == chat()
    assert (first.model, first.text) == ("llama3.2", "hello")
    assert (first.status, first.outcome, first.fault, first.tokens_sent) == (200, "complete", None, 4)
    assert first.bytes_sent > 500
    assert first.ended is not None
    assert second.time >= first.ended >= first.time
    assert (second.method, second.json, second.model, second.connection) == ("GET", None, "", 1)
    assert "hello" not in repr(first)
    assert server.connections == 1
    server.reset()
    assert server.requests == []


def test_a_client_that_disconnects_at_a_gate(server, wire):
    gate = Gate()
    server.reply(["a", "b", "c"], gates={2: gate})
    with wire.send(headers="") as sock:
        data = wire.read_until(sock, b'"b"')
        assert b'"c"' not in data
        server.wait_for(lambda s: gate.waiting == 1)
        assert (server.active_requests, server.open_connections) == (1, 1)
        assert server.requests[0].tokens_sent == 2
    server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    assert gate.waiting == 0
    assert server.active_requests == 0
    assert server.requests[0].bytes_sent == len(data)


def test_a_client_that_resets_the_connection(server, wire):
    server.fault("stall_before_headers")
    sock = wire.send()
    server.wait_for(lambda s: s.active_requests == 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    assert server.requests[0].status is None


def test_a_client_that_disconnects_mid_stream(server, wire):
    server.reply(["a"] * 1000, tokens_per_second=200)
    with wire.send(headers="") as sock:
        wire.read_until(sock, b'"a"')
    server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
    assert server.requests[0].tokens_sent < 1000


def test_a_client_that_reads_nothing(server, wire):
    """The kernel's buffers fill, and the answer is not complete until the client reads."""
    server.reply(body=b"x" * 30_000_000)
    with wire.send() as sock:
        server.wait_for(lambda s: s.active_requests == 1)
        assert server.requests[0].outcome == "active"
        assert len(wire.read_all(sock).body) == 30_000_000
    server.wait_for(lambda s: s.requests[0].outcome == "complete")


# Rules


def ask(server, prompt="hello", model="llama3.2", **more):
    payload = {"model": model, "prompt": prompt, "stream": False, **more}
    return httpx.post(server.url + "/api/generate", json=payload).json().get("response")


def test_the_first_rule_that_matches_wins(server):
    server.reply("weather", contains="rain")
    server.reply("other model", model="qwen3")
    server.reply("once", times=1)
    server.reply("chat", path="/api/chat")
    server.reply("long", predicate=lambda record: len(record.text) > 20)
    server.reply("rest")
    assert ask(server, "will it rain?", "qwen3") == "weather"
    assert ask(server, model="qwen3:latest") == "other model"
    assert ask(server) == "once"
    assert ask(server) == "rest"
    assert ask(server, "x" * 30) == "long"


def test_a_sequence(server):
    server.sequence("one", Reply("two"), lambda record: Reply(record.text.upper()), Fault("status", status=503))
    assert [ask(server) for _ in range(5)] == ["one", "two", "HELLO", None, "You said: hello"]
    assert [record.status for record in server.requests] == [200, 200, 200, 503, 200]


def test_a_rule_in_steps(server):
    server.on(model="llama3.2").fault("status", times=2).reply("fine", times=1).reply("always")
    assert [ask(server) for _ in range(5)] == [None, None, "fine", "always", "always"]


@pytest.mark.parametrize("fault_first", [True, False])
def test_a_fault_does_not_use_up_the_reply_it_affects(server, fault_first):
    steps = [lambda: server.fault("truncated", times=1), lambda: server.reply(["a", "b"], times=1)]
    for step in steps if fault_first else reversed(steps):
        step()
    lines = httpx.post(server.url + "/api/generate", json={"model": "llama3.2", "prompt": "x"}).text.splitlines()
    assert [json.loads(line)["response"] for line in lines] == ["a", "b"]
    assert ask(server) == "ab"
    assert ask(server) == "You said: hello"


def test_a_fault_affects_the_next_reply_of_its_rule(server, wire):
    server.on().fault("cut", at_token=1, times=1).reply(["a", "b"])
    assert wire.ask().text == "a"
    assert wire.ask().text == "ab"


def test_a_text_is_kept_for_a_request_that_can_use_it(server):
    server.reply("text", times=1)
    server.reply(embeddings=[[1.0, 0.0]], times=1)
    httpx.get(server.url + "/api/version")
    httpx.post(server.url + "/api/generate", json={"model": "llama3.2"})
    vectors = httpx.post(server.url + "/api/embed", json={"model": "all-minilm", "input": "x"}).json()["embeddings"]
    assert vectors == [[1.0, 0.0]]
    assert ask(server) == "text"


def test_complete_responses_work_on_any_endpoint(server):
    server.reply(json={"version": "9"}, path="/api/version", headers={"content-type": "application/x"})
    server.reply(lines=[{"status": "a"}, b"raw\n", {"status": "success"}], path="/api/pull")
    server.reply(body="text", status=418, path="/other")
    server.reply(status=204, path="/empty")
    server.reply(lambda record: Reply(json={"saw": record.method}), path="/seen")
    response = httpx.get(server.url + "/api/version")
    assert (response.json(), response.headers["content-type"]) == ({"version": "9"}, "application/x")
    assert httpx.post(server.url + "/api/pull").text == '{"status":"a"}\nraw\n{"status":"success"}\n'
    response = httpx.get(server.url + "/other")
    assert (response.status_code, response.text) == (418, "text")
    assert httpx.get(server.url + "/empty").status_code == 204
    assert httpx.put(server.url + "/seen").json() == {"saw": "PUT"}


# Gates and time


def test_a_gate_step_by_step(server, wire):
    gate = Gate()
    server.reply(["a", "b", "c"], gates=dict.fromkeys(range(4), gate))
    with wire.send() as sock:
        server.wait_for(lambda s: gate.waiting == 1)
        assert server.requests[0].bytes_sent == 0
        gate.step()
        assert b'"a"' in wire.read_until(sock, b'"a"')
        gate.step(2)
        wire.read_until(sock, b'"c"')
        server.wait_for(lambda s: s.requests[0].tokens_sent == 3 and gate.waiting == 1)
        gate.open()
        wire.read_until(sock, b'"done":true')
    assert gate.is_open
    gate.close()
    gate.step(1)
    assert not gate.is_open


def test_a_gate_holds_an_answer_that_is_not_streamed(server, wire, chat):
    gate = Gate()
    server.reply(["a", "b"], gates={1: gate})
    with wire.send(chat(stream=False)) as sock:
        server.wait_for(lambda s: gate.waiting == 1)
        assert server.requests[0].bytes_sent == 0
        gate.open()
        assert wire.read_all(sock).lines[0]["message"]["content"] == "ab"


def test_one_gate_for_many_requests(server, wire):
    gate = Gate()
    server.reply("x", gate=gate)
    socks = [wire.send() for _ in range(20)]
    server.wait_for(lambda s: gate.waiting == 20)
    assert server.active_requests == 20
    gate.open()
    assert all(wire.read_all(sock).complete for sock in socks)


def test_pace_and_delay(server, wire):
    server.reply(["a"] * 5, tokens_per_second=500, delay=0.02)
    assert wire.ask().text == "aaaaa"
    record = server.requests[0]
    assert record.ended is not None
    assert record.ended - record.time >= 0.029
    assert json.loads(wire.ask().body.splitlines()[-1])["eval_duration"] == 10_000_000


# Waiting


def test_a_wait_that_times_out_reports_the_state(server):
    httpx.get(server.url)
    server.wait_for(lambda s: s.active_requests == 0)  # the client may have the answer before the server counts it
    with pytest.raises(AssertionError) as caught:
        server.wait_for(lambda s: len(s.requests) == 2, timeout=0)
    message = str(caught.value)
    assert "waited 0 s" in message
    assert "1 requests (0 active)" in message
    assert "GET /" in message
    assert "test_testing_server.py:" in message


async def test_waiting_without_blocking_the_event_loop(server):
    gate = Gate()
    server.reply("x", gate=gate)
    client = ollama.AsyncClient(host=server.url)
    asking = asyncio.create_task(client.chat("llama3.2", messages=HELLO))
    await server.wait_for_async(lambda s: gate.waiting == 1)
    gate.open()
    assert (await asking).message.content == "x"
    with pytest.raises(AssertionError, match="1 requests"):
        await server.wait_for_async(lambda s: False, timeout=0.01)
    await client.close()


async def test_a_cancelled_task_is_noticed(server):
    server.fault("stall_mid_stream")
    async with httpx.AsyncClient(base_url=server.url) as client:
        task = asyncio.create_task(client.post("/api/generate", json={"model": "llama3.2", "prompt": "x"}))
        await server.wait_for_async(lambda s: s.requests[0].bytes_sent > 0)
        task.cancel()
        await server.wait_for_async(lambda s: s.requests[0].outcome == "client_closed")


async def test_many_streams_at_once(server):
    gate = Gate()
    server.reply(["a", "b"], gates={1: gate})

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = json.dumps({"model": "llama3.2", "prompt": "x"}).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        data = await reader.read()
        writer.close()
        return data.count(b'"done":false')

    tasks = [asyncio.create_task(one()) for _ in range(400)]
    await server.wait_for_async(lambda s: gate.waiting == 400, timeout=60)
    assert server.active_requests == 400
    gate.open()
    assert set(await asyncio.gather(*tasks)) == {2}


# Connections


def test_keep_alive_on_and_off(server):
    with httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            client.get("/api/version")
    assert server.connections == 1
    server.wait_for(lambda s: s.open_connections == 0)
    with OllamaServer(keep_alive=False) as other, httpx.Client(base_url=other.url) as client:
        assert client.get("/api/version").headers["connection"] == "close"
        client.get("/api/version")
        assert other.connections == 2


def test_requests_in_one_write_are_answered_in_order(server, wire):
    with wire.connect() as sock:
        sock.sendall(wire.request_bytes(headers="") + wire.request_bytes(None, "/api/version", method="GET"))
        data = wire.read_all(sock).data
    assert data.index(b'"done":true') < data.index(b'{"version"')
    assert [record.path for record in server.requests] == ["/api/chat", "/api/version"]


def test_a_request_byte_by_byte(server, wire):
    with wire.connect() as sock:
        for byte in wire.request_bytes():
            sock.sendall(bytes([byte]))
        assert wire.read_all(sock).complete


def test_a_chunked_request(server):
    pieces = iter([b'{"model":"llama3.2",', b'"prompt":"in pieces","stream":false}'])
    response = httpx.post(server.url + "/api/generate", content=pieces)
    assert response.json()["response"] == "You said: in pieces"
    assert server.requests[0].headers["transfer-encoding"] == "chunked"


def test_expect_100_continue(server, wire):
    request = wire.request_bytes(headers="Expect: 100-continue\r\nConnection: close\r\n")
    head, _, body = request.partition(b"\r\n\r\n")
    with wire.connect() as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert wire.read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert wire.read_all(sock).status == 200


def test_http_1_0(server, wire):
    request = wire.request_bytes(headers="").replace(b"HTTP/1.1", b"HTTP/1.0")
    with wire.connect() as sock:
        sock.sendall(request)
        data = wire.read_all(sock).data
    assert data.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"chunked" not in data
    assert [json.loads(line)["done"] for line in data.partition(b"\r\n\r\n")[2].splitlines()][-1] is True


def test_invalid_http(server, wire):
    with wire.connect() as sock:
        sock.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert wire.read_all(sock).status == 400
    assert server.requests == []


def test_refuse_and_accept(server, wire):
    idle = wire.connect()
    server.wait_for(lambda s: s.open_connections == 1)
    gate = Gate()
    server.reply("x", gate=gate)
    busy = wire.send()
    server.wait_for(lambda s: gate.waiting == 1)
    server.refuse()
    server.refuse()
    wire.read_all(idle)
    with pytest.raises(ConnectionRefusedError):
        wire.connect()
    gate.open()
    assert wire.read_all(busy).complete
    server.accept()
    server.accept()
    assert wire.ask().complete


@pytest.mark.parametrize("how", ["close", "reset"])
def test_drop_connections(server, wire, how):
    idle = wire.connect()
    server.fault("stall_before_headers", times=1)
    stalled = wire.send()
    server.wait_for(lambda s: s.active_requests == 1 and s.connections == 2)
    server.drop_connections(how)
    for sock in (idle, stalled):
        assert wire.read_all(sock).reset is (how == "reset")
    assert server.requests[-1].outcome == "fault"
    assert server.open_connections == 0
    assert wire.ask().complete


def test_a_reply_function_can_control_the_server(server, wire):
    """Code in the server's thread must not wait for the server."""

    def down(record: Record) -> Reply:
        server.refuse()
        return Reply("last words")

    server.reply(down)
    assert "last words" in wire.ask().text
    server.wait_for(lambda s: s.open_connections == 0)
    with pytest.raises(ConnectionRefusedError):
        wire.connect()


@pytest.mark.parametrize("how", ["stop", "refuse"])
def test_stopping_while_clients_connect_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    # Once wrong: the garbage collector closed the sockets, and the warning appeared in a later test.
    unclosed: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: unclosed.append(str(found.exc_value)))
    gc.collect()
    for _ in range(30):
        server = OllamaServer().start()
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        getattr(server, how)()
        if how == "refuse":
            server.wait_for(lambda s: s.open_connections == 0)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port))
        server.stop()
        for client in clients:
            client.close()
        del server
    gc.collect()
    assert unclosed == []
