"""What must hold for the repository as a whole, rather than for a module of it."""

from __future__ import annotations

import importlib
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from namel3ss_ollama._version import __version__

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECTS = [".", "integrations/langchain", "integrations/llama-index"]
OURS = ["namel3ss-ollama", "langchain-namel3ss-ollama", "llama-index-llms-namel3ss-ollama", "ray-namel3ss-ollama"]

# Put together from pieces, so that this file doesn't hold what it looks for.
FORBIDDEN = {
    "the address of a package index": re.compile(
        r"https?://[^\s/\"']*(?:"
        + "|".join(["pypi" + r"\.org", "python" + "hosted" + r"\.org"])
        + r")|https?://[^\s\"']*/"
        "simple" + r"\b|--(?:extra-)?index-" + r"url[ =]\S|--find-" + r"links[ =]\S"
    ),
    "somebody's home directory": re.compile(r"(?<![\w.~])/" + r"(?:root|home/[\w.-]+|Users/[\w.-]+)/"),
}


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_files_are_free_of_index_addresses_and_home_directories() -> None:
    found: list[str] = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # removed from the working tree, or not text
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match.group()}"
            for what, pattern in FORBIDDEN.items()
            for match in pattern.finditer(text)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "--index-" + "url http:" + "//mirror.example/simple",
        "--extra-index-" + "url=https://mirror.example/",
        "url = https://mirror.example/pypi/" + "simple/",
        "https://" + "pypi" + ".org/project/x",
        "https://files." + "python" + "hosted" + ".org/packages/x.whl",
        "cd /" + "root/project",
        "open('/" + "home/somebody/x')",
    ],
)
def test_the_patterns_recognise_what_they_are_for(line: str) -> None:
    assert any(pattern.search(line) for pattern in FORBIDDEN.values())


def test_the_packages_have_one_version() -> None:
    # The installed metadata, hence what each package's build computed.
    assert {name: version(name) for name in OURS} == dict.fromkeys(OURS, __version__)


def test_the_changelog_knows_the_version_or_has_an_unreleased_section() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in ("Unreleased", __version__)


def asked_for(project: str) -> list[str]:
    """What a package needs: its dependencies, those that its build hook adds to, and its extras."""
    config = tomllib.loads((ROOT / project / "pyproject.toml").read_text(encoding="utf-8"))
    hook = config["tool"]["hatch"].get("metadata", {}).get("hooks", {}).get("custom", {})
    extras = config["project"].get("optional-dependencies", {})
    return sum(extras.values(), config["project"].get("dependencies", []) + hook.get("dependencies", []))


def normal(lines: list[str]) -> set[tuple[str, str]]:
    requirements = [Requirement(line) for line in lines]
    return {(r.name.replace("_", "-"), str(r.specifier)) for r in requirements if r.name not in OURS}


@pytest.mark.parametrize("project", PROJECTS)
def test_development_requirements_repeat_what_the_packages_ask_for(project: str) -> None:
    lines = (ROOT / "requirements/dev.in").read_text(encoding="utf-8").splitlines()
    dev = normal([line for line in lines if line and not line.startswith("#")])
    assert normal(asked_for(project))
    assert normal(asked_for(project)) <= dev


def test_the_environment_for_ray_has_what_the_core_and_its_package_ask_for() -> None:
    lines = (ROOT / "requirements/ray.in").read_text(encoding="utf-8").splitlines()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*config["project"]["dependencies"], *asked_for("integrations/ray")]
    assert normal(asked) <= normal([line for line in lines if line and not line.startswith("#")])


def test_the_floors_are_what_the_adapters_and_the_core_ask_for() -> None:
    lines = (ROOT / "requirements/floors.in").read_text(encoding="utf-8").splitlines()
    floors = normal([line for line in lines if line and not line.startswith("#")])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for project in PROJECTS:
        asked = normal(asked_for(project))
        assert asked - normal(extras["cli"] + extras["embedded"]) <= floors


def test_contributing_lists_the_modules_of_the_core() -> None:
    listed = re.findall(
        r"^\| `([a-z_]+(?:\.py|/))` ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    core = ROOT / "namel3ss_ollama"
    there = {path.name for path in core.glob("*.py") if not path.name.startswith("_")}
    there |= {f"{path.parent.name}/" for path in core.glob("*/__init__.py")}
    assert sorted(listed) == sorted(there)


def test_internals_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+)\.([A-Z_]\w*(?:\.\w+)?)`", text)
    assert len(named) > 10
    for module, names in named:
        found: object = importlib.import_module(f"namel3ss_ollama.{module}")
        for name in names.split("."):
            found = getattr(found, name)
