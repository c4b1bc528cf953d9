"""`OllamaLLM`: text completion with /api/generate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import model_validator
from typing_extensions import Self

from langchain_namel3ss_ollama._version import __version__
from langchain_namel3ss_ollama.chunks import PROVIDER, ended_by_limit, metadata_of
from langchain_namel3ss_ollama.connection import has_several
from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.listeners import wants_tokens
from langchain_namel3ss_ollama.settings import (
    CALL_FIELDS,
    OPTION_FIELDS,
    OllamaSettings,
    normalised,
    reject_unknown,
)
from namel3ss_ollama import LLMError, LLMResponse, OllamaProvider, StreamChunk, run_sync

__all__ = ["OllamaLLM"]

_GENERATE = ("system", "template", "context", "raw", "images", "suffix", "logprobs", "top_logprobs")
_OF_A_CALL = OPTION_FIELDS | CALL_FIELDS | set(_GENERATE) | {
    "model", "model_name", "max_tokens", "options", "format", "reasoning", "think", "stream",
}  # fmt: skip


class OllamaLLM(OllamaSettings, BaseLLM):
    """A model on an Ollama server that continues a text; a drop-in for `langchain_ollama.OllamaLLM`.

    Example:
        ```python
        from langchain_namel3ss_ollama import OllamaLLM

        print(OllamaLLM(model="llama3.2").invoke("The sky is"))
        ```
    """

    reasoning: bool | str | None = None
    """As in `ChatOllama`; the reasoning is in `generation_info["thinking"]`."""

    format: str | dict[str, Any] = ""
    """"json", or a JSON schema that the answer must match."""

    @model_validator(mode="after")
    def _check_llm(self) -> Self:
        self._add_version("langchain-namel3ss-ollama", __version__)
        return self

    def _defaults_to_check(self) -> dict[str, Any]:
        checked = super()._defaults_to_check()
        if self.reasoning is not None:
            checked["think"] = self.reasoning
        if self.format:
            checked["format"] = self.format
        return checked

    @property
    def _llm_type(self) -> str:
        return "ollama-llm"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        identity = self._identity()
        if self.reasoning is not None:
            identity["reasoning"] = self.reasoning
        if self.format:
            identity["format"] = self.format
        return identity

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The environment variable that a deserialised model reads its API key from."""
        return {"api_key": "OLLAMA_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: `langchain_core.load` can restore it."""
        return True

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        given = normalised(kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = given.get("model") or self.model
        if (temperature := given.get("temperature", self.temperature)) is not None:
            params["ls_temperature"] = temperature
        if (limit := given.get("num_predict", self.num_predict)) is not None:
            params["ls_max_tokens"] = limit
        return params

    def _request(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether to pass on reasoning, and the settings of the call for the core."""
        reject_unknown(kwargs, _OF_A_CALL, type(self).__name__)
        given = normalised(kwargs)
        settings = self._settings_of_call(given, stop)
        settings["model"] = given.get("model") or self.model
        thinks = given.get("reasoning", given.get("think", self.reasoning))
        if thinks is not None:
            settings["think"] = thinks
        if form := given.get("format", self.format):
            settings["format"] = form
        settings.update({name: given[name] for name in _GENERATE if name in given})
        return thinks is not False, settings

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        if wants_tokens(run_manager):
            # The run manager belongs to the first prompt, so only that prompt's tokens go to the callbacks.
            first = _whole(list(self._stream(prompts[0], stop, run_manager, **kwargs)))
            prompts = prompts[1:]
        else:
            first = []
        thinks, settings = self._request(stop, kwargs)
        rest = run_sync(self._answers(self._provider_for(sync=True), prompts, thinks, settings))
        return LLMResult(generations=[*first, *rest])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        thinks, settings = self._request(stop, kwargs)
        provider = self._provider_for(sync=False)
        if not wants_tokens(run_manager):
            return LLMResult(generations=await self._answers(provider, prompts, thinks, settings))

        async def first() -> list[list[Generation]]:
            return _whole([chunk async for chunk in self._astream(prompts[0], stop, run_manager, **kwargs)])

        rest = self._answers(provider, prompts[1:], thinks, settings)
        tasks = [asyncio.ensure_future(first()), asyncio.ensure_future(rest)]
        try:
            return LLMResult(generations=[generation for found in await asyncio.gather(*tasks) for generation in found])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answers(
        self, provider: OllamaProvider, prompts: list[str], thinks: bool, settings: dict[str, Any]
    ) -> list[list[Generation]]:
        """The answers to prompts, as many at once as the provider allows."""
        if not prompts:
            return []
        try:
            responses = await provider.agenerate_batch(prompts, **settings)
        except LLMError as error:
            raise translated(error) from error
        hosts = has_several(provider)
        return [[Generation(text=r.content, generation_info=_info(r, thinks, hosts))] for r in responses]

    # Unlike in a chat model, the streams of a BaseLLM call the callbacks themselves.

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        thinks, settings = self._request(stop, kwargs)
        provider = self._provider_for(sync=True)
        hosts = has_several(provider)
        try:
            with provider.stream(prompt, **settings) as stream:
                for piece in stream:
                    if (chunk := _chunk(piece, thinks, hosts)) is not None:
                        if run_manager is not None:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            if stream.response is None:
                chunk = _cut(stream.partial, settings["model"], hosts)
                if run_manager is not None:
                    run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk
        except LLMError as error:
            raise translated(error) from error

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        thinks, settings = self._request(stop, kwargs)
        provider = self._provider_for(sync=False)
        hosts = has_several(provider)
        stream = provider.stream_generate(prompt, **settings)
        try:
            async with stream:
                async for piece in stream:
                    if (chunk := _chunk(piece, thinks, hosts)) is not None:
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
            if stream.response is None:
                chunk = _cut(stream.partial, settings["model"], hosts)
                if run_manager is not None:
                    await run_manager.on_llm_new_token("", chunk=chunk)
                yield chunk
        except LLMError as error:
            raise translated(error) from error

    def get_num_tokens(self, text: str) -> int:
        """The number of tokens of a text: an estimate from past answers, unless `custom_get_token_ids` is set."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return self._provider_for(sync=True).count_tokens(text, model=self.model)


def _chunk(piece: StreamChunk, thinks: bool, hosts: bool) -> GenerationChunk | None:
    info: dict[str, Any] = {}
    if piece.response is not None:
        info = metadata_of(piece.response, hosts=hosts)
        info["logprobs"] = None  # each piece has its own
    if piece.thinking and thinks:
        info["thinking"] = piece.thinking
    if piece.logprobs is not None:
        info["logprobs"] = piece.logprobs
    if not piece.content and not info:
        return None
    return GenerationChunk(text=piece.content, generation_info=info or None)


def _cut(partial: LLMResponse, model: str, hosts: bool) -> GenerationChunk:
    """The last chunk of an answer that the caller's limit ended before the model finished."""
    info = {**metadata_of(ended_by_limit(partial), model, hosts=hosts), "logprobs": None}
    return GenerationChunk(text="", generation_info=info)


def _info(response: LLMResponse, thinks: bool, hosts: bool) -> dict[str, Any]:
    info = metadata_of(response, hosts=hosts)
    if response.thinking and thinks:
        info["thinking"] = response.thinking
    return info


def _whole(chunks: list[GenerationChunk]) -> list[list[Generation]]:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return [[Generation(text=whole.text, generation_info=whole.generation_info)]]
