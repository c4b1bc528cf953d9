"""No argument can inject a header or a second request."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_namel3ss_ollama import ChatOllama
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import BadRequestError, OllamaProvider
from namel3ss_ollama.testing import OllamaServer

EVIL = ["\r\nX-Evil: 1", "\nX-Evil: 1", "\rX-Evil: 1", "\0", "\x7f", "\x85X-Evil: 1", "\r\n\r\nGET /evil HTTP/1.1\r\n"]
PLACES: dict[str, Any] = {
    "api_key": lambda url, evil: {"base_url": url, "api_key": f"key{evil}"},
    "header value": lambda url, evil: {"base_url": url, "headers": {"X-Good": f"1{evil}"}},
    "header name": lambda url, evil: {"base_url": url, "headers": {f"X-Good{evil}": "1"}},
    "user agent": lambda url, evil: {"base_url": url, "headers": {"User-Agent": f"me{evil}"}},
    "host": lambda url, evil: {"base_url": f"{url}{evil}"},
    "path": lambda url, evil: {"base_url": f"{url}/a{evil}/b"},
    "user": lambda url, evil: {"base_url": url.replace("http://", f"http://us{evil}er:word@")},
    "password": lambda url, evil: {"base_url": url.replace("http://", f"http://user:wo{evil}rd@")},
    "model": lambda url, evil: {"base_url": url, "model": f"llama3.2{evil}"},
}


@pytest.mark.parametrize("make", [OllamaProvider, ChatOllama, Ollama])
@pytest.mark.parametrize("place", PLACES)
def test_a_line_break_in_an_argument_is_rejected(make: Any, place: str) -> None:
    for evil in EVIL:
        settings = {"model": "llama3.2", **PLACES[place]("http://127.0.0.1:9", evil)}
        with pytest.raises(ValueError, match=r"api_key|headers|base_url|model"):
            make(**settings)


@pytest.mark.parametrize("name", ["OLLAMA_API_KEY", "OLLAMA_HOST", "OLLAMA_BASE_URL"])
def test_a_line_break_in_the_environment_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "box\r\nX-Evil: 1")
    with pytest.raises(ValueError, match=f"{name}|api_key"):
        OllamaProvider("llama3.2")


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_a_percent_encoded_line_break_stays_encoded(ollama_server: OllamaServer, transport: str) -> None:
    evil = "%0d%0aX-Evil:%201"
    address = ollama_server.url.replace("http://", f"http://us{evil}er:word{evil}@") + f"/a{evil}"
    provider = OllamaProvider("llama3.2", address, transport=transport)
    with provider, pytest.raises(BadRequestError, match="does not know this path"):
        provider.generate("hello")
    (record,) = ollama_server.requests
    assert "x-evil" not in record.headers
    assert record.path.startswith("/a%0")


@pytest.mark.parametrize(
    "name", ["Content-Length", "transfer-encoding", "Connection", "", "X Good", "X-Good:", "X-Gööd", "X(Good)"]
)
def test_invalid_and_reserved_header_names(name: str) -> None:
    with pytest.raises(ValueError, match="headers"):
        OllamaProvider("llama3.2", headers={name: "1"})


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_arguments_of_a_call_stay_in_its_body(ollama_server: OllamaServer, transport: str) -> None:
    evil = "x\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1\r\n"
    async with OllamaProvider("llama3.2", ollama_server.url, transport=transport) as provider:
        await provider.agenerate(evil, system=evil, stop=[evil], keep_alive="5m", options={evil: evil})
        await provider.achat([{"role": "user", "content": evil}], format={"title": evil})
        await provider.embed(evil, options={evil: evil})
        with pytest.raises(ValueError, match="model"):
            await provider.show_model(evil)
    assert len(ollama_server.requests) == 3
    assert all("x-evil" not in record.headers for record in ollama_server.requests)
