"""A conversation on a terminal. Python's `input` reads the lines, with readline's editing where there is readline."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from namel3ss_ollama import LLMError, LLMResponse, Message, OllamaProvider
from namel3ss_ollama.cli.answering import stream_answer
from namel3ss_ollama.cli.console import AnswerPrinter, CommandError, fail, note, stats_line
from namel3ss_ollama.cli.interrupts import run

__all__ = ["Session"]

HELP = """/clear  forget the conversation (the system prompt stays)
/help   this
/bye    end; so does Ctrl-D
Ctrl-C  stop the answer; what has come of it stays part of the conversation"""


def _text(line: str) -> str:
    """The line, with a sign in place of each byte that is no text in the terminal's encoding."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Session:
    """A conversation: what was said so far, and the loop that goes on with it.

    Args:
        provider: Whose model answers.
        opening: What every conversation begins with: the system prompt, or nothing.
        images: Pictures, for the first question.
        stats: Whether to tell tokens/s and the like after each answer.
    """

    def __init__(
        self, provider: OllamaProvider, opening: Sequence[Message], images: Sequence[Path], *, stats: bool
    ) -> None:
        self.history = list(opening)
        self._provider = provider
        self._opening = tuple(opening)
        self._images: tuple[Path, ...] = tuple(images)
        self._stats = stats

    def run(self) -> None:
        """Ask and answer until Ctrl-D or /bye."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 # `input` then has a history and edits lines
        note(f"{self._provider.model} at {self._provider.base_url}; /help lists what else there is")
        going_on = True
        while going_on:
            try:
                going_on = self._take(_text(input(">>> ")).strip())
            except EOFError:
                print()
                return
            except KeyboardInterrupt:  # at the prompt, or in the moment before or after an answer
                print()
                note("Ctrl-D or /bye ends")

    def _take(self, line: str) -> bool:
        """Do what a line says; whether to go on."""
        if line == "/bye":
            return False
        if re.fullmatch(r"/\w+", line):
            self._command(line)
        elif line:
            self.ask(line)
        return True

    def _command(self, line: str) -> None:
        if line == "/clear":
            self.history = list(self._opening)
            note("forgotten")
        else:
            note(HELP if line == "/help" else f"{line} is unknown; /help lists what there is")

    def ask(self, text: str) -> None:
        """One turn. What comes of the answer joins the history with its question; if nothing comes, neither does."""
        question = Message("user", text, images=self._images)
        printer = AnswerPrinter()
        response: LLMResponse | None = None
        interrupted = False
        problem = ""
        try:
            response, interrupted = run(stream_answer(self._provider, [*self.history, question], printer.show))
        except KeyboardInterrupt:  # twice: the answer did not stop at once
            interrupted = True
        except LLMError as error:
            response, problem = error.partial, str(error)
        except CommandError as error:
            problem = str(error)
        printer.end()
        if interrupted:
            note("stopped")
        if problem:
            fail(problem)
        if response and (response.content or response.thinking or response.finish_reason):
            self.history += [question, response.message]
            self._images = ()
            if self._stats:
                note(stats_line(response))
