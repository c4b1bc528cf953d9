"""A streamed answer that Ctrl-C stops without ending the program."""

from __future__ import annotations

from collections.abc import Callable

from namel3ss_ollama import LLMResponse, Message, OllamaProvider, StreamChunk
from namel3ss_ollama.cli.console import CommandError, checked_arguments
from namel3ss_ollama.cli.interrupts import on_interrupt
from namel3ss_ollama.cli.spinner import waiting

__all__ = ["stream_answer"]


async def stream_answer(
    provider: OllamaProvider, messages: list[Message], show: Callable[[StreamChunk], None]
) -> tuple[LLMResponse, bool]:
    """An answer, or the part of it that arrived before Ctrl-C, and whether Ctrl-C stopped it.

    Raises:
        CommandError: A message cannot be sent as it is.
        LLMError: The request failed.
    """
    with checked_arguments(CommandError):
        stream = provider.stream_chat(messages)
    async with provider, stream:
        with on_interrupt(stream.cancel):
            async with waiting(f"waiting for {provider.model}") as stop_waiting:
                with checked_arguments(CommandError):  # image files are read on the first step
                    first = await anext(stream, None)
                stop_waiting()
                if first is not None:
                    show(first)
                async for chunk in stream:
                    show(chunk)
        return stream.partial, stream.end == "cancelled"
