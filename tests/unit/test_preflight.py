"""Whether server and model are ready, and what to do if not."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama.errors import LLMConnectionError, LLMError, ModelNotFoundError, ServerError
from namel3ss_ollama.preflight import Preflight, Problem, check

ABLE = {"capabilities": ["completion", "tools"]}


async def preflight(version: Any = "0.9.3", show: Any = ABLE, capabilities: Any = ("completion",)) -> Preflight:
    async def answer(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return await check(
        url="http://here:1",
        model="m",
        capabilities=capabilities,
        version=lambda: answer(version),
        show=lambda: answer(show),
    )


async def test_a_ready_model() -> None:
    found = await preflight()
    assert found.ok
    assert found
    assert found == Preflight((), "0.9.3", "m", frozenset({"completion", "tools"}))
    assert str(found) == "m is ready (Ollama 0.9.3)"


@pytest.mark.parametrize("capabilities", [["tools", "completion"], [], iter(["tools"])])
async def test_available_capabilities_pass(capabilities: Any) -> None:
    assert await preflight(capabilities=capabilities)


async def test_without_a_server_nothing_else_is_checked() -> None:
    error = LLMConnectionError("refused")
    found = await preflight(version=error, show=AssertionError("must not be called"))
    assert not found
    assert found == Preflight(found.problems, None, "m", frozenset())
    (problem,) = found.problems
    assert problem.error is error
    assert str(found) == (
        "no server answers at http://here:1: start it with `ollama serve`, "
        "or set base_url (or OLLAMA_HOST) to where it runs"
    )


async def test_a_missing_model_can_be_pulled() -> None:
    error = ModelNotFoundError("not found")
    found = await preflight(show=error)
    assert (found.ok, found.version, found.capabilities) == (False, "0.9.3", frozenset())
    assert found.problems == (Problem("the server does not have m", "`ollama pull m`", error),)


async def test_an_error_of_show_is_reported() -> None:
    error: LLMError = ServerError("broken")
    found = await preflight(show=error)
    assert str(found) == "the server cannot show m: broken"
    assert found.problems[0].error is error


async def test_every_missing_capability_is_a_problem() -> None:
    found = await preflight(capabilities=["vision", "tools", "embedding"])
    assert [problem.what for problem in found.problems] == ["m cannot do 'embedding'", "m cannot do 'vision'"]
    assert "this one has completion, tools (`ollama show m`)" in str(found)
    assert len(str(found).splitlines()) == 2
    assert found.capabilities == {"completion", "tools"}


@pytest.mark.parametrize("show", [{}, {"capabilities": None}, {"capabilities": []}])
async def test_an_old_server_without_capabilities_passes(show: Any) -> None:
    found = await preflight(show=show, capabilities=["vision"])
    assert found
    assert found.capabilities == frozenset()


@pytest.mark.parametrize("where", ["version", "show"])
async def test_other_exceptions_are_raised(where: str) -> None:
    with pytest.raises(ZeroDivisionError):
        await preflight(**{where: ZeroDivisionError()})


async def test_one_capability_is_a_list_of_one() -> None:
    # Once wrong: the text is taken for its letters, and the model "cannot do 'l'"
    assert await preflight(capabilities="tools")
