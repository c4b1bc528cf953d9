"""Kinds of workers: monkey-patched programs, other event loops, forked processes, task queues, application servers.

`docs/workers.md` has a row for each, which names its test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from programs import TEXT, command, prepare, run, started

from namel3ss_ollama.testing import Gate, OllamaServer

pytestmark = pytest.mark.slow

PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all(); from gevent import Timeout, sleep, spawn\n",
    "eventlet": """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # eventlet is deprecated
            import eventlet
        eventlet.monkey_patch()
        from eventlet import Timeout, sleep, spawn
        """,
}
GREEN = list(PATCH)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")

TOUR = """
    import pathlib, tempfile
    def tour():
        assert p.chat(ask).content == text
        assert "".join(c.content for c in p.stream(ask)) == text
        assert [r.content for r in p.batch(["a", "b"])] == [text, text]
        assert next(p.sync.pull_model("held")) == {"status": "pulling manifest"}
        for c in p.stream(stall):
            break
        with p.stream(stall) as stream:
            next(iter(stream))
        assert stream.end == "cancelled"
        with tempfile.TemporaryDirectory() as folder:  # files are read in threads
            file = pathlib.Path(folder, "x.gguf")
            file.write_bytes(b"GGUF" + bytes(2**21))
            *_, last = p.sync.create_model("new", files={"x.gguf": file})
        assert last["status"] == "success"
    def free():
        while p.stats().running:
            sleep(0.001)
    async def both():
        assert (await p.achat(ask)).content == text
        assert "".join([c.content async for c in p.stream_chat(ask)]) == text
        assert p.chat(ask).content == text
    """
GREEN_TOUR = f"""{TOUR}
    tour()
    try:
        with Timeout(0.05):
            p.chat(stall)
    except Timeout:
        free()
    else:
        raise AssertionError
    stream = p.stream(stall)
    next(stream)
    try:
        with Timeout(0.05):
            list(stream)
    except Timeout:
        stream.close()
    else:
        raise AssertionError
    def wait():
        begun.append(True)
        p.chat(stall)
    begun = []
    greenlet = spawn(wait)
    while not (begun and p.stats().running):
        sleep(0.001)
    greenlet.kill()
    free()
    asyncio.run(both())
    asyncio.run(both())
    p.close()
    tour()
    kept = p.stream(stall)
    next(kept)
    """


# gevent and eventlet


@pytest.mark.parametrize(
    ("order", "green"),
    [
        ("patched first", "gevent"),
        ("patched first", "eventlet"),
        ("patched after the provider was made", "gevent"),
    ],
)
def test_all_of_it_in_a_patched_program(ollama_server: OllamaServer, order: str, green: str) -> None:
    # Once wrong: under gevent every synchronous call was refused, since greenlets share the thread of the loop.
    patch = textwrap.dedent(PATCH[green])
    if order == "patched first":
        run(ollama_server, GREEN_TOUR, before=patch)
    else:
        run(ollama_server, patch + textwrap.dedent(GREEN_TOUR))
    ollama_server.wait_for(lambda s: s.open_connections == 0)


def test_all_of_it_over_httpx_in_a_patched_program(ollama_server: OllamaServer) -> None:
    run(ollama_server, GREEN_TOUR, "httpx", before=PATCH["gevent"])


def test_a_call_before_the_program_is_patched(ollama_server: OllamaServer) -> None:
    # Not in development mode, in which asyncio finds the first event loop in a wrong thread.
    code = f"p.chat(ask)\n{PATCH['gevent']}{textwrap.dedent(GREEN_TOUR)}"
    program = [sys.executable, "-c", command(code)[-2], "aiohttp"]
    subprocess.run(program, timeout=60, env=prepare(ollama_server), check=True)


@pytest.mark.parametrize("green", GREEN)
def test_greenlets_wait_concurrently(ollama_server: OllamaServer, green: str) -> None:
    """The answers come when all requests have arrived: greenlets that ran in turn would wait forever."""
    code = f"""
        crowd = OllamaProvider("llama3.2", "http://localhost:{ollama_server.port}")
        def stream():
            return "".join(chunk.content for chunk in crowd.stream(held))
        def call():
            return crowd.chat(held).content
        answers = []
        for work in [stream, call] * 5:
            spawn(lambda work=work: answers.append(work()))
        while len(answers) < 10:
            sleep(0.001)
        assert answers == [text] * 10, answers
        """
    gate = Gate()
    with started(ollama_server, code, before=PATCH[green], gate=gate):
        ollama_server.wait_for(lambda _: gate.waiting == 10, timeout=30)
        gate.open()


@pytest.mark.parametrize("green", GREEN)
def test_ctrl_c_in_a_patched_program(ollama_server: OllamaServer, green: str) -> None:
    code = """
        try:
            p.chat(stall)
        except KeyboardInterrupt:
            while p.stats().running:
                sleep(0.001)
            assert p.chat(ask).content == text
        else:
            raise AssertionError
        """
    silent = "gevent.get_hub().exception_stream = None\n" if green == "gevent" else ""  # it prints the interrupt
    with started(ollama_server, silent + textwrap.dedent(code), before=PATCH[green]) as process:
        ollama_server.wait_for(lambda s: s.active_requests == 1, timeout=30)
        process.send_signal(signal.SIGINT)


@forks
def test_a_patched_program_that_forks(ollama_server: OllamaServer) -> None:
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        tour()
        kept = p.stream(stall)
        next(kept)
        pid = os.fork()
        if not pid:
            assert p.stats().running == 0
            tour()
            p.close()
            os._exit(0)
        tour()
        assert os.waitpid(pid, 0)[1] == 0
        """
    run(ollama_server, textwrap.dedent(TOUR) + textwrap.dedent(code), before=PATCH["gevent"])


# Other event loops, and what drives asyncio's

LOOPS = {
    "uvloop": """
        import uvloop, warnings
        loop = uvloop.new_event_loop()
        loop.run_until_complete(both())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons', about policies
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        tour()  # on a background loop of uvloop's
        asyncio.run(both())
        """,
    "nest_asyncio": """
        import nest_asyncio
        async def cell():
            nest_asyncio.apply()
            loop = asyncio.get_running_loop()
            assert loop.run_until_complete(p.achat(ask)).content == text
            assert asyncio.run(p.achat(ask)).content == text
            await both()
            tour()
        asyncio.run(cell())
        """,
    "anyio on asyncio": """
        import anyio
        async def main():
            async with anyio.create_task_group() as group:
                group.start_soon(both)
                group.start_soon(anyio.to_thread.run_sync, tour)
            with anyio.move_on_after(0.05) as scope:
                await p.achat(stall)
            assert scope.cancelled_caught
        anyio.run(main)
        """,
    "anyio on trio": """
        import anyio
        async def main():
            for refused in [p.achat(ask), p.stream_chat(ask).__anext__(), p.version(), p.embed("x")]:
                try:
                    await refused
                except RuntimeError as error:
                    assert "asyncio" in str(error) and "provider.sync" in str(error), error
                else:
                    raise AssertionError
            await anyio.to_thread.run_sync(tour)
        anyio.run(main, backend="trio")
        """,
    "asgiref": """
        from asgiref.sync import async_to_sync, sync_to_async
        async def collect():
            return "".join([c.content async for c in p.stream_chat(ask)])
        assert async_to_sync(p.achat)(ask).content == text
        assert async_to_sync(collect)() == text
        async def view():  # an async view under WSGI, whose synchronous parts run in the caller's thread
            await both()
            await sync_to_async(tour)()
            return (await sync_to_async(p.chat)(ask)).content
        assert async_to_sync(view)() == text
        assert asyncio.run(view()) == text
        tour()
        """,
    "Streamlit": """
        def written(generator):  # as `st.write_stream` does with an async generator
            loop = asyncio.new_event_loop()
            try:
                while True:
                    yield loop.run_until_complete(anext(generator))
            except StopAsyncIteration:
                pass
            finally:
                loop.close()
        async def tokens(messages):
            async for chunk in p.stream_chat(messages):
                yield chunk.content
        def script():  # each run in a thread of its own; a rerun stops it anywhere
            assert "".join(written(tokens(ask))) == text
            broken = written(tokens(stall))
            next(broken)
            broken.close()
            tour()
        for _ in range(2):
            thread = threading.Thread(target=script)
            thread.start()
            thread.join()
        gc.collect()
        """,
}


@pytest.mark.parametrize("kind", LOOPS)
def test_event_loops(ollama_server: OllamaServer, kind: str) -> None:
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="there is no uvloop for Windows")
    end = "assert (p.stats().running, p.stats().queued) == (0, 0)\n"
    run(ollama_server, textwrap.dedent(TOUR) + textwrap.dedent(LOOPS[kind]) + end)
    ollama_server.wait_for(lambda s: s.open_connections == 0)


# Processes


@pytest.mark.parametrize(
    "method", ["spawn", pytest.param("fork", marks=forks), pytest.param("forkserver", marks=forks)]
)
def test_pools_of_processes(ollama_server: OllamaServer, method: str) -> None:
    code = f"""
        import multiprocessing, operator, warnings
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
            assert p.chat(ask).content == text
            call = operator.methodcaller("chat", ask)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r})) as pool:
                assert [r.content for r in pool.map(call, [p] * 4)] == [text] * 4
            assert p.chat(ask).content == text
        """
    run(ollama_server, code)


# Application servers

APPLICATION = """
    import os
    from namel3ss_ollama import OllamaProvider
    provider = OllamaProvider("llama3.2")
    ask = [{"role": "user", "content": "count"}]
    provider.chat(ask)
    def answer(content):
        messages = [{"role": "user", "content": content}]
        return "".join(chunk.content for chunk in provider.stream(messages)) + "|" + provider.chat(ask).content
    def wsgi(environ, start_response):
        body = answer(environ["PATH_INFO"]).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    async def asgi(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError("only http")
        messages = [{"role": "user", "content": scope["path"]}]
        body = "".join([c.content async for c in provider.stream_chat(messages)]) + "|" + provider.chat(ask).content
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})
    """
SERVERS = {
    "sync": ["wsgi", "sync", "--preload"],
    "gthread": ["wsgi", "gthread", "--threads", "4"],
    "gevent": ["wsgi", "gevent"],
    "gevent, preloaded": ["wsgi", "gevent", "--preload"],
    "asgi": ["asgi", "asgi"],
    "uvicorn": ["asgi", "uvicorn.workers.UvicornWorker"],
}
BAD = ("Traceback", "Unclosed", "unclosed", "Exception ignored", "was destroyed", "never awaited")


@forks
@pytest.mark.parametrize("kind", SERVERS)
def test_gunicorn(ollama_server: OllamaServer, tmp_path: Path, kind: str) -> None:
    """The application sends a request at import: in the worker, or with --preload in the process that forks."""
    Path(tmp_path, "application.py").write_text(textwrap.dedent(APPLICATION))
    Path(tmp_path, "conf.py").write_text("def post_worker_init(worker):\n    print('ready', flush=True)\n")
    application, worker, *options = SERVERS[kind]
    command = [sys.executable, "-m", "gunicorn", "-c", "conf.py", "-b", "unix:socket", "-k", worker, *options]
    command.append(f"application:{application}")
    gate = Gate()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=prepare(ollama_server, gate), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        at_once = 1 if worker == "sync" else 4
        transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
        with httpx.Client(transport=transport, timeout=30) as client, ThreadPoolExecutor(at_once) as pool:
            answers = [pool.submit(client.get, "http://application/[held]") for _ in range(at_once)]
            ollama_server.wait_for(lambda _: gate.waiting == at_once, timeout=30)
            gate.open()
            assert [a.result().text for a in answers] == [f"{TEXT}|{TEXT}"] * at_once
        process.terminate()
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert not [word for word in BAD if word in errors], errors


# Task queues

TASKS = """
    import asyncio, os
    from pathlib import Path
    from celery import Celery, signals
    from namel3ss_ollama import OllamaProvider
    app = Celery("tasks", broker="memory://", backend="cache+memory://")
    provider = OllamaProvider("llama3.2")
    ask = [{"role": "user", "content": "count"}]
    provider.chat(ask)  # for prefork, in the process that forks
    def on_a_loop(coroutine):
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()
    @app.task
    def work(number):
        held = [{"role": "user", "content": f"count [held] {number}"}]
        text = "".join(chunk.content for chunk in provider.stream(held))
        if os.environ["POOL"] != "gevent":  # whose greenlets share a thread, and asyncio has one loop in each
            text = on_a_loop(provider.achat(ask)).content
        Path(f"answer-{number}").write_text(text + "|" + provider.chat(ask).content)
    @signals.worker_ready.connect
    def begin(**_):
        for number in range(2):
            work.delay(number)
    """


@pytest.mark.parametrize("pool", [pytest.param("prefork", marks=forks), "threads", "gevent"])
def test_celery(ollama_server: OllamaServer, tmp_path: Path, pool: str) -> None:
    Path(tmp_path, "tasks.py").write_text(textwrap.dedent(TASKS))
    gate = Gate()
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", pool, "-c", "2", "-l", "INFO"]
    environment = {**prepare(ollama_server, gate), "POOL": pool}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE)
    try:
        ollama_server.wait_for(lambda _: gate.waiting == 2, timeout=30)
        gate.open()
        requests = 1 + 2 * (2 if pool == "gevent" else 3)
        ollama_server.wait_for(lambda s: sum(r.outcome == "complete" for r in s.requests) == requests, timeout=30)
        process.terminate()  # it exits when the tasks are done
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert not [word for word in BAD if word in errors], errors
    assert [Path(tmp_path, f"answer-{number}").read_text() for number in range(2)] == [f"{TEXT}|{TEXT}"] * 2
