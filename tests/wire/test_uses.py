"""Ways to run a program, each in a separate interpreter that makes every warning an error and must print none."""

from __future__ import annotations

import os
import sys

import pytest
from programs import run

from namel3ss_ollama.testing import OllamaServer

pytestmark = pytest.mark.slow

USES = {
    "two event loops, one after the other": """
        async def main():
            assert (await p.achat(ask)).content == text
            assert "".join([c.content async for c in p.stream_chat(ask)]) == text
        asyncio.run(main())
        asyncio.run(main())
        """,
    "two event loops at once, and the sync twin": """
        def work():
            asyncio.run(p.achat(ask))
        threads = [threading.Thread(target=work) for _ in range(2)]
        [t.start() for t in threads]
        p.chat(ask)
        [t.join() for t in threads]
        """,
    "ten threads": """
        from concurrent.futures import ThreadPoolExecutor
        def work(number):
            if number % 3 == 0:
                return asyncio.run(p.achat(ask)).content
            return p.chat(ask).content if number % 3 == 1 else "".join(c.content for c in p.stream(ask))
        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(work, range(20))) == [text] * 20
        """,
    "a process that was spawned": """
        import multiprocessing, operator
        p.chat(ask)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            call = operator.methodcaller("chat", ask)
            assert pool.apply(call, (p,)).content == text
            pool.close()
            pool.join()
        """,
    "inside a running loop, as Jupyter has one": """
        async def cell():
            assert p.chat(ask).content == text
            assert "".join(c.content for c in p.stream(ask)) == text
            assert (await p.achat(ask)).content == text
        loop = asyncio.new_event_loop()
        loop.run_until_complete(cell())
        loop.run_until_complete(cell())
        loop.run_until_complete(p.aclose())
        loop.close()
        """,
    "a task group whose sibling fails": """
        class Sibling(Exception):
            pass
        async def stream(begun):
            async for chunk in p.stream_chat(stall):
                begun.set()
        async def main():
            begun = asyncio.Event()
            async def fail():
                await begun.wait()
                raise Sibling
            if sys.version_info < (3, 11):
                import anyio
                try:
                    async with anyio.create_task_group() as group:
                        group.start_soon(p.achat, stall)
                        group.start_soon(stream, begun)
                        group.start_soon(fail)
                except BaseException as error:
                    assert [type(e) for e in getattr(error, "exceptions", [error])] == [Sibling], error
            else:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(p.achat(stall))
                        group.create_task(stream(begun))
                        group.create_task(fail())
                except BaseException as error:
                    assert [type(e) for e in error.exceptions] == [Sibling], error
            assert (p.stats().running, p.stats().generations_cancelled) == (0, 2)
            assert (await p.achat(ask)).content == text
        asyncio.run(main())
        """,
    "a task that is cancelled": """
        async def main():
            begun = asyncio.Event()
            async def stream():
                async for chunk in p.stream_chat(stall):
                    begun.set()
            task = asyncio.create_task(stream())
            await begun.wait()
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert p.stats().running == 0
            else:
                raise AssertionError
        asyncio.run(main())
        """,
    "Ctrl-C in an event loop": """
        import signal
        async def main():
            async for chunk in p.stream_chat(stall):
                signal.raise_signal(signal.SIGINT)
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            assert p.stats().running == 0
        else:
            raise AssertionError
        """,
    "dropped with everything open": """
        async def main():
            stream = p.stream_chat(stall)
            await anext(stream)
            return stream
        def use(p):
            next(iter(p.stream(stall)))
        use(p)
        kept = asyncio.run(main())
        del p
        gc.collect()
        """,
}
if sys.version_info >= (3, 11):
    USES["asyncio.timeout"] = """
        async def main():
            seen = []
            try:
                async with asyncio.timeout(0.05):
                    await p.achat(stall)
            except LLMError:
                raise AssertionError
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(None) as limit:
                    async for chunk in p.stream_chat(stall):
                        seen.append(chunk.content)
                        if len(seen) == 2:
                            limit.reschedule(asyncio.get_running_loop().time())
            except LLMError:
                raise AssertionError
            except TimeoutError:
                pass
            assert "".join(seen) == "one two"
            assert p.stats().running == 0
            async with asyncio.timeout(60):
                assert (await p.achat(ask)).content == text
        asyncio.run(main())
        """
if hasattr(os, "fork"):
    USES["a fork"] = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        assert p.chat(ask).content == text
        pid = os.fork()
        assert p.chat(ask).content == text
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        else:
            os._exit(0)
        """
    # Once wrong: a child waited forever for the parent's event loop to close a client.
    USES["closed after a fork"] = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        assert p.chat(ask).content == text
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            assert p.chat(ask).content == text
        else:
            assert p.chat(ask).content == text
            p.close()
            asyncio.run(p.aclose())
            os._exit(0)
        """
    # Once wrong: the slots of the parent's requests stayed taken in a child.
    USES["a fork while all slots are taken"] = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        full = OllamaProvider("llama3.2", transport=sys.argv[1], max_concurrent=1)
        stream = iter(full.stream(ask))
        next(stream)
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            assert len(list(stream)) > 0
            full.close()
        else:
            assert full.stats().running == 0
            assert full.chat(ask).content == text
            os._exit(0)
        """
    # The parent's connections that a child drops stay open, on a closed loop and on a running one.
    USES["dropped after a fork"] = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        other = OllamaProvider("llama3.2", transport=sys.argv[1])
        loop = asyncio.new_event_loop()
        loop.run_until_complete(other.achat(ask))
        stream = p.stream(ask)
        first = next(stream).content
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            assert first + "".join(chunk.content for chunk in stream) == text
            assert loop.run_until_complete(other.achat(ask)).content == text
            loop.run_until_complete(other.aclose())
            loop.close()
        else:
            del stream, p, other
            gc.collect()
            os._exit(0)
        """
    USES["an iterator that began before a fork"] = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about forks beside threads
        with p.sync.pull_model("held") as progress:
            next(progress)
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
            else:
                try:
                    next(progress)
                except RuntimeError as error:
                    assert "fork" in str(error)
                    progress.close()
                    assert p.sync.version()
                    os._exit(0)
                os._exit(1)
        """


OVER_HTTPX = {
    "two event loops, one after the other", "a task group whose sibling fails", "asyncio.timeout",
    "dropped with everything open",
}  # fmt: skip
"""Where the transport makes a difference; an interpreter takes a second to start."""


@pytest.mark.parametrize(
    ("use", "transport"), [(use, "aiohttp") for use in USES] + [(use, "httpx") for use in USES if use in OVER_HTTPX]
)
def test_use(use: str, transport: str, ollama_server: OllamaServer) -> None:
    run(ollama_server, USES[use], transport)
    ollama_server.wait_for(lambda s: s.open_connections == 0)


ENDS = [
    "p.chat(ask)",
    "next(iter(p.stream(stall)))",
    "it = iter(p.stream(stall)); next(it)",
    "next(p.sync.pull_model('held'))",
    "it = p.sync.pull_model('held'); next(it)",
    "it = p.sync.pull_model('held'); next(it); import atexit; atexit.register(it.close)",
    "asyncio.run(p.achat(ask))",
    "async def main():\n    s = p.stream_chat(stall)\n    await anext(s)\nasyncio.run(main())",
    "async def main():\n    global s\n    s = p.stream_chat(stall)\n    await anext(s)\nasyncio.run(main())",
    "async def main():\n    async for c in p.stream_chat(ask):\n        break\nasyncio.run(main())",
    "async def main():\n    t = asyncio.create_task(p.achat(stall))\n    await p.version()\nasyncio.run(main())",
    # Loops closed by the program, with and without an open stream.
    "loop = asyncio.new_event_loop()\nloop.run_until_complete(p.achat(ask))\nloop.close()",
    "loop = asyncio.new_event_loop()\ns = p.stream_chat(stall)\nloop.run_until_complete(s.__anext__())\nloop.close()",
    "loop = asyncio.new_event_loop()\nloop.run_until_complete(p.achat(ask))\np.close()\nloop.close()",
    # After the main thread has ended; not for the first call, since Python 3.12 starts no threads by then.
    "p.chat(ask)\nthreading.Thread(target=lambda: p.chat(ask)).start()",
]


@pytest.mark.parametrize(
    ("code", "transport"), [(code, "aiohttp") for code in ENDS] + [(ENDS[i], "httpx") for i in (1, 4, 8, 11, 13)]
)
def test_the_interpreter_ends_quietly(code: str, transport: str, ollama_server: OllamaServer) -> None:
    """With connections and streams open: no hang, no warning, no destroyed task."""
    run(ollama_server, code, transport)
