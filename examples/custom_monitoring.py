"""Monitor a provider in three ways: its own statistics, the log, and OpenTelemetry if it is installed."""

from __future__ import annotations

import logging

from _common import parser, pull_if_missing, run

from namel3ss_ollama import LLMError, OllamaProvider


def watch_with_opentelemetry() -> object | None:
    """Keep metrics in memory; an application would export them. Returns None if the SDK is not installed."""
    try:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        return None
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


def print_metrics(reader: object | None) -> None:
    if reader is None:
        print("OpenTelemetry's SDK is not installed: pip install opentelemetry-sdk")
        return
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            print("metrics:", ", ".join(sorted(metric.name for metric in scope.metrics)))


async def main() -> None:
    given = parser(__doc__).parse_args()
    logging.basicConfig(level=logging.INFO, format="log: %(name)s: %(message)s")
    logging.getLogger("namel3ss_ollama").setLevel(logging.INFO)
    reader = watch_with_opentelemetry()
    async with OllamaProvider(given.model, given.base_url, temperature=0, max_tokens=20) as provider:
        await pull_if_missing(provider)
        for prompt in ("What is the capital of France?", "What is the capital of Italy?"):
            async for _ in provider.stream_generate(prompt):
                pass
        try:
            await provider.agenerate("Hello", model="no-such-model")
        except LLMError as error:
            print(f"expected: {type(error).__name__}")
        stats = provider.stats()
        print(f"answers: {stats.generations_succeeded}, failures: {stats.generations_failed}, retries: {stats.retries}")
        print(f"tokens: {stats.prompt_tokens} in, {stats.completion_tokens} out, {stats.tokens_per_second or 0:.0f}/s")
        print(f"first token: {stats.first_token_seconds or 0:.2f} s, in the queue: {stats.queue_seconds:.2f} s")
    print_metrics(reader)


if __name__ == "__main__":
    run(main())
