"""Several servers as one: a batch is spread over all of them, and one that is down costs no answer.

python examples/several_hosts.py --base-url http://gpu1:11434 --base-url http://gpu2:11434
"""

from __future__ import annotations

import os
from collections import Counter

from _common import parser, pull_if_missing, run

from namel3ss_ollama import Host, Hosts, OllamaProvider

DOWN = "http://127.0.0.1:9"
"""A port on which nothing listens."""


async def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--slots", type=int, default=1, help="requests at once for each, as OLLAMA_NUM_PARALLEL says")
    given = options.parse_args()
    addresses = given.base_url or os.environ.get("OLLAMA_HOSTS", "http://localhost:11434").split(",")
    hosts = Hosts([DOWN, *(Host(address, slots=given.slots) for address in addresses)])
    async with OllamaProvider(given.model, hosts, temperature=0, max_tokens=20) as provider:
        await provider.look_at_hosts()  # optional: the first request would notice a server that is down
        await pull_if_missing(provider)
        countries = ["France", "Italy", "Spain", "Japan", "Norway", "Peru"]
        answers = await provider.agenerate_batch(f"What is the capital of {country}?" for country in countries)
        for country, answer in zip(countries, answers, strict=True):
            print(f"{country}, by {answer.host}: {answer.content}")
        counted = Counter(answer.host for answer in answers)
        for host in provider.hosts():
            parts = [f"{counted[host.url]} answers"]
            if host.tokens_per_second:
                parts.append(f"{host.tokens_per_second:.0f} tokens/s")
            print(f"{host.url}: {', '.join([*parts, host.why_not] if host.why_not else parts)}")


if __name__ == "__main__":
    run(main())
