"""Insisting on a format or a forced call where a server or model takes no notice of the field that asks for it.

The schema or the tools are then described in the prompt, the answer is validated, and the model is shown its fault
once. That costs an answer more, so what was found out is remembered for the model (`fitting.py`).
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
    """The request as its model is known to understand it."""
    if "format" in request.body and fitting.asks_in_prompt(request.model, forced=bool(request.forced)):
        return request.in_prompt() or request
    return request


def asking_again(
    request: Request, error: OutputValidationError, fitting: Fitting, *, delivered: bool = False
) -> Request:
    """What to send after an answer that is not what was asked for.

    Args:
        request: What was asked for.
        error: What is wrong with the answer.
        fitting: What is known of models.
        delivered: Whether anything of the answer was handed out, so that nothing may be sent again.

    Raises:
        OutputValidationError: `error`, saying what was tried, where nothing is left to try.
    """
    response, forced = error.response, bool(request.forced)
    if response is None or response.finish_reason == "length":
        raise _after(error, request)
    if request.asked == "by field":
        known = fitting.asks_in_prompt(request.model, forced=forced)
        if not (forced or known) and held_to(request.body["format"], response):
            raise error  # of what a grammar cannot hold
        fitting.ask_in_prompt(request.model, forced=forced)
        again = request.in_prompt()
    else:
        again = request.repairing(error.text, fault_of(error))
    if again is None or delivered:
        raise _after(error, request, delivered=delivered)
    return again


def shows_no_format(request: Request, response: LLMResponse, fitting: Fitting) -> bool:
    """Whether an answer that is valid as far as it is checked shows that nothing held the model to the format."""
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
    """The error, saying also what was tried."""
    what = "tools" if request.forced else "schema"
    described = f"{what} {'were' if request.forced else 'was'} described in the prompt"
    by_field = f"`format` does not hold {request.model} to it on this server"
    said = [error.message]
    if request.asked == "again":
        said.append(f"{by_field}, so the {described}, and then the model was shown the fault")
    elif request.asked == "in the prompt":
        said.append(f"{by_field}, so the {described}")
    elif delivered:
        said.append(f"{by_field}; the next call describes the {what} in the prompt")
    elif request.body.get("raw"):
        said.append(f"{by_field}, and a raw prompt is not changed: describe the schema in it")
    if delivered:
        said.append("nothing was asked again, because the answer was handed out as it came")
    if len(said) > 1:
        error.tried = "; ".join(said[1:])
        error.args = ("; ".join(said),)
    return error
