"""`OllamaDecisions`: typed questions to a decision model. Its base class is new in langchain-core 1.8."""

from __future__ import annotations

from typing import Any

from langchain_core.decisions import BaseDecisionModel, ClassifierResponse
from langchain_core.decisions.types import Question, State
from pydantic import model_validator
from typing_extensions import Self

from langchain_namel3ss_ollama.chunks import PROVIDER
from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.settings import OllamaSettings
from langchain_namel3ss_ollama.states import read_question, read_state
from namel3ss_ollama import ChoiceAnswer, LLMError, NoulAnswer, ScoreAnswer, SystemOneResponse, run_sync

__all__ = ["OllamaDecisions"]

_OF_A_CALL = ("extra_body", "keep_alive", "timeout")
"""Settings of the core's `systemone`."""


class OllamaDecisions(OllamaSettings, BaseDecisionModel):
    """A decision model on an Ollama server of 0.35.0 or newer: a `classifier` for LangChain's middleware.

    It takes the connection settings of `ChatOllama`, `keep_alive` and `extra_body`, but no runtime options: these
    models have none. Images in the state are sent along, for models with vision. A description that is not a string is
    sent as JSON.

    Example:
        ```python
        from langchain_core.decisions import Noul
        from langchain_namel3ss_ollama import OllamaDecisions

        decisions = OllamaDecisions(model="nimble")
        questions = {"urgent": Noul(instructions="Is it urgent?")}
        print(decisions.invoke({"state": "The server is down!", "questions": questions}).nouls["urgent"].noul)
        ```
    """

    @model_validator(mode="after")
    def _check_decisions(self) -> Self:
        wrong = [*self._runtime_options(), *(name for name in ("options", "on_truncation") if getattr(self, name))]
        if wrong:
            raise ValueError(f"{wrong[0]}: decision models take no runtime options; leave it out")
        if self.provider is not None and self.stream_config is not None:
            raise ValueError("stream_config: belongs to the provider that is given; set it there")
        return self

    @property
    def _provider(self) -> str:
        return PROVIDER

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The environment variable that a deserialised model reads its API key from."""
        return {"api_key": "OLLAMA_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: `langchain_core.load` can restore it."""
        return True

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        return run_sync(self._ask(state, questions, sync=True))

    async def _aclassify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        return await self._ask(state, questions, sync=False)

    async def _ask(self, state: State, questions: dict[str, Question], *, sync: bool) -> ClassifierResponse:
        """The answers to questions.

        Raises:
            TypeError, ValueError: Ollama does not support the state or a question; no request was sent.
            LLMError: The request failed; the class is one of LangChain's `ModelError` classes too.
        """
        content, images = read_state(state)
        asked = {name: read_question(name, question) for name, question in questions.items()}
        given = self._settings_of_call({}, None)
        settings = {name: given[name] for name in _OF_A_CALL if name in given}
        try:
            response = await self._provider_for(sync=sync).systemone(
                content, asked, images=images or None, model=self.model, **settings
            )
        except LLMError as error:
            raise translated(error) from error
        return _response(response)


def _response(response: SystemOneResponse) -> ClassifierResponse:
    usage = {"input_tokens": response.usage.prompt_tokens, "output_tokens": response.usage.completion_tokens}
    answers = {name: _answer(answer) for name, answer in response.answers.items()}
    return ClassifierResponse.model_validate({"model": response.model, "answers": answers, "usage": usage})


def _answer(answer: ChoiceAnswer | NoulAnswer | ScoreAnswer) -> dict[str, Any]:
    if isinstance(answer, NoulAnswer):
        return {"type": "noul", "noul": answer.noul}
    known = {"probabilities": answer.probabilities, "confidence": answer.confidence}
    if isinstance(answer, ChoiceAnswer):
        return {"type": "choice", "choice": answer.choice, **known}
    return {"type": "score", "score": answer.score, "legend": answer.legend, **known}
