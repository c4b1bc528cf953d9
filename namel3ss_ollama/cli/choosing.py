"""Choose the model: the named one, if it exists, else the only one available."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from namel3ss_ollama import (
    AuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    OllamaProvider,
)
from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.cli.console import CommandError
from namel3ss_ollama.cli.options import place, server

__all__ = [
    "chat_models",
    "check_chat_model",
    "get_one",
    "listed_names",
    "missing",
    "near",
    "pick_model",
    "shown_or_missing",
]

_MOST_NAMES = 8


def get_one(provider: OllamaProvider, hosts: list[str] | None, name: str | None = None) -> str:
    """The command that gets a model: the given one, or one to start with.

    Args:
        provider: The provider for the server; with several, the command is for the first.
        hosts: The values of --host, if given.
        name: The model; one to start with by default.
    """
    url = provider.base_url
    if url == EMBEDDED_URL:
        from namel3ss_ollama.embedded.weights import CATALOG  # only where the engine is installed

        return f"namel3ss-ollama models pull {name if name in CATALOG else next(iter(CATALOG))} --embedded"
    where = f" --host {url}" if hosts or provider.hosts() else ""
    return f"namel3ss-ollama models pull {name or 'llama3.2'}{where}"


def near(name: str, names: Iterable[str]) -> list[str]:
    """Similar names, most similar first; at most three."""
    names = list(names)
    family = name.partition(":")[0].lower()
    if same := [one for one in names if one.partition(":")[0].lower() == family]:
        return same[:3]
    by_case = {one.lower(): one for one in (*names, *(one.partition(":")[0] for one in names))}
    alike = [by_case[one] for one in difflib.get_close_matches(name.lower(), by_case, n=3, cutoff=0.6)]
    whole = [next(known for known in names if known == one or known.partition(":")[0] == one) for one in alike]
    return list(dict.fromkeys(whole))


async def listed_names(provider: OllamaProvider) -> list[str]:
    """The names of the available models, each once however many hosts have it."""
    return list(dict.fromkeys(str(model["name"]) for model in await provider.list_models()))


async def missing(
    provider: OllamaProvider, name: str, hosts: list[str] | None, *, download: bool = True
) -> CommandError:
    """The error for a missing model; with `download`, it says how to get the model."""
    try:
        names = await listed_names(provider)
    except LLMError:
        names = []
    text = f"{place(provider)} {'do' if provider.hosts() else 'does'} not have the model {name!r}"
    they = "they have" if provider.hosts() else "it has"
    how = get_one(provider, hosts, name)
    if not download:
        get = ""
    elif provider.base_url == EMBEDDED_URL and f" {name} " not in how:
        get = f"It can get another one: {how}; and -m takes the path of any GGUF file"
    else:
        get = f"To download it: {how}"
    if meant := near(name, names):
        return CommandError(f"{text}; did you mean {' or '.join(meant)}?{get and ' ' + get}")
    return CommandError(f"{text}{f'; {they} {_listed(names)}' if names else ''}{get and '. ' + get}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )


async def shown_or_missing(
    provider: OllamaProvider, name: str, hosts: list[str] | None, *, download: bool = True
) -> dict[str, Any]:
    """The server's details of a model.

    Raises:
        CommandError: It does not have the model.
        LLMError: The request failed.
    """
    try:
        return await provider.show_model(name)
    except ModelNotFoundError:
        raise await missing(provider, name, hosts, download=download) from None


async def check_chat_model(provider: OllamaProvider, hosts: list[str] | None, *, images: bool) -> None:
    """Check that the provider's model exists and can chat, before a conversation starts.

    Raises:
        CommandError: It cannot chat, or does not exist.
        LLMError: The server cannot be reached, or rejects the key.
    """
    name = provider.model
    try:
        can = (await shown_or_missing(provider, name, hosts)).get("capabilities")
    except (LLMConnectionError, LLMTimeoutError, AuthenticationError):
        raise
    except LLMError:
        return  # a server without /api/show may still answer
    for needed, what in (("completion", "chat"), ("vision", "read images")):
        if can and needed not in can and (needed != "vision" or images):
            raise CommandError(
                f"{name} cannot {what}: it can {', '.join(can)}; list the other models: namel3ss-ollama models list"
            )


async def chat_models(provider: OllamaProvider) -> list[str]:
    """The names of the server's chat models, including models whose capabilities are unknown."""
    names = await listed_names(provider)
    able = await asyncio.gather(*(_can_chat(provider, name) for name in names))
    return [name for name, can in zip(names, able, strict=True) if can]


async def _can_chat(provider: OllamaProvider, name: str) -> bool:
    try:
        shown = await provider.show_model(name)
    except ModelNotFoundError:  # deleted since it was listed
        return False
    return "completion" in (shown.get("capabilities") or ("completion",))


async def pick_model(asked: str | None, hosts: list[str] | None) -> str:
    """The requested model, else the only one available.

    Raises:
        CommandError: There are none, or several.
    """
    if asked:
        return asked
    async with server(hosts) as provider:
        names = await chat_models(provider)
    if len(names) == 1:
        return names[0]
    at, has = place(provider), "have" if provider.hosts() else "has"
    if not names:
        raise CommandError(f"{at} {has} no chat model; get one: {get_one(provider, hosts)}")
    raise CommandError(f"choose a model with --model or OLLAMA_MODEL; {at} {has} {', '.join(names)}")
