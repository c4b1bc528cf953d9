"""The checks of the doctor; each runs only if the previous ones allow it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from namel3ss_ollama import LLMError, ModelNotFoundError, OllamaProvider
from namel3ss_ollama.cli.choosing import chat_models, get_one, near
from namel3ss_ollama.cli.models import processor
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.fleet import tagged
from namel3ss_ollama.pool import differences
from namel3ss_ollama.windows import Window, window_of

__all__ = ["Examination", "Finding"]

Status = Literal["ok", "note", "warning", "problem"]
_QUESTION = [{"role": "user", "content": "Count from 1 to 5."}]
_FEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        status: "ok"; "note" for what could not be determined; "warning" for what works, but perhaps not as expected;
            "problem" for what does not work.
        what: What was found.
        remedy: How to fix it; empty if there is nothing to fix.
    """

    status: Status
    what: str
    remedy: str = ""


class Examination:
    """Examines a server and a model, and reports each finding at once.

    Args:
        promptly: A provider for requests that every server answers promptly.
        make: Makes the provider for a model.
        options: The runtime options to check, including num_ctx.
        tell: Called with each finding.
        hosts: The values of --host, if given.

    Attributes:
        facts: The results as data, for programs.
        findings: The findings so far.
    """

    def __init__(
        self,
        promptly: OllamaProvider,
        make: Callable[[str], OllamaProvider],
        options: Mapping[str, Any],
        tell: Callable[[Finding], None],
        *,
        hosts: list[str] | None = None,
    ) -> None:
        self._promptly = promptly
        self._make = make
        self._num_ctx = options.get("num_ctx")
        self._tell = tell
        self._hosts = hosts
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {"base_url": promptly.base_url}

    @property
    def ok(self) -> bool:
        """Whether there are no problems; warnings do not count."""
        return all(finding.status != "problem" for finding in self.findings)

    def _found(self, status: Status, what: str, remedy: str = "") -> None:
        finding = Finding(status, what, in_the_commands_words(remedy))
        self.findings.append(finding)
        self._tell(finding)

    async def run(self, model: str | None) -> None:
        """Run all checks."""
        async with self._promptly:
            try:
                self.facts["version"] = version = await self._promptly.version()
                self._found("ok", f"Ollama {version} answers at {self._promptly.base_url}")
                names = [str(one["name"]) for one in await self._promptly.list_models()]
            except LLMError as error:
                self._found("problem", f"no Ollama server answers at {self._promptly.base_url}", str(error))
                return
            self.facts["models"] = names
            if not names:
                self._found("problem", "it has no models", get_one(self._promptly, self._hosts, model))
                return
            self._found("ok", f"it has {len(names)} model{'s' if len(names) > 1 else ''}: {', '.join(names)}")
            if model is None:
                able = await chat_models(self._promptly)
                if len(able) != 1:
                    self._found("note", "no model was checked", "name one with --model or OLLAMA_MODEL")
                    return
                model = able[0]
            await self._examine(model)

    async def _examine(self, model: str) -> None:
        self.facts["model"] = model
        async with self._make(model) as provider:
            result = await self._promptly.preflight(model, capabilities=())
            for problem in result.problems:
                remedy = problem.remedy
                if isinstance(problem.error, ModelNotFoundError):
                    meant = near(model, self.facts["models"])
                    remedy = f"did you mean {' or '.join(meant)}? Else: " if meant else ""
                    remedy += get_one(self._promptly, self._hosts, model)
                self._found("problem", problem.what, remedy)
            if not result.ok:
                return
            can = sorted(result.capabilities)
            self.facts["capabilities"] = can
            self._found("ok", f"{model} can do: {', '.join(can) or 'the server does not say'}")
            try:
                if can and "completion" not in can:
                    await self._embed(provider)
                    return
                loaded = await self._load(provider)
                shown = await self._promptly.show_model(model)
                self._look_at_window(window_of(model, shown, {"models": loaded}))
                await self._answer(provider)
            except LLMError as error:
                self._found("problem", f"{model} does not answer", str(error))

    async def _load(self, provider: OllamaProvider) -> list[dict[str, Any]]:
        """Load the model twice: the second load shows whether it stays loaded. Returns the models loaded then."""
        seconds = [await self._seconds_to_load(provider) for _ in range(2)]
        running, here = await self._is_loaded(provider)
        if here is None:  # a shared server may just have unloaded it for another client
            await self._seconds_to_load(provider)
            running, here = await self._is_loaded(provider)
        where = f", on {processor(here)}" if here else ""
        self.facts["load"] = {"seconds": seconds[0], "again_seconds": seconds[1], "stays_loaded": here is not None}
        self._found("ok", f"it loads in {seconds[0]:.2f} s, and again in {seconds[1]:.2f} s{where}")
        if here is None:
            self._found(
                "problem",
                "it does not stay loaded, so each answer has to wait for a load",
                "set OLLAMA_KEEP_ALIVE on the server (to 5m, say), and keep_alive where requests set it; if they "
                "are set, memory is short: the server's log says so",
            )
        return running

    async def _seconds_to_load(self, provider: OllamaProvider) -> float:
        start = time.perf_counter()
        await provider.preload()
        return time.perf_counter() - start

    async def _is_loaded(self, provider: OllamaProvider) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        running = await self._promptly.running_models()
        names = {name.lower() for name in (provider.model, f"{provider.model}:latest")}
        here = (one for one in running if {str(one.get(key)).lower() for key in ("name", "model")} & names)
        return running, next(here, None)

    def _look_at_window(self, window: Window) -> None:
        told = self._num_ctx or window.running or window.configured
        in_force = window.in_force(self._num_ctx) if told else None
        self.facts["context"] = {
            "model": window.trained,
            "num_ctx": self._num_ctx or window.configured,
            "loaded_with": window.running,
            "in_force": in_force,
        }
        most = f"the model's own is {window.trained} tokens" if window.trained else "the model does not state its own"
        setting = "-o num_ctx=8192 here, PARAMETER num_ctx in its Modelfile, or OLLAMA_CONTEXT_LENGTH on the server"
        if in_force is None:
            self._found(
                "note",
                f"the server does not report which context window is in force ({most})",
                f"to be sure of it, set one of: {setting}",
            )
        elif window.trained and in_force * 2 < window.trained:
            self._found(
                "warning",
                f"the context window in force is {in_force} tokens ({most}): longer prompts are truncated silently",
                f"raise it (that takes memory) by one of: {setting}",
            )
        else:
            self._found("ok", f"the context window in force is {in_force} tokens ({most})")

    async def _answer(self, provider: OllamaProvider) -> None:
        stream = provider.stream_chat(_QUESTION, max_tokens=_FEW_TOKENS, on_truncation="ignore")
        async for _ in stream:
            pass
        response = stream.partial
        tokens, rate = response.usage["completion_tokens"], response.metadata.get("tokens_per_second")
        first = response.metadata.get("time_to_first_token", 0.0)
        self.facts["answer"] = {"tokens": tokens, "tokens_per_second": rate, "time_to_first_token": first}
        if response.content or response.thinking:
            speed = f" at {rate:.1f} tokens/s" if rate else ""
            self._found("ok", f"it answers: {tokens} tokens{speed}, the first after {first:.2f} s")
        else:
            self._found(
                "problem",
                "its answer is empty",
                f"check its template (ollama show {provider.model} --template), or pull it again",
            )

    async def _embed(self, provider: OllamaProvider) -> None:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            embedded = await provider.embed("Count from 1 to 5.")
            seconds.append(time.perf_counter() - start)
        size = len(embedded.embeddings[0])
        self.facts["embedding"] = {"dimensions": size, "seconds": seconds[0], "again_seconds": seconds[1]}
        self._found("ok", f"it embeds: {size} dimensions, in {seconds[0]:.2f} s, and again in {seconds[1]:.2f} s")


async def differences_between(provider: OllamaProvider, model: str | None) -> list[Finding]:
    """What differs between several hosts, for a model or for each that several of them have."""
    async with provider:
        states = await provider.look_at_hosts()
        try:
            models = await provider.list_models()
        except LLMError:
            return []  # already reported by each host's examination
    pulled: dict[str, dict[str, tuple[int, str]]] = {}
    for one in models:
        pulled.setdefault(one["host"], {})[tagged(str(one["name"]))] = 0, str(one.get("digest") or "")
    names = sorted({name for found in pulled.values() for name in found}) if model is None else [tagged(model)]
    return [
        Finding("warning", difference.what, in_the_commands_words(difference.remedy))
        for name in names
        for difference in differences(states, pulled, name)
    ]
