"""Several models, each for what it is good at: a router that looks at the question.

The providers share nothing but the server; each has its own bound on what runs at once.
"""

from __future__ import annotations

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
    """Sends a question to the model for its kind."""

    def __init__(self, models: dict[str, str], base_url: str | None) -> None:
        self.providers = {
            kind: OllamaProvider(model, base_url, max_concurrent=2, temperature=0, max_tokens=60)
            for kind, model in models.items()
        }

    def kind_of(self, question: str) -> str:
        return "tools" if any(word in question.lower() for word in ("feet", "miles")) else "talk"

    async def answer(self, question: str) -> str:
        provider = self.providers[self.kind_of(question)]
        messages = [{"role": "user", "content": question}]
        if self.kind_of(question) == "talk":
            return (await provider.achat(messages)).content
        asked = await provider.achat(messages, tools=[convert], tool_choice="convert")
        return "; ".join(f"{call.name}({dict(call.arguments)})" for call in asked.tool_calls)

    async def close(self) -> None:
        for provider in self.providers.values():
            await provider.aclose()


async def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tools-model", help="the model for questions that need a tool; --model by default")
    given = options.parse_args()
    router = Router({"talk": given.model, "tools": given.tools_model or given.model}, given.base_url)
    try:
        for provider in router.providers.values():
            await pull_if_missing(provider)
        for question in ("What is the capital of France?", "How many metres are 30 feet?"):
            print(f"{question} -> [{router.kind_of(question)}] {await router.answer(question)}")
    finally:
        await router.close()


if __name__ == "__main__":
    run(main())
