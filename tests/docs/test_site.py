"""The reference has every public name, option and error; the README is short. `make docs` checks links and anchors."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter

import pytest
from page_code import ROOT

from namel3ss_ollama import LLMError, OllamaProvider, RetryPolicy, StreamConfig, errors
from namel3ss_ollama.settings import BatchOptions, CallOptions, ChatOptions, EmbedOptions

REFERENCE = ROOT / "docs" / "reference"
NAMED = Counter(
    name for page in REFERENCE.glob("*.md") for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.M)
)
PACKAGES = (
    "namel3ss_ollama",
    "namel3ss_ollama.testing",
    "namel3ss_ollama.embedded",
    "langchain_namel3ss_ollama",
    "llama_index.llms.namel3ss_ollama",
    "llama_index.embeddings.namel3ss_ollama",
    "ray_namel3ss_ollama",
)
OPTIONS = (REFERENCE / "options.md").read_text("utf-8")


def rows_of(heading: str) -> list[str]:
    """The first cells of the table below a heading of options.md."""
    section = re.split(r"^## ", OPTIONS.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)


def public_names(package: str) -> list[str]:
    """`__all__`, from the source if the package cannot be imported here: Ray has a separate environment."""
    if package == "ray_namel3ss_ollama":
        source = (ROOT / "integrations" / "ray" / package / "__init__.py").read_text("utf-8")
        names = re.findall(r'"(\w+)"', source.partition("__all__ = ")[2])
    else:
        names = importlib.import_module(package).__all__
    more = ["OllamaDecisions"] if package == "langchain_namel3ss_ollama" else []  # not in `__all__`, but public
    return [name for name in [*names, *more] if name != "__version__"]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_on_one_page(package: str) -> None:
    names = public_names(package)
    assert names
    for name in names:
        assert NAMED[f"{package}.{name}"] == 1, name


def test_the_reference_names_nothing_else() -> None:
    assert set(NAMED) == {f"{package}.{name}" for package in PACKAGES for name in public_names(package)}


def test_the_constructor_is_in_the_table_of_options() -> None:
    parameters = [name for name in inspect.signature(OllamaProvider.__init__).parameters if name != "self"]
    assert rows_of("Connection and behaviour") == [name for name in parameters if name != "options"]


def test_every_option_of_a_request_is_in_a_table() -> None:
    everywhere = rows_of("Runtime options") + rows_of("Fields of a request")
    assert sorted(everywhere) == sorted(CallOptions.__annotations__)
    of_a_call = {*ChatOptions.__annotations__, *BatchOptions.__annotations__, *EmbedOptions.__annotations__}
    assert sorted(rows_of("Per call")) == sorted(of_a_call - set(everywhere))


def test_every_error_is_in_the_table_and_has_an_entry() -> None:
    page = (REFERENCE / "errors.md").read_text("utf-8")
    for name in errors.__all__:
        assert f"| `{name}` |" in page or name == LLMError.__name__
        assert f"::: namel3ss_ollama.{name}\n" in page


def test_the_deadlines_in_the_table_are_correct() -> None:
    config = StreamConfig()
    assert sorted(rows_of("StreamConfig")) == sorted(StreamConfig.__dataclass_fields__)
    for name in ("connect_timeout", "first_chunk_timeout", "chunk_timeout", "tool_call_timeout"):
        assert f"| `{name}` | {getattr(config, name):g} s |" in OPTIONS
    assert f"| `max_line_bytes` | {config.max_line_bytes >> 20} MiB |" in OPTIONS
    assert config.stream_timeout is config.max_chunks is None


def test_the_documented_retry_waits_are_correct() -> None:
    policy = RetryPolicy()
    longest = sum(policy.wait_initial * 2**n for n in range(policy.attempts - 1))
    sentence = f"{policy.attempts} attempts over {longest / 2:g} to {longest:g} s"
    assert sentence in OPTIONS
    assert sentence in (ROOT / "docs" / "how-to" / "limits-retries.md").read_text("utf-8").replace("\n", " ")


def test_the_readme_is_short_and_links_to_every_guide() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) < 200
    for guide in (ROOT / "docs" / "how-to").glob("*.md"):
        assert f"](docs/how-to/{guide.name})" in readme
