"""Enforcing a format or a forced call where a server or model ignores the field for it.

The prompt then describes the schema or the tools, the answer is validated, and the model is shown its mistake once.
That costs one more answer, so the result is remembered for the model (`fitting.py`).
"""

from __future__ import annotations

from namel3ss_ollama.errors import OutputValidationError
from namel3ss_ollama.fitting import Fitting
from namel3ss_ollama.formats import check_json, fault_of, held_to, parsed, take_from_thinking
from namel3ss_ollama.reasoning import json_in
from namel3ss_ollama.request import Request
from namel3ss_ollama.types import LLMResponse

__all__ = ["asking_again", "read", "shows_no_format", "suited"]


def suited(request: Request, fitting: Fitting) -> Request:
    """The request in the form that its model is known to follow."""
    if "format" in request.body and fitting.asks_in_prompt(request.model, forced=bool(request.forced)):
        return request.in_prompt() or request
    return request


def asking_again(
    request: Request, error: OutputValidationError, fitting: Fitting, *, delivered: bool = False
) -> Request:
    """The request to send after an answer that does not have the requested form.

    Args:
        request: The request that was answered.
        error: What is wrong with the answer.
        fitting: What is known of models.
        delivered: Whether part of the answer was handed out, so that nothing may be sent again.

    Raises:
        OutputValidationError: `error`, with a list of what was tried, if nothing is left to try.
    """
    response, forced = error.response, bool(request.forced)
    if response is None or response.finish_reason == "length":
        raise _after(error, request)
    if request.asked == "by field":
        known = fitting.asks_in_prompt(request.model, forced=forced)
        if not (forced or known) and held_to(request.body["format"], response):
            raise error  # a constraint that no grammar expresses
        fitting.ask_in_prompt(request.model, forced=forced)
        again = request.in_prompt()
    else:
        again = request.repairing(error.text, fault_of(error))
    if again is None or delivered:
        raise _after(error, request, delivered=delivered)
    return again


def shows_no_format(request: Request, response: LLMResponse, fitting: Fitting) -> bool:
    """Whether an answer, valid as far as it is checked, shows that the format was not enforced."""
    if request.asked != "by field" or request.schema is None or response.finish_reason in ("load", "tool_calls"):
        return False
    if held_to(request.body["format"], response):
        return False
    fitting.ask_in_prompt(request.model, forced=False)
    return True


def read(request: Request, response: LLMResponse, fitting: Fitting) -> None:
    """Validate an answer in a format."""
    taken = take_from_thinking(response)
    if request.asked != "by field":
        response.content = json_in(response.content)
    elif taken:
        fitting.ask_in_prompt(request.model, forced=False)
    if request.parse_as is not None:
        response.parsed = parsed(request.parse_as, response)
    else:
        check_json(response)


def _after(error: OutputValidationError, request: Request, *, delivered: bool = False) -> OutputValidationError:
    """The error, extended by what was tried."""
    what = "tools" if request.forced else "schema"
    described = f"{what} {'were' if request.forced else 'was'} described in the prompt"
    by_field = f"`format` is not enforced for {request.model} on this server"
    said = [error.message]
    if request.asked == "again":
        said.append(f"{by_field}, so the {described}, and then the model was shown its mistake")
    elif request.asked == "in the prompt":
        said.append(f"{by_field}, so the {described}")
    elif delivered:
        said.append(f"{by_field}; the next call describes the {what} in the prompt")
    elif request.body.get("raw"):
        said.append(f"{by_field}, and a raw prompt is not changed: describe the schema in it")
    if delivered:
        said.append("nothing was asked again, because the answer had been handed out already")
    if len(said) > 1:
        error.tried = "; ".join(said[1:])
        error.args = ("; ".join(said),)
    return error
