"""A service that shares one provider between batches, in which some questions fail.

The provider limits concurrency across all batches. A failure is a result, and does not stop the batch.
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
            max_queue=1000,  # a full queue fails at once, rather than waiting forever
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
                raise result  # a bug in the program, not a failed request
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
