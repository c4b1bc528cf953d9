"""Typed questions to a decision model and the answers to them: checked, and in the form of /v1/systemone.

Plain functions over values. The limits are those of the server (Ollama's decision/systemone.go), so that a request
that it would refuse fails before it is sent, with an error that names the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast

from namel3ss_ollama.errors import MalformedResponseError
from namel3ss_ollama.types import Usage

__all__ = [
    "Answer",
    "ChoiceAnswer",
    "ChoiceQuestion",
    "Content",
    "NoulAnswer",
    "NoulQuestion",
    "Question",
    "ScoreAnswer",
    "ScoreQuestion",
    "SystemOneResponse",
    "encode_questions",
    "read_answers",
]

Json = dict[str, Any]
T = TypeVar("T")
Content: TypeAlias = str | Mapping[str, Any] | Sequence[Any]
"""A text, or a JSON object or array."""
MOST_QUESTIONS = 64
FEWEST_CRITERIA, MOST_CRITERIA = 2, 26


@dataclass(frozen=True, slots=True, repr=False)
class ChoiceQuestion:
    """Which one of several options applies.

    Attributes:
        instructions: The question.
        criteria: The options by name, 2 to 26, each with its description; None if the name is clear enough.
    """

    instructions: Content
    criteria: Mapping[str, str | None]

    def __repr__(self) -> str:
        return _repr(self, self.criteria)


@dataclass(frozen=True, slots=True, repr=False)
class NoulQuestion:
    """Whether a statement is true, as a probability.

    Attributes:
        instructions: The question.
        criteria: What "true" and "false" mean; one of them, or None, if the question is clear enough.
    """

    instructions: Content
    criteria: Mapping[Literal["true", "false"], str] | None = None

    def __repr__(self) -> str:
        return _repr(self, self.criteria or {})


@dataclass(frozen=True, slots=True, repr=False)
class ScoreQuestion:
    """To what degree something applies, on a scale of levels.

    Attributes:
        instructions: The question.
        criteria: Descriptions of the levels from the lowest to the highest, 2 to 26.
    """

    instructions: Content
    criteria: Sequence[str]

    def __repr__(self) -> str:
        return _repr(self, self.criteria)


@dataclass(frozen=True, slots=True, repr=False)
class ChoiceAnswer:
    """The answer to a `ChoiceQuestion`.

    Attributes:
        choice: The most probable option.
        probabilities: The probability of each option; they sum to 1.
        confidence: How much the model prefers one option to the others, from 0 to 1.
    """

    choice: str
    probabilities: dict[str, float]
    confidence: float

    def __repr__(self) -> str:
        return _repr(self, self.probabilities)


@dataclass(frozen=True, slots=True, repr=False)
class NoulAnswer:
    """The answer to a `NoulQuestion`.

    Attributes:
        noul: The probability of "true", from 0 to 1.
    """

    noul: float

    def __repr__(self) -> str:
        return "NoulAnswer()"


@dataclass(frozen=True, slots=True, repr=False)
class ScoreAnswer:
    """The answer to a `ScoreQuestion`.

    Attributes:
        score: The mean of the levels, weighted by their probabilities; 0 is the lowest level.
        probabilities: The probability of each level; they sum to 1.
        legend: The description of each level.
        confidence: How much the model prefers one level to the others, from 0 to 1.
    """

    score: float
    probabilities: dict[int, float]
    legend: dict[int, Any]
    confidence: float

    def __repr__(self) -> str:
        return _repr(self, self.probabilities)


Question: TypeAlias = ChoiceQuestion | NoulQuestion | ScoreQuestion
Answer: TypeAlias = ChoiceAnswer | NoulAnswer | ScoreAnswer


@dataclass(frozen=True, slots=True, repr=False)
class SystemOneResponse:
    """The answers of a decision model.

    Attributes:
        answers: The answer to each question, by the question's name.
        model: The model, as the server names it.
        usage: prompt_tokens, completion_tokens and total_tokens of all questions together.
    """

    answers: dict[str, Answer]
    model: str
    usage: Usage

    @property
    def choices(self) -> dict[str, ChoiceAnswer]:
        """The answers to choice questions."""
        return _only(self.answers, ChoiceAnswer)

    @property
    def nouls(self) -> dict[str, NoulAnswer]:
        """The answers to noul questions."""
        return _only(self.answers, NoulAnswer)

    @property
    def scores(self) -> dict[str, ScoreAnswer]:
        """The answers to score questions."""
        return _only(self.answers, ScoreAnswer)

    def __repr__(self) -> str:
        # Questions and answers are private: a repr ends up in logs.
        return f"SystemOneResponse(model={self.model!r}, {len(self.answers)} answers, usage={self.usage})"


_KINDS: dict[str, type[Question]] = {"choice": ChoiceQuestion, "noul": NoulQuestion, "score": ScoreQuestion}


def encode_questions(questions: Mapping[str, Question | Mapping[str, Any]]) -> dict[str, Json]:
    """Questions in the form in which they are sent.

    Raises:
        TypeError, ValueError: A question is malformed, or no server accepts it; the message says which one.
    """
    if not isinstance(questions, Mapping):
        raise TypeError(f"questions: expected a mapping of names to questions, not {type(questions).__name__}")
    if not 1 <= len(questions) <= MOST_QUESTIONS:
        raise ValueError(f"questions: there must be 1 to {MOST_QUESTIONS} of them, not {len(questions)}")
    encoded: dict[str, Json] = {}
    for name, question in questions.items():
        if not isinstance(name, str):
            raise TypeError(f"questions: expected texts as names, not {type(name).__name__}")
        if not name.strip():
            raise ValueError("questions: a name is empty")
        encoded[name] = _encode(f"questions[{name!r}]", question)
    return encoded


def _encode(where: str, question: Question | Mapping[str, Any]) -> Json:
    one = _question(where, question)
    sent: Json = {"type": _kind(one), "instructions": checked_content(f"{where}.instructions", one.instructions)}
    if one.criteria is not None:
        sent["criteria"] = _CRITERIA[sent["type"]](f"{where}.criteria", one.criteria)
    return sent


def _question(where: str, question: object) -> Question:
    if isinstance(question, (ChoiceQuestion, NoulQuestion, ScoreQuestion)):
        return question
    if not isinstance(question, Mapping):
        wanted = ", ".join(kind.__name__ for kind in _KINDS.values())
        raise TypeError(f"{where}: expected a {wanted} or a dict, not {type(question).__name__}")
    given = dict(cast("Mapping[str, Any]", question))
    kind = given.pop("type", None)
    if kind not in _KINDS:
        raise ValueError(f"{where}: type must be {' or '.join(map(repr, _KINDS))}, not {kind!r:.80}")
    for name in given:
        if name not in ("instructions", "criteria"):
            raise TypeError(f"{where}: {name!r:.80} is unknown; a question has type, instructions and criteria")
    for name in ("instructions",) if kind == "noul" else ("instructions", "criteria"):
        if name not in given:
            raise ValueError(f"{where}: a {kind} question needs {name}")
    return _KINDS[kind](**given)


def _kind(question: Question) -> str:
    return next(kind for kind, cls in _KINDS.items() if isinstance(question, cls))


def checked_content(where: str, value: object) -> Content:
    """A non-blank text, or a JSON object or array.

    Raises:
        TypeError, ValueError: It is neither.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{where}: is empty")
        return value
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, (list, tuple)):
        return list(cast("Sequence[Any]", value))
    raise TypeError(f"{where}: expected a text, a dict or a list, not {type(value).__name__}")


def _options(where: str, criteria: object) -> Json:
    if not isinstance(criteria, Mapping):
        raise TypeError(f"{where}: expected a mapping of options to descriptions, not {type(criteria).__name__}")
    options = dict(criteria)
    for name, description in options.items():
        if not isinstance(name, str) or not isinstance(description, (str, type(None))):
            raise TypeError(f"{where}: expected texts as options, and texts or None as descriptions")
        if not name.strip():
            raise ValueError(f"{where}: the name of an option is empty")
    _check_count(where, len(options))
    return options


def _meanings(where: str, criteria: object) -> Json:
    if not isinstance(criteria, Mapping):
        raise TypeError(f"{where}: expected a mapping of 'true' and 'false', not {type(criteria).__name__}")
    meanings = dict(criteria)
    for name, description in meanings.items():
        if name not in ("true", "false"):
            raise ValueError(f"{where}: expected 'true' and 'false', not {name!r:.80}")
        if not isinstance(description, str):
            raise TypeError(f"{where}: expected a text for {name!r}, not {type(description).__name__}")
    return meanings


def _levels(where: str, criteria: object) -> list[str]:
    if not isinstance(criteria, (list, tuple)):
        raise TypeError(f"{where}: expected a list of descriptions, not {type(criteria).__name__}")
    levels = list(cast("Sequence[Any]", criteria))
    for level in levels:
        if not isinstance(level, str):
            raise TypeError(f"{where}: expected texts, not {type(level).__name__}")
    _check_count(where, len(levels))
    return levels


def _check_count(where: str, count: int) -> None:
    if not FEWEST_CRITERIA <= count <= MOST_CRITERIA:
        raise ValueError(f"{where}: there must be {FEWEST_CRITERIA} to {MOST_CRITERIA} of them, not {count}")


_CRITERIA: dict[str, Callable[[str, object], Any]] = {"choice": _options, "noul": _meanings, "score": _levels}


def read_answers(answer: Mapping[str, Any], questions: Mapping[str, Json], url: str) -> SystemOneResponse:
    """Parse a server's answers.

    Args:
        answer: The body of its response.
        questions: The questions that were sent.
        url: The server's address, for error messages.

    Raises:
        MalformedResponseError: A question has no answer, or one of another form.
    """
    given, usage = answer.get("answers"), answer.get("usage")
    if not isinstance(given, Mapping) or not isinstance(usage, Mapping):
        raise MalformedResponseError(f"{url} sent no answers with their usage; is this an Ollama server?")
    tokens = [_read(cast("Json", usage).get(name), int) for name in ("input_tokens", "output_tokens")]
    answers = {name: _answer(cast("Json", given).get(name), sent) for name, sent in questions.items()}
    wrong = next((name for name, found in answers.items() if found is None), None)
    if wrong is not None:
        raise MalformedResponseError(f"{url} sent no {questions[wrong]['type']} answer to the question {wrong!r}")
    if None in tokens:
        raise MalformedResponseError(f"{url} sent a usage without token counts")
    prompt, completion = (count or 0 for count in tokens)
    total = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    found = {name: one for name, one in answers.items() if one is not None}
    return SystemOneResponse(found, str(answer.get("model", "")), total)


def _answer(given: object, question: Json) -> Answer | None:
    """The answer to a question; None if it has another form."""
    kind = question["type"]
    if not isinstance(given, Mapping):
        return None
    answer = cast("Json", given)
    if answer.get("type") != kind:
        return None
    if kind == "noul":
        noul = _share(answer.get("noul"))
        return None if noul is None else NoulAnswer(noul)
    confidence, probabilities = _share(answer.get("confidence")), answer.get("probabilities")
    if confidence is None or not isinstance(probabilities, Mapping):
        return None
    shares = {name: _share(value) for name, value in cast("Json", probabilities).items()}
    likely = {name: share for name, share in shares.items() if share is not None}
    if kind == "choice":
        choice = answer.get("choice")
        fits = likely.keys() == question["criteria"].keys() and choice in likely
        return ChoiceAnswer(str(choice), likely, confidence) if fits else None
    score, legend = _read(answer.get("score"), float), answer.get("legend")
    levels = {str(level) for level in range(len(question["criteria"]))}
    if score is None or likely.keys() != levels or not isinstance(legend, Mapping) or legend.keys() != levels:
        return None
    by_level = {int(level): value for level, value in cast("Json", legend).items()}
    return ScoreAnswer(score, {int(level): share for level, share in likely.items()}, by_level, confidence)


def _read(value: object, kind: type[T]) -> T | None:
    """A number; None if it is not of that kind."""
    if isinstance(value, bool):
        return None
    if kind is float and isinstance(value, int):
        value = float(value)
    return value if isinstance(value, kind) else None


def _share(value: object) -> float | None:
    """A number from 0 to 1; None if it is not."""
    number = _read(value, float)
    return number if number is not None and 0 <= number <= 1 else None


def _only(answers: Mapping[str, Answer], kind: type[T]) -> dict[str, T]:
    return {name: answer for name, answer in answers.items() if isinstance(answer, kind)}


def _repr(value: object, criteria: Mapping[Any, Any] | Sequence[Any]) -> str:
    # Questions and answers are private: a repr ends up in logs.
    return f"{type(value).__name__}({len(criteria)} criteria)"
