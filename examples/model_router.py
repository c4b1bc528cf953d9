"""Route each question to a model that suits it, with load balancing over several servers.

One provider serves all models on all servers. It knows which server has which model loaded, sends each server only as
many requests as it has slots, and retries a failed request on another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from _common import parser, pull_if_missing, run

from namel3ss_ollama import OllamaProvider


def convert(amount: float, unit: str) -> str:
    """Convert a length to metres.

    Args:
        amount: How many.
        unit: Of what, such as "feet" or "miles".
    """
    metres = {"feet": 0.3048, "miles": 1609.344}.get(unit, 1.0)
    return f"{amount * metres:g} metres"


class Router:
    """Sends a question to the model for its kind, on the best server for it."""

    def __init__(self, models: dict[str, str], base_url: Sequence[str] | None) -> None:
        self.models = models
        self.provider = OllamaProvider(models["talk"], base_url, temperature=0, max_tokens=60)

    def kind_of(self, question: str) -> str:
        return "tools" if any(word in question.lower() for word in ("feet", "miles")) else "talk"

    async def answer(self, question: str) -> str:
        kind, messages = self.kind_of(question), [{"role": "user", "content": question}]
        if kind == "talk":
            answer = await self.provider.achat(messages, model=self.models[kind])
            return f"{answer.host}: {answer.content}"
        answer = await self.provider.achat(messages, model=self.models[kind], tools=[convert], tool_choice="convert")
        calls = "; ".join(f"{call.name}({dict(call.arguments)})" for call in answer.tool_calls)
        return f"{answer.host}: {calls}"


async def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--tools-model", help="the model for questions that need a tool; --model by default")
    given = options.parse_args()
    router = Router({"talk": given.model, "tools": given.tools_model or given.model}, given.base_url)
    questions = ["What is the capital of France?", "How many metres are 30 feet?"]
    async with router.provider:
        for model in set(router.models.values()):
            await pull_if_missing(router.provider, model)
        answers = await asyncio.gather(*(router.answer(question) for question in questions))
    for question, answer in zip(questions, answers, strict=True):
        print(f"{question} -> [{router.kind_of(question)}] {answer}")


if __name__ == "__main__":
    run(main())
