"""Check that server, model and capabilities are available, before anything depends on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.diagnosis import pull_command
from namel3ss_ollama.errors import LLMError, ModelNotFoundError

__all__ = ["Preflight", "Problem", "check", "merged"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem found by the check.

    Attributes:
        what: What is wrong.
        remedy: The command or the change that fixes it.
        error: The failure that revealed it, if any.
    """

    what: str
    remedy: str
    error: LLMError | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Preflight:
    """The result of the check.

    Attributes:
        problems: The problems; empty if there are none.
        version: The server's version; None if it did not answer. With several hosts, that of the first that did.
        model: The model that was checked.
        capabilities: The model's capabilities; empty if it is missing, or the server is too old to report them.
            With several hosts, the capabilities that it has on every host with the model.
    """

    problems: tuple[Problem, ...]
    version: str | None
    model: str
    capabilities: frozenset[str]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems)) or f"{self.model} is ready (Ollama {self.version})"


async def check(
    *,
    url: str,
    model: str,
    capabilities: Iterable[str],
    version: Callable[[], Awaitable[str]],
    show: Callable[[], Awaitable[dict[str, Any]]],
) -> Preflight:
    """Check server, model and capabilities, in this order, as far as each step allows the next."""
    try:
        found = await version()
    except LLMError as error:
        remedy = "start it with `ollama serve`, or set base_url (or OLLAMA_HOST) to where it runs"
        return Preflight((Problem(f"no server answers at {url}", remedy, error),), None, model, frozenset())
    try:
        shown = await show()
    except ModelNotFoundError as error:
        problem = Problem(f"the server does not have {model}", f"`{pull_command(url, model)}`", error)
        return Preflight((problem,), found, model, frozenset())
    except LLMError as error:
        problem = Problem(f"the server cannot show {model}", str(error), error)
        return Preflight((problem,), found, model, frozenset())
    wanted = {capabilities} if isinstance(capabilities, str) else set(capabilities)
    able = frozenset(map(str, shown.get("capabilities") or ()))
    missing = sorted(wanted - able) if able else []
    problems = tuple(
        Problem(
            f"{model} cannot do {name!r}",
            f"choose a model that can; this one has {', '.join(sorted(able))} (`ollama show {model}`)",
        )
        for name in missing
    )
    return Preflight(problems, found, model, able)


def merged(found: Mapping[str, Preflight], model: str, differences: Iterable[Problem]) -> Preflight:
    """The combined result of several hosts; each problem names its host.

    Args:
        found: The result of each host, by address.
        model: The model that was checked.
        differences: Descriptions of how the model differs between them.
    """
    problems = [_of_host(url, problem, model) for url, one in found.items() for problem in one.problems]
    version = next((one.version for one in found.values() if one.version is not None), None)
    able = [one.capabilities for one in found.values() if one.capabilities]
    return Preflight((*problems, *differences), version, model, frozenset.intersection(*able) if able else frozenset())


def _of_host(url: str, problem: Problem, model: str) -> Problem:
    if isinstance(problem.error, ModelNotFoundError) and url != EMBEDDED_URL:
        problem = replace(problem, remedy=f"`OLLAMA_HOST={url} {pull_command(url, model)}`")
    return problem if url in problem.what else replace(problem, what=f"{url}: {problem.what}")
