"""Counting the tokens of a prompt before it is sent: by an instant estimate, or by asking the server."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import Self

from namel3ss_ollama.asking import Asking
from namel3ss_ollama.errors import ContextWindowExceededError
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.messages import MessageLike, encode_messages
from namel3ss_ollama.prepare import chat_request, checked_model, generate_request
from namel3ss_ollama.tokens import Estimate, measure_text
from namel3ss_ollama.tools import tool_definition

__all__ = ["TokenCount", "TokenCounting"]


class TokenCount(int):
    """A number of tokens, and how accurate it is.

    Attributes:
        exact: Whether a server counted them; otherwise it is an estimate.
        margin: The error of an estimate in nearly all cases, in tokens; 0 for an exact number.
    """

    exact: bool
    margin: int

    def __new__(cls, tokens: int, *, exact: bool, margin: int = 0) -> Self:  # noqa: D102 -- the class says it
        count = super().__new__(cls, tokens)
        count.exact = exact
        count.margin = margin
        return count

    def __repr__(self) -> str:
        return f"TokenCount({int(self)}, {'exact' if self.exact else f'give or take {self.margin}'})"


class TokenCounting(Asking):
    """The token counting methods of a provider; construct an `OllamaProvider` to use them."""

    _runner: Runner

    def count_tokens(
        self,
        prompt: str | Iterable[MessageLike],
        tools: Sequence[Any] | None = None,
        *,
        model: str | None = None,
    ) -> TokenCount:
        """How many tokens a text has, or a conversation with its tools. Nothing is sent.

        An estimate from its characters, calibrated for each model by the counts in its answers, so it improves with
        use; exact for a conversation that the model has answered. For messages it includes what the model's template
        adds.

        Args:
            prompt: A text, or messages.
            tools: The tools sent with the conversation.
            model: The model; the provider's by default.

        Raises:
            TypeError, ValueError: A message or tool is malformed.
        """
        name = self._defaults.model if model is None else checked_model(model)
        if isinstance(prompt, str):
            if tools:
                raise TypeError("tools: need a conversation; give messages")
            return _counted(self._server.context_guard.estimate(name, measure_text(prompt)))
        body: dict[str, Any] = {"model": name, "messages": encode_messages(prompt)}
        if tools:
            body["tools"] = [tool_definition(tool) for tool in tools]
        think = self._defaults.options.get("think")
        if think is not None:
            body["think"] = think
        expected = self._server.context_guard.expect(body)
        return _counted(expected.tokens, exact=expected.known)

    async def acount_tokens(
        self,
        prompt: str | Iterable[MessageLike],
        tools: Sequence[Any] | None = None,
        *,
        model: str | None = None,
    ) -> TokenCount:
        """As `count_tokens`, but exact: the server evaluates the prompt and generates one token.

        That costs the time of prompt evaluation, most of which is saved when the same prompt is sent next, because the
        server caches it. A prompt that does not fit the context window is estimated.

        Args:
            prompt: A text (counted without the model's template), or messages.
            tools: The tools sent with the conversation.
            model: The model; the provider's by default.

        Raises:
            LLMError: The server failed.
        """
        if not isinstance(prompt, str):
            prompt = list(prompt)
        call: Mapping[str, Any] = {"model": model, "max_tokens": 1, "format": None, "on_truncation": "error"}
        if isinstance(prompt, str):
            if tools:
                raise TypeError("tools: need a conversation; give messages")
            request = generate_request(self._defaults, prompt, {**call, "raw": True})
        else:
            request = chat_request(self._defaults, prompt, {**call, "tools": tools} if tools else call)
        try:
            response = await self._runner.complete(request)
        except ContextWindowExceededError as error:
            if error.partial is None or error.partial.truncated_prompt:
                return self.count_tokens(prompt, tools, model=model)
            response = error.partial  # the window was shifted for the one token
        return TokenCount(response.usage["prompt_tokens"], exact=True)


def _counted(estimate: Estimate, *, exact: bool = False) -> TokenCount:
    if exact:
        return TokenCount(round(estimate.tokens), exact=True)
    return TokenCount(round(estimate.tokens), exact=False, margin=math.ceil(estimate.most - estimate.tokens))
