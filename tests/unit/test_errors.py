"""The attributes of errors, and that pickling keeps them."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from namel3ss_ollama import errors
from namel3ss_ollama.errors import (
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    OutputValidationError,
    ToolCallParseError,
)
from namel3ss_ollama.streamer import LineTooLongError
from namel3ss_ollama.types import LLMResponse, Usage

CLASSES = [getattr(errors, name) for name in errors.__all__] + [LineTooLongError]
PARTIAL = LLMResponse("half an ans", "m", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3), None, {"a": 1})


def attributes(error: LLMError) -> dict[str, object]:
    return {k: v for k, v in vars(error).items() if k != "original_error"}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_an_llm_error_with_the_same_parameters(cls: type[LLMError]) -> None:
    cause = OSError("underneath")
    error = cls("what happened", "ollama", 500, cause)
    assert isinstance(error, LLMError)
    assert (error.message, str(error)) == ("what happened", "what happened")
    assert (error.provider, error.status_code, error.original_error) == ("ollama", 500, cause)
    assert error.__cause__ is cause
    assert list(inspect.signature(cls).parameters)[:4] == ["message", "provider", "status_code", "original_error"]


def test_connection_and_timeout_errors_are_builtin_ones_too() -> None:
    assert isinstance(LLMConnectionError("x"), ConnectionError)
    assert isinstance(LLMTimeoutError("x"), TimeoutError)


@pytest.mark.parametrize("cls", CLASSES)
def test_attributes_are_none_by_default(cls: type[LLMError]) -> None:
    error = cls("what happened")
    assert (error.provider, error.status_code, error.original_error, error.partial, error.retry_after) == (
        "ollama", None, None, None, None,
    )  # fmt: skip
    assert error.__cause__ is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", CLASSES)
def test_a_pickled_error_keeps_all_but_the_original_error(cls: type[LLMError], protocol: int) -> None:
    # A generator cannot be pickled, like many exceptions of HTTP libraries.
    error = cls("what happened", "ollama", 503, RuntimeError(x for x in ()))
    error.partial, error.retry_after, error.temporary = PARTIAL, 2.5, True
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert (str(again), again.args) == (str(error), error.args)
    assert attributes(again) == attributes(error)
    assert again.original_error is None


@pytest.mark.parametrize(
    "error",
    [
        LLMTimeoutError("late", deadline="chunk_timeout", seconds=1.5, partial=PARTIAL),
        OutputValidationError("no", text="{", response=PARTIAL),
        ToolCallParseError("no", text="{", partial=PARTIAL),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_attributes_of_one_class_are_kept_too(error: LLMError, again: object) -> None:
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert attributes(other) == attributes(error)


def test_an_unpickled_error_can_be_raised_and_caught() -> None:
    with pytest.raises(TimeoutError, match=r"^late$"):
        raise pickle.loads(pickle.dumps(LLMTimeoutError("late")))


@pytest.mark.parametrize(
    ("name", "temporary"),
    [
        ("LLMError", False),
        ("AuthenticationError", False),
        ("BadRequestError", False),
        ("ContextWindowExceededError", False),
        ("LLMConnectionError", True),
        ("LLMTimeoutError", False),
        ("MalformedResponseError", False),
        ("ModelNotFoundError", False),
        ("OutputValidationError", False),
        ("QueueFullError", False),
        ("QuotaExceededError", False),
        ("ServerBusyError", True),
        ("ServerError", False),
        ("StreamInterruptedError", False),
        ("ToolCallParseError", True),
    ],
)
def test_which_errors_are_temporary(name: str, temporary: bool) -> None:
    assert getattr(errors, name)("x").temporary is temporary


@pytest.mark.parametrize("temporary", [True, False])
def test_temporary_can_be_set(temporary: bool) -> None:
    assert errors.ServerError("x", temporary=temporary).temporary is temporary
    assert errors.ServerBusyError("x", temporary=temporary).temporary is temporary
    assert errors.ServerBusyError.temporary is True


@pytest.mark.parametrize(
    ("deadline", "temporary"),
    [("connect", True), ("first_chunk_timeout", False), ("chunk_timeout", False), ("timeout", False)],
)
def test_only_a_connect_timeout_is_temporary(deadline: str, temporary: bool) -> None:
    error = LLMTimeoutError("late", deadline=deadline, seconds=3)
    assert (error.deadline, error.seconds, error.temporary) == (deadline, 3, temporary)


def test_a_validation_error_has_text_response_and_partial() -> None:
    error = OutputValidationError("no", text="{", response=PARTIAL)
    assert (error.text, error.response, error.partial) == ("{", PARTIAL, PARTIAL)


def test_no_error_shows_the_answer_it_carries() -> None:
    error = OutputValidationError("no", text="private", response=PARTIAL)
    assert "private" not in repr(error) + str(error)
    assert "half" not in repr(error) + str(error)
    assert "private" not in repr(ToolCallParseError("no", text="private"))
