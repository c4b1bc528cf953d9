"""A conversation on a terminal. Python's `input` reads the lines, with line editing if readline is available."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from namel3ss_ollama import LLMError, LLMResponse, Message, OllamaProvider
from namel3ss_ollama.cli.answering import stream_answer
from namel3ss_ollama.cli.console import AnswerPrinter, CommandError, fail, note, stats_line
from namel3ss_ollama.cli.history import History
from namel3ss_ollama.cli.interrupts import raising_interrupts, run
from namel3ss_ollama.cli.options import place
from namel3ss_ollama.cli.wording import in_the_commands_words

__all__ = ["Session"]

HELP = {
    "/clear": "start a new conversation (the system prompt stays)",
    "/help": "list the commands",
    "/bye": "end; so does Ctrl-D",
    "Ctrl-C": "stop the answer; the part that has arrived stays in the conversation",
    '"""': "start a question of several lines; the same ends it",
    "space": "a line that begins with one is always sent as a question",
}
_ENDS = ("/bye", "/exit", "/quit")
_COMMAND = re.compile(r"(/[^\W\d]\w*|/\?)(\s|$)")
_QUOTES = '"""'


def _text(line: str) -> str:
    """The line, with a replacement character for each byte that is invalid in the terminal's encoding."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Session:
    """A conversation: its messages, and the loop that reads questions.

    Args:
        provider: The provider of the model.
        opening: The first messages of every conversation: the system prompt, or none.
        images: Images for the first question.
        stats: Whether to report tokens/s and the like after each answer.
        lines: The input history of earlier conversations; none by default.
    """

    def __init__(
        self,
        provider: OllamaProvider,
        opening: Sequence[Message],
        images: Sequence[Path],
        *,
        stats: bool,
        lines: History | None = None,
    ) -> None:
        self.history = list(opening)
        self._provider = provider
        self._opening = tuple(opening)
        self._images: tuple[Path, ...] = tuple(images)
        self._stats = stats
        self._lines = lines or History(kept=False)

    def run(self) -> None:
        """Ask and answer until Ctrl-D or /bye."""
        self._lines.open()
        note(f"{self._provider.model} at {place(self._provider)}; /help lists the commands")
        going_on = True
        with raising_interrupts():
            while going_on:
                try:
                    going_on = self._take(*self._read())
                except EOFError:
                    print()
                    break
                except KeyboardInterrupt:  # at the prompt, or in the moment before or after an answer
                    print()
                    note("Ctrl-D or /bye ends")
        self._lines.close()

    def _read(self) -> tuple[str, bool]:
        """The next input, and whether it is always a question, never a command."""
        line = self._line(">>> ")
        if not line.lstrip().startswith(_QUOTES):
            return line.strip(), line[:1].isspace()
        lines = []
        rest = line.lstrip()[len(_QUOTES) :]
        while not rest.rstrip().endswith(_QUOTES):
            lines.append(rest)
            try:
                rest = self._line("... ")
            except EOFError:
                print()
                rest = _QUOTES
        return "\n".join([*lines, rest.rstrip()[: -len(_QUOTES)]]).strip("\n"), True

    def _line(self, prompt: str) -> str:
        line = _text(input(prompt))
        self._lines.add(line)
        return line

    def _take(self, text: str, literal: bool) -> bool:
        """Handle an input; returns whether to continue."""
        command = None if literal else _COMMAND.match(text)
        if command is None:
            if text.strip():
                self.ask(text)
            return True
        if command[1] in _ENDS:
            return False
        self._command(command[1])
        return True

    def _command(self, name: str) -> None:
        if name == "/clear":
            self.history = list(self._opening)
            note("forgotten")
        elif name in ("/help", "/?"):
            for what, text in HELP.items():
                note(text, first=f"{what:8}", indent=" " * 8)
        else:
            note(f"{name} is unknown and was not sent; /help lists the commands")

    def ask(self, text: str) -> None:
        """One turn. The question and the (partial) answer join the messages; without an answer, neither does."""
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
            response, problem = error.partial, in_the_commands_words(str(error))
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
