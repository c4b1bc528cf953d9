"""`make wheels`: installs each wheel of `dist/` into a clean environment, with each extra, and runs a first program.

The programs use a test server that runs here, in the environment of the tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from namel3ss_ollama import __version__
from namel3ss_ollama.testing import OllamaServer

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
FIRST = """
from namel3ss_ollama import OllamaProvider

with OllamaProvider("llama3.2") as provider:
    print(provider.generate("Why is the sky blue?", max_tokens=100).content)
"""
PROGRAMS = {
    "core": FIRST,
    "cli": """
import subprocess, sys
from pathlib import Path

command = Path(sys.executable).with_name("namel3ss-ollama")
print(subprocess.run([command, "doctor", "-m", "llama3.2"], check=True, capture_output=True, text=True).stdout)
""",
    "embedded": """
from namel3ss_ollama import OllamaProvider

print(OllamaProvider("smollm2:135m", base_url="embedded://"))
""",
    "telemetry": f"import opentelemetry.trace\n{FIRST}",
    "testing": """
from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer

with OllamaServer() as server, OllamaProvider("llama3.2", server.url) as provider:
    print(provider.generate("Why is the sky blue?").content)
""",
    "langchain": """
from langchain_namel3ss_ollama import ChatOllama

print(ChatOllama(model="llama3.2").invoke("Why is the sky blue?").text)
""",
    "llama-index": """
from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama

print(Ollama(model="llama3.2").complete("Why is the sky blue?").text)
print(len(OllamaEmbedding(model_name="all-minilm").get_text_embedding("a cat")))
""",
    "ray": "from ray_namel3ss_ollama import ask, embed\n\nprint(ask, embed)",
}
"""A first program for the core and for each of its extras; each has to print something."""
WHEELS = {"langchain": "langchain_namel3ss_ollama", "llama-index": "llama_index_llms_namel3ss_ollama",
          "ray": "ray_namel3ss_ollama"}  # fmt: skip
"""The wheels of the extras that are separate packages."""


def wheel(name: str) -> str:
    """The path of a wheel of this version."""
    return str(DIST / f"{name}-{__version__}-py3-none-any.whl")


def try_out(extra: str, url: str) -> None:
    """Install the core with an extra into a new environment, and run its program there."""
    core = wheel("namel3ss_ollama") + ("" if extra == "core" else f"[{extra}]")
    wheels = [core, *([wheel(WHEELS[extra])] if extra in WHEELS else [])]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "env" / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *wheels], check=True)
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", folder), "OLLAMA_BASE_URL": url}
        program = [python, "-I", "-W", "error::ResourceWarning", "-c", PROGRAMS[extra]]
        done = subprocess.run(program, cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        sys.exit(f"{extra}: the first program failed\n{done.stdout}{done.stderr}")
    print(f"{extra}: {done.stdout.strip().splitlines()[-1][:80]}", flush=True)


def main() -> None:
    """Try the extras in the arguments; all of them by default."""
    parser = argparse.ArgumentParser(prog="wheels", description=__doc__)
    parser.add_argument("extras", nargs="*", help=f"which of {', '.join(PROGRAMS)}; all by default")
    extras = parser.parse_args().extras or [*PROGRAMS]
    if unknown := set(extras) - PROGRAMS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    with OllamaServer() as server:
        for extra in extras:
            try_out(extra, server.url)


if __name__ == "__main__":
    main()
