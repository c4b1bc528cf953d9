"""`OllamaProvider`, the main entry point. It merges settings and passes requests to the other parts."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, cast, overload

import httpx
from typing_extensions import Self, Unpack

from namel3ss_ollama import preflight
from namel3ss_ollama.account import Account
from namel3ss_ollama.address import EMBEDDED_URL, Address, resolve_address
from namel3ss_ollama.batching import Batch, Batching
from namel3ss_ollama.blocking import Facade, blocking
from namel3ss_ollama.client import Client
from namel3ss_ollama.counting import TokenCounting
from namel3ss_ollama.decisions import Decisions
from namel3ss_ollama.dispatcher import Dispatcher
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.headers import headers_of_all
from namel3ss_ollama.hosts import Hosts, HostState, Where, fleet_of, known_here, read_hosts, restored
from namel3ss_ollama.limiter import ConcurrencyLimit, Limiter
from namel3ss_ollama.messages import MessageLike, has_files
from namel3ss_ollama.models import version_of
from namel3ss_ollama.pool import Pool
from namel3ss_ollama.prepare import Defaults, chat_request, generate_request, given_settings, streams_internally
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.server import Server
from namel3ss_ollama.settings import (
    NOT_GIVEN,
    CallOptions,
    ChatOptions,
    GenerateOptions,
    NotGiven,
    RetryPolicy,
    StreamConfig,
    Truncation,
    reject_unknown,
)
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.sync import SyncStream
from namel3ss_ollama.telemetry import Stats, Telemetry
from namel3ss_ollama.transport import HTTPSettings, TransportChoice
from namel3ss_ollama.tuner import TuningMethod
from namel3ss_ollama.types import LLMResponse
from namel3ss_ollama.web import Web

__all__ = ["OllamaProvider", "SyncProvider"]

_SHOWN = 3
"""How many hosts a provider's `repr` lists."""


class OllamaProvider(Account, Web, Decisions, Batching, TokenCounting, TuningMethod):
    """A model on an Ollama server.

    Constructing a provider sends, opens and imports nothing. It can be used from any number of tasks, threads and event
    loops, sequentially or concurrently; `max_concurrent` limits them all together. `sync` has blocking versions of the
    async methods.

    Args:
        model: The model's name, such as "llama3.2" or "qwen3:8b".
        base_url: The server's address; by default OLLAMA_HOSTS, OLLAMA_BASE_URL or OLLAMA_HOST, then
            http://localhost:11434. May contain a path prefix and `user:password@`. "embedded://" runs a model in this
            process, without a server (requires the extra `embedded`). Several addresses (a list of them or of `Host`, a
            `Hosts`, or OLLAMA_HOSTS with commas) mean several servers: each request goes to the one that suits it best,
            and to another if that fails.
        api_key: Sent as `Authorization: Bearer`; OLLAMA_API_KEY by default.
        headers: Additional headers for every request.
        max_concurrent: The maximum number of concurrent requests; None for no limit. The others wait, first come, first
            served. A request made while a stream of the same task (or thread) is open never waits, which could
            deadlock: it exceeds the limit if necessary. "auto", the default, adapts to the server: 10 requests may wait
            for their first token, or as many as are being answered, if these are more. With several hosts it means
            the number of their slots.
        max_queue: How many requests may wait; one more fails at once with `QueueFullError`. None for no limit.
        queue_timeout: How long a request may wait, in seconds. None for no limit.
        timeout: The limit for each call in seconds, including retries and the wait for a slot; not for `pull_model`,
            `push_model` and `create_model`, which have their own.
        stream_config: Deadlines and limits of each request.
        retry: When and how often a failed request is sent again; `RetryPolicy.off()` for never.
        on_truncation: What to do if the server cut the prompt to its context window, or shifted the window during
            generation: "warn" (the response says so, and a warning is logged once per model), "error"
            (`ContextWindowExceededError`) or "ignore".
        transport: "aiohttp" (fast), "httpx", or your own `httpx.AsyncBaseTransport`.
        http_client: Your own `httpx.AsyncClient`, used unchanged; you close it.
        verify: TLS verification, as in httpx.
        cert: A client certificate, as in httpx.
        proxy: A proxy, as in httpx.
        trust_env: Whether HTTP_PROXY and similar variables are used, as in httpx.
        capture_content: Whether OpenTelemetry spans carry prompts and answers.
        telemetry: Whether OpenTelemetry gets spans and metrics; False if another instrumentation covers the same calls,
            so that tokens are not counted twice. `stats()` always counts.
        **options: Defaults for every call: runtime options (temperature, num_ctx, max_tokens, ...), `options`,
            `format`, `think`, `logprobs`, `top_logprobs`, `keep_alive`, and `extra_body`: request fields without a
            keyword, such as those of a newer server. Options that are not set are not sent.

    Raises:
        TypeError: A keyword is unknown (the message names the nearest), or a value has the wrong type.
        ValueError: A value is out of range, or the address is malformed.
        ModuleNotFoundError: `base_url` is "embedded://" and the extra `embedded` is not installed.

    Example:
        ```python
        async with OllamaProvider("llama3.2", temperature=0.7) as provider:
            response = await provider.agenerate("Why is the sky blue?", max_tokens=100)
            print(response.content)
        ```
    """

    def __init__(
        self,
        model: str,
        base_url: Where | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrent: ConcurrencyLimit = "auto",
        max_queue: int | None = None,
        queue_timeout: float | None = None,
        timeout: float | None = None,
        stream_config: StreamConfig | None = None,
        retry: RetryPolicy | None = None,
        on_truncation: Truncation = "warn",
        transport: TransportChoice = "aiohttp",
        http_client: httpx.AsyncClient | None = None,
        verify: Any = True,
        cert: Any = None,
        proxy: Any = None,
        trust_env: bool = True,
        capture_content: bool = False,
        telemetry: bool = True,
        **options: Unpack[CallOptions],
    ) -> None:
        reject_unknown(options, _KEYWORDS, "OllamaProvider")
        self._defaults = Defaults(model, options, stream_config or StreamConfig(), timeout, on_truncation)
        where = read_hosts(base_url, os.environ)
        self._hosts = where if isinstance(where, Hosts) else None
        self._digests: dict[str, str] = {}
        if isinstance(transport, str) and transport not in ("aiohttp", "httpx"):
            raise ValueError(f"transport: {transport!r} is neither 'aiohttp' nor 'httpx'")
        http = HTTPSettings(transport, http_client, verify, cert, proxy, trust_env)
        more = [host.headers or {} for host in self._hosts.hosts] if self._hosts else []
        self._own_headers = sorted({name for each in (headers or {}, *more) for name in each})
        self._authorized: set[str] = set()

        def server(address: Address, key: str | None, more: Mapping[str, str] | None = None) -> Server:
            if address.url == EMBEDDED_URL and importlib.util.find_spec("xllamacpp") is None:
                raise ModuleNotFoundError("base_url: 'embedded://' needs pip install 'namel3ss-ollama[embedded]'")
            sent = headers_of_all(
                {**(headers or {}), **(more or {})},
                api_key=key,
                environment_key=os.environ.get("OLLAMA_API_KEY", "").strip(),
                user=address.user,
                password=address.password,
            )
            if "authorization" in sent:
                self._authorized.add(address.url)
            return Server(Client(address, sent, http))

        self._http = http
        self._pool: Pool | None = None
        policy = retry or RetryPolicy()
        if self._hosts is None:
            self._only = server(resolve_address(where if isinstance(where, str) else None, os.environ), api_key)
            self._limiter = Limiter(max_concurrent, max_queue, queue_timeout)
            self._retrier = Retrier(policy)
        else:
            fleet = fleet_of(self._hosts)
            servers = {
                # A host's own credentials replace the provider's key.
                standing: server(
                    host.address,
                    api_key if host.api_key is None and host.address.user is None else host.api_key,
                    host.headers,
                )
                for standing, host in zip(fleet.hosts, self._hosts.hosts, strict=True)
            }
            dispatcher = Dispatcher(fleet, max_concurrent, max_queue, queue_timeout)
            self._limiter = dispatcher
            self._pool = Pool(servers, dispatcher, self._hosts.refresh)
            self._retrier = Retrier(policy, fleet.slots)
        self._capture_content = capture_content
        self._traced = telemetry
        url = self.base_url if self._pool is None else None
        self._telemetry = Telemetry(url, capture_content=capture_content, enabled=telemetry)
        resumes = self._hosts is not None and self._hosts.resume == "auto"
        self._runner = Runner(self._server, self._limiter, self._retrier, self._telemetry, self._pool, resumes=resumes)

    @property
    def model(self) -> str:
        """The default model."""
        return self._defaults.model

    @property
    def base_url(self) -> str:
        """The server's address, without credentials; with several hosts, the first one's."""
        return self._only.url if self._pool is None else next(iter(self._pool.servers.values())).url

    @property
    def where(self) -> str | Hosts:
        """The address or addresses, in the form that `base_url` accepts; without credentials."""
        return self.base_url if self._hosts is None else Hosts.from_dict(self._hosts.to_dict())

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all servers, without credentials."""
        return tuple(server.url for server in self._servers)

    @property
    def _server(self) -> Server:
        """The server, or the first of several that is available."""
        return self._only if self._pool is None else self._pool.first()

    @property
    def _servers(self) -> list[Server]:
        return [self._only] if self._pool is None else list(self._pool.servers.values())

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the default options and fields."""
        return dict(self._defaults.options)

    def __repr__(self) -> str:
        urls = [server.url for server in self._servers[:_SHOWN]]
        more = f" and {len(self._servers) - _SHOWN} more" if len(self._servers) > _SHOWN else ""
        return f"OllamaProvider(model={self.model!r}, base_url={urls if self._pool else self.base_url!r}{more})"

    # Copies

    def __copy__(self) -> Self:
        return self  # a provider is immutable, and a copy would have its own concurrency limit

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickling creates a new provider with its own connections, slots and statistics; a pickle holds no secrets.

        Credentials are read from the environment on unpickling: OLLAMA_API_KEY, or user and password from an
        OLLAMA_BASE_URL or OLLAMA_HOST (for several servers OLLAMA_HOSTS) that names the same server. If the provider
        had credentials and the environment has none, its first request raises a `ValueError`.

        Raises:
            TypeError: The provider has settings that may hold secrets and cannot come from the environment (`headers`,
                a proxy's password, a key's passphrase, a host's own), or the caller's own client, transport or TLS
                context.
        """
        http, limiter = self._http, self._limiter
        unfit = f"headers ({', '.join(self._own_headers)})" if self._own_headers else http.unfit_for_pickling()
        if unfit is not None:
            raise TypeError(f"a provider made with {unfit} cannot be pickled; make one where it is needed")
        settings = {
            "model": self.model,
            "base_url": self.base_url if self._hosts is None else self._hosts.to_dict(),
            "max_concurrent": limiter.max_concurrent,
            "max_queue": limiter.max_queue,
            "queue_timeout": limiter.queue_timeout,
            "timeout": self._defaults.timeout,
            "stream_config": self._defaults.config,
            "retry": self._retrier.policy,
            "on_truncation": self._defaults.on_truncation,
            "transport": http.transport,
            "verify": http.verify,
            "cert": http.cert,
            "proxy": http.proxy,
            "trust_env": http.trust_env,
            "capture_content": self._capture_content,
            "telemetry": self._traced,
            **self._defaults.options,
        }
        authorized = bool(self._authorized) if self._hosts is None else sorted(self._authorized)
        return _made_anew, (type(self), settings, authorized)

    # Answers

    async def agenerate(
        self,
        prompt: str,
        *,
        stream_internally: bool | None = None,
        timeout: float | NotGiven | None = NOT_GIVEN,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        stream: bool | None = None,
        **options: Unpack[GenerateOptions],
    ) -> LLMResponse:
        """Answer a prompt.

        Args:
            prompt: The text.
            stream_internally: Whether to assemble the answer from a stream, which is the default: a stall is noticed,
                and a failure keeps what had arrived. If False, the server assembles it.
            timeout: The limit for the call in seconds, including retries and the wait for a slot; None for no limit.
                The provider's by default.
            stream_config: Deadlines and limits for this call; the provider's by default or if None.
            on_truncation: "warn", "error" or "ignore"; the provider's by default or if None.
            stream: The former name of `stream_internally`.
            **options: `system`, `images`, `audio`, `suffix`, `template`, `raw`, `context`, `model`, `headers`
                (additional ones), and all options of the constructor. They override the provider's; None resets one.
                `format` is "json", a JSON schema, or any type that pydantic supports: a model, list[City],
                Literal[...], a TypeAdapter.

        Raises:
            TypeError, ValueError: An argument is invalid; nothing was sent.
            LLMError: The request failed.
        """
        settings = given_settings(options, timeout, stream_config, on_truncation)
        settings["stream_internally"] = streams_internally(stream_internally, stream)
        make = functools.partial(generate_request, self._defaults, prompt, settings)
        request = await asyncio.to_thread(make) if has_files([settings]) else make()
        return await self._runner.complete(request)

    async def achat(
        self,
        messages: Iterable[MessageLike],
        *,
        stream_internally: bool | None = None,
        timeout: float | NotGiven | None = NOT_GIVEN,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        stream: bool | None = None,
        **options: Unpack[ChatOptions],
    ) -> LLMResponse:
        """Answer the next turn of a conversation.

        Args:
            messages: The conversation: `Message` objects or dicts.
            stream_internally: As in `agenerate`.
            timeout: As in `agenerate`.
            stream_config: As in `agenerate`.
            on_truncation: As in `agenerate`.
            stream: As in `agenerate`.
            **options: `tools`, `tool_choice` ("auto", "required", "none", a tool's name, or OpenAI's form of one),
                `model`, `headers` (additional ones), and all options of the constructor. They override the provider's;
                None resets one. A `tool_choice` that forces a call turns `think` off: the grammar that forces the
                call rules out thinking.

        Raises:
            TypeError, ValueError: An argument is invalid; nothing was sent.
            LLMError: The request failed.
        """
        settings = given_settings(options, timeout, stream_config, on_truncation)
        settings["stream_internally"] = streams_internally(stream_internally, stream)
        make = functools.partial(chat_request, self._defaults, messages, settings)
        return await self._runner.complete(await asyncio.to_thread(make) if has_files(messages) else make())

    def stream_generate(
        self,
        prompt: str,
        *,
        timeout: float | NotGiven | None = NOT_GIVEN,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Stream the answer to a prompt: `async for chunk in provider.stream_generate(...)`.

        Arguments as in `agenerate`; the request is sent when iteration starts.
        """
        settings = given_settings(options, timeout, stream_config, on_truncation)
        make = functools.partial(generate_request, self._defaults, prompt, settings)
        return Stream(self._runner, make if has_files([settings]) else make())

    def stream_chat(
        self,
        messages: Iterable[MessageLike],
        *,
        timeout: float | NotGiven | None = NOT_GIVEN,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        **options: Unpack[ChatOptions],
    ) -> Stream:
        """Stream the next turn of a conversation: `async for chunk in provider.stream_chat(...)`.

        Arguments as in `achat`; the request is sent when iteration starts.
        """
        settings = given_settings(options, timeout, stream_config, on_truncation)
        make = functools.partial(chat_request, self._defaults, messages, settings)
        return Stream(self._runner, make if has_files(messages) else make())

    # Blocking counterparts of the same calls, for scripts, threads and notebooks

    @property
    def sync(self) -> SyncProvider:
        """Blocking versions of all async methods, under the same names. Inside a running event loop they block it."""
        return SyncProvider(self)

    generate = blocking(agenerate, "generate")
    chat = blocking(achat, "chat")
    batch = cast(Batch, blocking(Batching.agenerate_batch, "batch"))

    @overload
    def stream(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        **options: Unpack[GenerateOptions],
    ) -> SyncStream: ...

    @overload
    def stream(
        self,
        prompt: Iterable[MessageLike],
        *,
        timeout: float | None = None,
        stream_config: StreamConfig | None = None,
        on_truncation: Truncation | None = None,
        **options: Unpack[ChatOptions],
    ) -> SyncStream: ...

    def stream(self, prompt: str | Iterable[MessageLike], **options: Any) -> SyncStream:
        """As `stream_generate`, or `stream_chat` for a list of messages, in synchronous code: a plain iterator."""
        if isinstance(prompt, str):
            return SyncStream(self.stream_generate(prompt, **options))
        return SyncStream(self.stream_chat(prompt, **options))

    # The server

    async def preflight(
        self, model: str | None = None, *, capabilities: Iterable[str] = ("completion",)
    ) -> preflight.Preflight:
        """Check that server, model and capabilities are available; each problem names its remedy.

        With several hosts, each is checked, and a problem names its host. A model that differs between hosts, in its
        digest or its context window, is a problem, too.

        Args:
            model: The model; the provider's by default.
            capabilities: The required capabilities: "completion", "tools", "vision", "thinking", "embedding",
                "insert", "decision".
        """
        name = self._name(model)
        wanted = {capabilities} if isinstance(capabilities, str) else set(capabilities)

        async def look(server: Server) -> preflight.Preflight:
            watch = self._watch()
            try:
                return await preflight.check(
                    url=server.url,
                    model=name,
                    capabilities=wanted,
                    version=lambda: self._ask(lambda watch: version_of(server, watch), watch),
                    show=lambda: self._ask(lambda watch: server.client.show(name, watch), watch),
                )
            finally:
                watch.close()

        if self._pool is None:
            return await look(self._only)
        await self._pool.scout.look()
        found = await asyncio.gather(*map(look, self._servers))
        by_url = {server.url: one for server, one in zip(self._servers, found, strict=True)}
        return preflight.merged(by_url, name, self._pool.differing(name))

    def hosts(self) -> list[HostState]:
        """The known state of each of several hosts, without a request. Empty with a single server."""
        return self._pool.states() if self._pool is not None else []

    async def look_at_hosts(self) -> list[HostState]:
        """Poll each of several hosts for its loaded models, and return the updated state."""
        if self._pool is not None:
            await self._pool.scout.look()
        return self.hosts()

    def stats(self) -> Stats:
        """The provider's statistics so far: requests, tokens, waits, retries."""
        return self._telemetry.stats(running=self._limiter.running, queued=self._limiter.queued)

    # Opening and closing

    def open(self) -> Self:
        """The provider itself; `await provider.open()` works as well. Connections are opened on demand."""
        return self

    async def aclose(self) -> None:
        """Close all connections. The provider can be used again; it then makes new ones."""
        if self._pool is not None:
            await self._pool.scout.aclose()
        await asyncio.gather(*(server.client.connections.aclose() for server in self._servers))

    def close(self) -> None:
        """As `aclose`, from synchronous code."""
        if self._pool is not None:
            self._pool.scout.close()
        for server in self._servers:
            server.client.connections.close()

    async def _get_client(self) -> httpx.AsyncClient:
        """The running event loop's HTTP client."""
        return await self._client.connections.get()

    async def _close_client(self) -> None:
        """As `aclose`."""
        await self.aclose()

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncProvider(Facade):
    """`provider.sync`: blocking versions of the provider's async methods, under the same names.

    Arguments and results are the same, except that streams are `SyncStream` and progress is a `SyncIterator`: plain
    iterators. They work in scripts, in threads, and inside a running event loop, which they block.

    Example:
        ```python
        with OllamaProvider("llama3.2") as provider:
            for step in provider.sync.pull_model():
                print(step["status"])
            print(provider.sync.embed("a cat", model="all-minilm").embeddings)
        ```
    """

    _asynchronous: OllamaProvider

    def __init__(self, provider: OllamaProvider) -> None:
        super().__init__(provider)

    agenerate = blocking(OllamaProvider.agenerate)
    achat = blocking(OllamaProvider.achat)
    stream_generate = blocking(OllamaProvider.stream_generate)
    stream_chat = blocking(OllamaProvider.stream_chat)
    agenerate_batch = cast(Batch, blocking(OllamaProvider.agenerate_batch))
    embed = blocking(OllamaProvider.embed)
    embed_batch = blocking(OllamaProvider.embed_batch)
    systemone = blocking(OllamaProvider.systemone)

    list_models = blocking(OllamaProvider.list_models)
    running_models = blocking(OllamaProvider.running_models)
    show_model = blocking(OllamaProvider.show_model)
    exists = blocking(OllamaProvider.exists)
    look_at_hosts = blocking(OllamaProvider.look_at_hosts)
    context_window = blocking(OllamaProvider.context_window)
    pull_model = blocking(OllamaProvider.pull_model)
    push_model = blocking(OllamaProvider.push_model)
    create_model = blocking(OllamaProvider.create_model)
    copy_model = blocking(OllamaProvider.copy_model)
    delete_model = blocking(OllamaProvider.delete_model)
    preload = blocking(OllamaProvider.preload)
    unload = blocking(OllamaProvider.unload)

    web_search = blocking(OllamaProvider.web_search)
    web_fetch = blocking(OllamaProvider.web_fetch)
    account = blocking(OllamaProvider.account)
    server_status = blocking(OllamaProvider.server_status)
    usage = blocking(OllamaProvider.usage)
    balance = blocking(OllamaProvider.balance)

    acount_tokens = blocking(OllamaProvider.acount_tokens)
    version = blocking(OllamaProvider.version)
    is_available = blocking(OllamaProvider.is_available)
    preflight = blocking(OllamaProvider.preflight)
    tune = blocking(OllamaProvider.tune)

    def aclose(self) -> None:
        """Close all connections. The provider can be used again; it then makes new ones."""
        # Not by `blocking`: `aclose` waits for every loop, and would wait forever for the one that this call blocks.
        self._asynchronous.close()


_KEYWORDS = frozenset(CallOptions.__annotations__)


def _made_anew(
    cls: type[OllamaProvider], settings: dict[str, Any], authorized: bool | Collection[str]
) -> OllamaProvider:
    """A provider from a pickle, with the credentials of this environment if it had some.

    If it had some and there are none here, its requests raise, but this does not: a process pool would lose the task
    that it unpickles, and wait for it forever.
    """
    if not isinstance(authorized, bool):
        hosts, lacking = restored(Hosts.from_dict(settings["base_url"]), authorized, os.environ)
        provider = cls(**{**settings, "base_url": hosts})
        return _refusing(provider, lacking, "OLLAMA_HOSTS to those addresses") if lacking else provider
    if not authorized:
        return cls(**settings, api_key="")
    url = settings["base_url"]
    known = known_here(os.environ)
    if url in known:
        return cls(**{**settings, "base_url": known[url]})
    if os.environ.get("OLLAMA_API_KEY", "").strip():
        return cls(**settings)
    return _refusing(cls(**settings, api_key=""), [url], "OLLAMA_BASE_URL to that address")


def _refusing(provider: OllamaProvider, urls: Sequence[str], instead: str) -> OllamaProvider:
    """The provider, whose requests raise because credentials are missing."""
    provider._authorized.update(urls)
    for server in provider._servers:
        server.client.refusal = (
            f"the pickled provider for {', '.join(urls)} had a key or password, which no pickle holds: set "
            f"OLLAMA_API_KEY here before unpickling it, or {instead} with user and password"
        )
    return provider
