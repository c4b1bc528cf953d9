"""Which proxy is used for an address."""

from __future__ import annotations

import httpx
import pytest

from namel3ss_ollama.address import is_loopback
from namel3ss_ollama.errors import LLMConnectionError, LLMTimeoutError
from namel3ss_ollama.proxies import blaming_the_proxy, check_proxy, environment_proxy, shown
from namel3ss_ollama.transport import HTTPSettings

PROXY = "http://proxy.test:3128"
SERVER = "http://ollama.test:11434"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "app.localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]",
     "::ffff:127.0.0.1", "0.0.0.0", "::"],
)  # fmt: skip
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example", "notlocalhost", "128.0.0.1", "10.0.0.1", "::2", "fe80::1%eth0", ""]
)
def test_any_other_machine_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url",
    ["http://localhost:11434", "https://127.0.0.1:1", "http://127.1.2.3:1", "http://[::1]:1", "http://a.localhost:1"],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_loopback_is_never_sent_to_the_environments_proxy(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Once wrong: the proxy received prompt and key.
    monkeypatch.setenv(name, PROXY)
    assert environment_proxy(url) is None
    assert HTTPSettings().proxy_for(url) is None


def test_an_explicit_proxy_is_for_loopback_too() -> None:
    assert HTTPSettings(proxy=PROXY).proxy_for("http://127.0.0.1:11434") == PROXY
    assert HTTPSettings(proxy=httpx.Proxy(PROXY)).proxy_for("http://127.0.0.1:11434") == PROXY


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (HTTPSettings(trust_env=False), SERVER),
        (HTTPSettings(transport=httpx.MockTransport(lambda _: httpx.Response(200))), SERVER),
        (HTTPSettings(client=httpx.AsyncClient()), SERVER),
        (HTTPSettings(), "embedded://"),
    ],
)
def test_where_the_environment_is_ignored(settings: HTTPSettings, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:1")
    assert settings.proxy_for(url) is None


@pytest.mark.parametrize(
    ("variable", "value", "url", "proxy"),
    [
        ("HTTP_PROXY", PROXY, SERVER, PROXY),
        ("HTTP_PROXY", "proxy.test:3128", SERVER, PROXY),
        ("HTTP_PROXY", PROXY, "https://ollama.test", None),
        ("HTTPS_PROXY", PROXY, "https://ollama.test", PROXY),
        ("ALL_PROXY", PROXY, "https://ollama.test", PROXY),
        ("ALL_PROXY", " ", SERVER, None),
    ],
)
def test_a_proxy_is_for_its_scheme(
    variable: str, value: str, url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert environment_proxy(url) == proxy


@pytest.mark.parametrize(
    ("exempt", "url"),
    [
        ("*", SERVER),
        ("ollama.test", SERVER),
        ("OLLAMA.test", SERVER),
        ("other.test, ollama.test", SERVER),
        ("test", SERVER),
        (".test", SERVER),
        ("*.test", SERVER),
        (".ollama.test", SERVER),
        ("ollama.test:11434", SERVER),
        ("10.1.2.3", "http://10.1.2.3:11434"),
        ("10.0.0.0/8", "http://10.1.2.3:11434"),
        ("10.1.2.3:11434", "http://10.1.2.3:11434"),
        ("fd00::1", "http://[fd00::1]:11434"),
        ("[fd00::1]", "http://[fd00::1]:11434"),
        ("[fd00::1]:11434", "http://[fd00::1]:11434"),
        ("fd00::/8", "http://[fd00::1]:11434"),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_in_all_its_forms(name: str, exempt: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv(name, exempt)
    assert environment_proxy(url) is None


@pytest.mark.parametrize(
    "exempt", ["", ",", "llama.test", "ollama.test:80", "ollama.testing", "11.0.0.0/8", "x/8", ".est"]
)
def test_no_proxy_for_other_hosts(exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert environment_proxy(SERVER) == PROXY


@pytest.mark.parametrize("proxy", ["proxy.test:3128", "ftp://proxy.test", "http://", "", "http://[::1"])
def test_an_invalid_proxy_is_rejected_at_construction(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: a proxy's address looks like"):
        HTTPSettings(proxy=proxy).check(SERVER)


def test_an_invalid_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "ftp://proxy.test")
    with pytest.raises(ValueError, match="the proxy in the environment"):
        HTTPSettings().check(SERVER)


def test_a_proxy_is_shown_without_its_password() -> None:
    assert shown("http://user:pass@proxy.test:3128/path?x") == PROXY
    assert check_proxy("socks5h://user:pass@proxy.test", "proxy") == "socks5h"


@pytest.mark.parametrize("given", [True, False])
def test_a_connect_timeout_is_blamed_on_the_proxy(given: bool) -> None:
    error = LLMTimeoutError("timed out", original_error=httpx.ConnectTimeout("x"), deadline="connect", seconds=1.0)
    blamed = blaming_the_proxy(error, PROXY, SERVER, given=given)
    assert blamed is error
    assert PROXY in str(blamed)
    assert ("NO_PROXY" in str(blamed)) is not given


def test_a_tls_error_behind_the_proxy_is_not_blamed_on_it() -> None:
    error = LLMConnectionError("certificate expired", original_error=httpx.ConnectError(""))
    assert str(blaming_the_proxy(error, PROXY, SERVER, given=True)).startswith("certificate expired (through the proxy")
