"""The models of a server: list, show, pull, push, create, copy, delete, load, unload.

`ModelManagement` is the part of `OllamaProvider` that manages models. Objects are returned as the server sends them:
plain dicts, which include whatever a newer server adds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from typing_extensions import Unpack

from namel3ss_ollama.asking import Asking
from namel3ss_ollama.errors import (
    AuthenticationError,
    LLMConnectionError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    ServerError,
    StreamInterruptedError,
)
from namel3ss_ollama.fleet import Standing
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.messages import MessageLike, encode_messages
from namel3ss_ollama.pool import Pool, verdict
from namel3ss_ollama.prepare import checked_model, request_body
from namel3ss_ollama.request import Request
from namel3ss_ollama.server import Server
from namel3ss_ollama.settings import (
    RUNTIME_OPTIONS,
    RuntimeOptions,
    StreamConfig,
    check_positive,
    merge_options,
    reject_unknown,
)
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.types import LLMResponse

__all__ = ["ModelManagement", "version_of"]

T = TypeVar("T")
Json = dict[str, Any]
_PATIENCE = 600.0
"""Seconds of silence that are normal while a server checks the digest of a large download."""


class ModelManagement(Asking):
    """The model management methods of a provider; construct an `OllamaProvider` to use them."""

    _runner: Runner

    async def list_models(self) -> list[Json]:
        """The installed models: name, size in bytes, digest, details.

        With several hosts, those of each; "host" is its address. A host that fails is skipped with a warning, unless
        all fail.
        """
        return self._all_listed(await self._ask_each(lambda server, watch: server.client.tags(watch)))

    async def running_models(self) -> list[Json]:
        """The loaded models: name, size, expires_at and, from newer servers, context_length in tokens.

        With several hosts, as `list_models`.
        """
        return self._all_listed(await self._ask_each(lambda server, watch: server.client.ps(watch)))

    def _all_listed(self, answers: list[tuple[Server, Json]]) -> list[Json]:
        if self._pool is None:
            return _listed(answers[0][1])
        return [{**model, "host": server.url} for server, answer in answers for model in _listed(answer)]

    async def show_model(self, model: str | None = None, *, verbose: bool = False) -> Json:
        """The details of a model: capabilities, parameters, template, model_info.

        With several hosts, from the first available one that has it.

        Newer servers add `thinking`, with the allowed `values` of `think`: once they are known, the provider rejects
        other levels for that model.
        """
        name = self._name(model)
        shown = await self._ask_first(lambda server, watch: server.client.show(name, watch, verbose=verbose))
        self._defaults.levels.learn(name, shown)
        return shown

    async def exists(self, model: str | None = None) -> bool:
        """Whether the server, or an available one of several, has a model; the provider's by default.

        Raises:
            LLMError: The server failed, so the answer is unknown.
        """
        try:
            await self.show_model(model)
        except ModelNotFoundError:
            return False
        return True

    async def context_window(self, model: str | None = None, *, num_ctx: int | None = None) -> int | None:
        """The context window of requests, in tokens, as far as the server reports it.

        With several hosts, that of the first available one that has the model; `preflight` reports differences.

        Args:
            model: The model; the provider's by default.
            num_ctx: The option that the requests send; the provider's by default.

        Returns:
            `num_ctx`, else the window that the model is loaded with (newer servers), else its configured window, each
            limited by its trained context length; None if only that is known: such a server loads with less.
        """
        name = self._name(model)
        asked = merge_options(self._defaults.options).get("num_ctx") if num_ctx is None else num_ctx
        window = await self._ask_first(lambda server, watch: server.window(name, watch))
        return window.in_force(asked) if asked or window.running or window.configured else None

    async def version(self) -> str:
        """The server's version; with several hosts, that of the first available one."""
        return await self._ask_first(version_of)

    async def is_available(self) -> bool:
        """Whether a server answers at the address, within seconds and without retries; it may reject the key.

        With several hosts, whether any does.
        """
        return any(await asyncio.gather(*map(_answers, self._servers)))

    def pull_model(
        self, model: str | None = None, *, insecure: bool = False, timeout: float | None = None
    ) -> AsyncIterator[Json]:
        """Download a model; yields progress: status and, during the download, digest, completed and total in bytes.

        If the connection breaks, the request is repeated: the server keeps what it has downloaded.

        Args:
            model: The model; the provider's by default.
            insecure: Whether the registry may be without TLS.
            timeout: The limit for the download, in seconds. The provider's own timeout does not apply.

        Raises:
            ValueError: The provider has several hosts: use one with a single address.
            LLMError: The server failed, or several connections in a row broke without progress.
        """
        self._check_one_host("pull_model")
        return self._persistent("/api/pull", {"model": self._name(model), **_insecure(insecure)}, timeout)

    def push_model(
        self, model: str | None = None, *, insecure: bool = False, timeout: float | None = None
    ) -> AsyncIterator[Json]:
        """Upload a model; arguments, progress and persistence are those of `pull_model`.

        Raises:
            ValueError, LLMError: As `pull_model`.
        """
        self._check_one_host("push_model")
        return self._persistent("/api/push", {"model": self._name(model), **_insecure(insecure)}, timeout)

    async def create_model(
        self,
        model: str,
        *,
        from_model: str | None = None,
        files: Mapping[str, bytes | os.PathLike[str]] | None = None,
        adapters: Mapping[str, bytes | os.PathLike[str]] | None = None,
        template: str | None = None,
        license: str | Sequence[str] | None = None,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        messages: Iterable[MessageLike] | None = None,
        quantize: str | None = None,
        renderer: str | None = None,
        parser: str | None = None,
        requires: str | None = None,
        info: Mapping[str, Any] | None = None,
        draft_files: Mapping[str, bytes | os.PathLike[str]] | None = None,
        draft_quantize: str | None = None,
        remote_host: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Json]:
        """Create a model from another one or from weight files; yields progress.

        Older servers ignore `renderer`, `parser` and `info` (before 0.12.0), `requires` (before 0.14.0) and
        `draft_files` and `draft_quantize` (before 0.30.0).

        Args:
            model: The new model's name.
            from_model: The model to start from.
            files: Weights by file name, as paths (`pathlib.Path`) or bytes; uploaded first if the server lacks
                them.
            adapters: Adapters, in the same way.
            template: The prompt template.
            license: The license, or several.
            system: The system prompt.
            parameters: Default options.
            messages: Messages that precede every conversation.
            quantize: A quantization to apply, such as "q4_K_M".
            renderer: The name of a built-in prompt renderer, instead of a template.
            parser: The name of a built-in parser for the model's output.
            requires: The oldest version of Ollama that can run the model, such as "0.14.0".
            info: Entries for the model's `model_info` in `show_model`.
            draft_files: Weights of a draft model for speculative decoding, in the same way as `files`.
            draft_quantize: A quantization to apply to the draft model.
            remote_host: The address of the Ollama server that runs `from_model`.
            timeout: The limit for uploads and processing together, in seconds. The provider's own does not apply.

        Raises:
            ValueError: Neither `from_model` nor `files` is given, or the provider has several hosts.
            LLMError: The server failed.
        """
        self._check_one_host("create_model")
        if not from_model and not files:
            raise ValueError("create_model: give from_model, or files with the weights")
        body: Json = {"model": checked_model(model)}
        if from_model:
            body["from"] = checked_model(from_model)
        fields = {
            "template": template,
            "license": license,
            "system": system,
            "quantize": quantize,
            "renderer": renderer,
            "parser": parser,
            "requires": requires,
            "draft_quantize": draft_quantize,
            "remote_host": remote_host,
        }
        body.update({name: value for name, value in fields.items() if value is not None})
        if info:
            body["info"] = dict(info)
        if parameters:
            body["parameters"] = dict(parameters)
        if messages is not None:
            body["messages"] = encode_messages(messages)
        check_positive("timeout", timeout)
        watch = Watch(self._patient(), timeout)
        try:
            for name, sources in (("files", files), ("adapters", adapters), ("draft_files", draft_files)):
                if sources:
                    body[name] = {key: await self._client.upload_blob(source, watch) for key, source in sources.items()}
            async for progress in self._client.progress("/api/create", body, watch):
                yield progress
                if progress.get("status") == "success":
                    return
            raise StreamInterruptedError(f"{self._client.url} ended before the model was created; see its log")
        finally:
            watch.close()

    async def copy_model(self, source: str, destination: str) -> None:
        """Copy a model to another name.

        Raises:
            ValueError: The provider has several hosts.
            LLMError: The server failed.
        """
        self._check_one_host("copy_model")
        names = checked_model(source), checked_model(destination)
        await self._ask(lambda watch: self._client.copy(*names, watch))

    async def delete_model(self, model: str) -> None:
        """Delete a model from the server. The name is required: it never defaults to the provider's model.

        Raises:
            ValueError: The provider has several hosts.
            LLMError: The server failed.
        """
        self._check_one_host("delete_model")
        name = checked_model(model)
        lost = False

        def connection_lost() -> None:
            nonlocal lost
            lost = True

        async def attempt(watch: Watch) -> None:
            try:
                await self._client.delete(name, watch, on_resend=connection_lost)
            except LLMConnectionError:
                connection_lost()
                raise
            except ModelNotFoundError:
                if not lost:  # otherwise the previous request succeeded, and only its response was lost
                    raise

        await self._ask(attempt)

    async def preload(
        self,
        model: str | None = None,
        *,
        hosts: int = 1,
        keep_alive: str | float | None = None,
        options: Mapping[str, Any] | None = None,
        **keywords: Unpack[RuntimeOptions],
    ) -> LLMResponse:
        """Load a model now, with the provider's options, so that the first answer does not wait for it.

        Args:
            model: The model; the provider's by default.
            hosts: The number of hosts to load it on, of several.
            keep_alive: How long it stays loaded afterwards.
            options: Options without a keyword.
            **keywords: Runtime options; the load options (num_ctx, ...) should be those of later calls. `shift`, which
                is a load option since Ollama 0.30, is taken from the provider.

        Returns:
            An empty response, `finish_reason` "load". Ollama does not say how long loading took; measure the call for
            that. Of several `hosts`, the response of the one that took longest, where the servers say.

        Raises:
            ValueError: There are fewer hosts.
            ModelNotFoundError: The model is missing, or on too few available hosts.
            LLMError: The server failed; with several hosts, too many of them did.
        """
        reject_unknown(keywords, RUNTIME_OPTIONS, "preload")
        check_positive("hosts", hosts, integer=True, optional=False)
        if hosts > (count := len(self._servers)):
            raise ValueError(f"hosts: expected at most {count}, the number of hosts, not {hosts}")
        call = {"keep_alive": keep_alive, "options": options, **keywords}
        if self._pool is None or hosts == 1:
            return await self._load(model, call)
        return await self._load_on_several(self._pool, self._name(model), call, hosts)

    async def _load_on_several(self, pool: Pool, model: str, call: Mapping[str, Any], count: int) -> LLMResponse:
        able = await pool.able_to_load(model)
        if len(able) < count:
            found = ", ".join(host.url for host in able) or "none"
            raise ModelNotFoundError(
                f"{model} cannot be loaded on {count} hosts: those available with it are {found}; pull it on more"
            )
        left = iter(able)

        async def load_on_next() -> LLMResponse:
            failure: LLMError | None = None
            for host in left:
                try:
                    return await self._load(model, call, host)
                except LLMError as error:
                    # A failure to load the model (lack of memory, say) says nothing about the next host.
                    if not isinstance(error, ServerError) and verdict(error, loading=True) == "not the host's":
                        raise
                    failure = failure or error
            assert failure is not None  # each has had its turn
            raise failure

        responses = await _all_done(load_on_next() for _ in range(count))
        return max(responses, key=lambda response: response.metadata.get("load_duration") or 0)

    async def unload(self, model: str | None = None) -> LLMResponse:
        """Unload a model from memory now; with several hosts, from each that has it loaded.

        Returns:
            An empty response, `finish_reason` "unload"; with several hosts, the first one's.
        """
        call = {"keep_alive": 0}
        pool = self._pool
        holders = [] if pool is None else await pool.having_loaded(self._name(model))
        if pool is None or not holders:
            return await self._load(model, call)
        responses = await _all_done(self._load(model, call, host) for host in holders)
        await pool.scout.look()
        return responses[0]

    async def _load(self, model: str | None, call: Mapping[str, Any], only: Standing | None = None) -> LLMResponse:
        body = request_body(self._defaults, {"model": self._name(model), **call}, {})
        kept: Json = {name: body[name] for name in ("model", "keep_alive", "options", "shift") if name in body}
        config, timeout = self._defaults.config, self._defaults.timeout
        request = Request("generate", kept, config, timeout, on_truncation="ignore", loads_only=True, only=only)
        return await self._runner.complete(request)

    async def _persistent(self, path: str, body: Json, timeout: float | None) -> AsyncIterator[Json]:
        """The progress of a transfer that is requested again when its connection breaks."""
        check_positive("timeout", timeout)
        failures = 0
        furthest: dict[str, int] = {}
        watch = Watch(self._patient(), timeout)
        try:
            while True:
                try:
                    async for progress in self._client.progress(path, body, watch):
                        if _is_further(progress, furthest):
                            failures = 0
                        yield progress
                        if progress.get("status") == "success":
                            return
                    raise StreamInterruptedError(
                        f"{self._client.url} ended the transfer early; repeat the call, the server keeps what it has",
                        temporary=True,
                    )
                except LLMError as error:
                    failures += 1
                    if not await self._retrier.pause(failures, error, watch.remaining()):
                        raise
        finally:
            watch.close()

    def _check_one_host(self, method: str, does: str = "changes") -> None:
        """Check that it is clear which server is meant.

        Raises:
            ValueError: There are several.
        """
        urls = [server.url for server in self._servers]
        if len(urls) > 1:
            raise ValueError(
                f"{method}: {does} one server, and this provider has several ({', '.join(urls)}); make one with the "
                f"address that is meant, such as OllamaProvider({self._defaults.model!r}, {urls[0]!r})"
            )

    def _name(self, model: str | None) -> str:
        return self._defaults.model if model is None else checked_model(model)

    def _patient(self) -> StreamConfig:
        config = self._defaults.config
        waits = {
            name: max(value, _PATIENCE)
            for name in ("first_chunk_timeout", "chunk_timeout")
            if (value := getattr(config, name)) is not None
        }
        return replace(config, stream_timeout=None, **waits)


async def version_of(server: Server, watch: Watch) -> str:
    """The version that a server reports; it is cached."""
    version = str((await server.client.version(watch)).get("version", ""))
    with contextlib.suppress(ValueError):  # from a fork with other version names
        server.version.learn(version)
    return version


async def _answers(server: Server) -> bool:
    try:
        await server.ask_quickly(server.client.version)
    except LLMError as error:
        return isinstance(error, AuthenticationError)
    return True


async def _all_done(parts: Iterable[Awaitable[T]]) -> list[T]:
    """The results, once all parts have ended; raises the first failure."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


def _is_further(progress: Json, furthest: dict[str, int]) -> bool:
    """Whether a transfer has made new progress; every attempt also repeats what earlier ones reported."""
    what, done = str(progress.get("digest") or progress.get("status")), progress.get("completed")
    reached = done if isinstance(done, int) else 0
    if reached <= furthest.get(what, -1):
        return False
    furthest[what] = reached
    return True


def _listed(answer: Json) -> list[Json]:
    models = answer.get("models")
    if models is None:  # a server without any model may send null
        return []
    if not isinstance(models, list):
        raise MalformedResponseError("the server sent something other than a list of models; is this an Ollama server?")
    return list(models)


def _insecure(insecure: bool) -> Json:
    return {"insecure": True} if insecure else {}
