"""A service that holds one provider open and works through batches in which some questions fail.

The provider bounds what runs at once, over all batches; a failure is a result and stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from _common import parser, pull_if_missing, run

from namel3ss_ollama import LLMError, OllamaProvider, RetryPolicy


class InferenceService:
    """Answers batches of questions."""

    def __init__(self, model: str, base_url: str | None) -> None:
        self.provider = OllamaProvider(
            model,
            base_url,
            max_concurrent=4,
            max_queue=1000,  # one more fails at once, rather than waiting without end
            retry=RetryPolicy(attempts=3),
            temperature=0,
            max_tokens=20,
        )

    async def start(self) -> None:
        await pull_if_missing(self.provider)
        await self.provider.preload()

    async def answer(self, questions: Sequence[str], model: str | None = None) -> list[str]:
        answers: list[str] = []
        for result in await self.provider.agenerate_batch(questions, return_exceptions=True, model=model):
            if isinstance(result, LLMError):
                answers.append(f"({type(result).__name__})")
            elif isinstance(result, BaseException):
                raise result  # no failure of the model's: a mistake in the program
            else:
                answers.append(result.content)
        return answers

    async def stop(self) -> None:
        await self.provider.aclose()


async def main() -> None:
    given = parser(__doc__).parse_args()
    service = InferenceService(given.model, given.base_url)
    await service.start()
    try:
        batches = [["What is the capital of France?", "What is the capital of Italy?"], ["What is two plus two?"]]
        for answers in await asyncio.gather(*map(service.answer, batches)):
            print(answers)
        print(await service.answer(["Hello"], model="no-such-model"))
        stats = service.provider.stats()
        print(f"{stats.generations_succeeded} answers, {stats.generations_failed} failed, {stats.total_tokens} tokens")
    finally:
        await service.stop()


if __name__ == "__main__":
    run(main())
