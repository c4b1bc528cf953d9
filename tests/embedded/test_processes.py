"""What the engine leaves behind in a process, and how it handles forks and exits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ANSWER = "The capital of France is Paris."
HEAD = """
import asyncio, logging, os, sys, threading
logging.getLogger("asyncio").setLevel("ERROR")  # in -X dev it reports slow callbacks
from namel3ss_ollama import OllamaProvider
QUESTION = "What is the capital of France?"
def make():
    return OllamaProvider("smollm2:135m", "embedded://", temperature=0)
async def ask(provider):
    return (await provider.agenerate(QUESTION)).content
"""
embedded = [pytest.mark.embedded, pytest.mark.usefixtures("weights")]
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc here")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


def run(code: str, *options: str) -> str:
    """The output of a new interpreter; any output on standard error fails the test."""
    options = options or ("-X", "dev")
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.strip()


def test_the_core_imports_nothing_of_the_engine() -> None:
    code = """
import sys, namel3ss_ollama
from namel3ss_ollama import OllamaProvider
OllamaProvider("m", "http://127.0.0.1:1")
engine = {"xllamacpp", "llguidance", "jinja2", "platformdirs", "namel3ss_ollama.embedded"}
print(sorted(engine & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_a_provider_on_the_engine_imports_the_binding_only_when_a_model_is_loaded() -> None:
    code = f"""{HEAD}
async def look():
    async with OllamaProvider("none", "embedded://") as provider:
        await provider.version()
asyncio.run(look())
print(sorted({{"xllamacpp", "llguidance", "aiohttp"}} & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_without_the_extra_the_provider_names_what_is_missing() -> None:
    code = f"""{HEAD}
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "xllamacpp" else find(name, *more)
try:
    make()
except ModuleNotFoundError as error:
    print(error)
"""
    assert "pip install 'namel3ss-ollama[embedded]'" in run(code)


class TestWithTheModel:
    """Each in a separate interpreter, with the small real model."""

    pytestmark = embedded

    def test_under_gevent(self) -> None:
        code = f"""
import gevent.monkey; gevent.monkey.patch_all()
import gevent
{HEAD}
provider = make()
greenlets = [gevent.spawn(provider.generate, QUESTION, max_tokens=16) for _ in range(3)]
print({{greenlet.get().content for greenlet in greenlets}})
stream = provider.stream(QUESTION)
try:
    with gevent.Timeout(0.001):
        list(stream)
except gevent.Timeout:
    stream.close()
provider.close()
"""
        assert run(code) == str({ANSWER})

    @linux
    def test_closing_leaves_nothing_and_memory_stays_small(self) -> None:
        code = f"""{HEAD}
import time
from pathlib import Path
def children_of(task):
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
        return []
def state():
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in children_of(task)]
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), children
async def chat():
    async with make() as provider:
        await provider.version()
        before = state()
        print(await ask(provider))
    return before
before = asyncio.run(chat())
for _ in range(1000):  # the system takes some time to remove a thread that has ended
    tasks, descriptors, children = state()
    if tasks <= 2:
        break
    time.sleep(0.01)
print(threading.active_count(), tasks - 1, descriptors - before[1], children)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)  # getrusage includes the process that started this one
"""
        answer, left, memory = run(code, "-W", "error").splitlines()
        assert answer == ANSWER
        threads, tasks, descriptors, children = left.split(maxsplit=3)
        assert (threads, children) == ("1", "[]")
        assert int(tasks) <= 1  # llama.cpp keeps a native thread for its log
        assert int(descriptors) <= 0
        assert int(memory) < 700  # MiB

    def test_the_interpreter_ends_with_a_stream_open(self) -> None:
        code = f"""{HEAD}
provider = make()
for chunk in provider.stream("Count to ten thousand."):
    print("begun")
    break
kept = provider.stream("Count to ten thousand.")
next(iter(kept))
"""
        assert run(code) == "begun"

    def test_the_interpreter_ends_while_a_loop_runs(self) -> None:
        code = f"""{HEAD}
async def main():
    stream = make().stream_generate("Count to ten thousand.")
    async for chunk in stream:
        print("begun")
        sys.exit()
asyncio.run(main())
"""
        assert run(code) == "begun"

    @forks
    def test_a_child_has_its_own_engine(self) -> None:
        code = f"""{HEAD}
provider = make()
print(provider.generate(QUESTION).content)
sys.stdout.flush()
child = os.fork()
if not child:
    print(asyncio.run(ask(make())))
    print(provider.generate(QUESTION).content)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), provider.generate(QUESTION).content)
provider.close()
"""
        printed = run(code, *FORKING)
        assert printed.splitlines() == [ANSWER, ANSWER, ANSWER, f"3 {ANSWER}"]

    @forks
    def test_a_child_of_a_process_that_computes_gets_an_error(self) -> None:
        code = f"""{HEAD}
provider = make()
stream = provider.stream("Count to ten thousand.")
next(iter(stream))
child = os.fork()
if not child:
    try:
        make().generate(QUESTION)
    except Exception as error:
        print(error, flush=True)
    os._exit(3)  # as multiprocessing does
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stream.close()
print(provider.generate(QUESTION).content)
provider.close()
"""
        error, status, answer = run(code, *FORKING).splitlines()
        assert "this process was forked while a model computed" in error
        assert (status, answer) == ("3", ANSWER)


FORKING = ("-W", "ignore::DeprecationWarning")
"""Newer Pythons warn about forks in processes with threads."""
