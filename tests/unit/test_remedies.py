"""Remedies for errors that other programs report."""

from __future__ import annotations

import ssl

import pytest

from namel3ss_ollama.remedies import of_a_handshake, of_a_refusal, of_a_transfer


class Connector(OSError):
    """Like aiohttp's wrapper of an error of the operating system."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__("ssl:default")
        self.os_error = os_error


def caused_by(cause: BaseException) -> Exception:
    error = Exception("x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("wrap", [lambda e: e, Connector, caused_by, lambda e: caused_by(Connector(e))])
@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "use http://"),
        ("[SSL] record layer failure (_ssl.c:1000)", "use http://"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", "SSL_CERT_FILE"),
        ("[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error", "The TLS handshake failed"),
    ],
)
def test_handshakes(wrap, message, remedy) -> None:
    assert remedy in of_a_handshake(wrap(ssl.SSLError(1, message)))


def test_other_errors_have_no_remedy() -> None:
    assert of_a_handshake(None) == ""
    assert of_a_handshake(caused_by(ConnectionRefusedError(111, "Connection refused"))) == ""


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ('pull model manifest: Get "https://r/v2/x": dial tcp: lookup r on 10.0.0.1:53: no such host', "HTTPS_PROXY"),
        ('pull model manifest: Get "https://r/v2/x": dial tcp 1.2.3.4:443: i/o timeout', "HTTPS_PROXY"),
        ('pull model manifest: Get "https://r/v2/x": tls: failed to verify certificate: x509: unknown', "HTTPS_PROXY"),
        ('push model manifest: Put "https://r/v2/x": proxyconnect tcp: EOF', "HTTPS_PROXY"),
        ('max retries exceeded: Get "https://r/v2/x": net/http: TLS handshake timeout', "HTTPS_PROXY"),
        ("pull model manifest: file does not exist", "the registry has no model of that name"),
        ("pull model manifest: 412: requires a newer version of Ollama", ""),
        ('Post "http://127.0.0.1:39427/completion": dial tcp 127.0.0.1:39427: connect: connection refused', ""),
        ("llama runner process has terminated: signal: killed", ""),
    ],
)
def test_transfers(message, remedy) -> None:
    found = of_a_transfer(message)
    assert remedy in found
    assert bool(found) == bool(remedy)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("Client sent an HTTP request to an HTTPS server.", "use https://"),
        ("an HTML page: The plain HTTP request was sent to HTTPS port", "use https://"),
        ('option "temperatur" is not supported by the embedded engine', "did you mean temperature?"),
        ('option "zzz" is not supported by the embedded engine', "leave it out"),
        ("context is not supported by the embedded engine: use chat with the messages so far", ""),
        ('"m" does not support tools', "choose a model that supports it"),
        ("invalid JSON schema in format", "simplify"),
        ("something else", ""),
    ],
)
def test_refusals(message, remedy) -> None:
    found = of_a_refusal(message)
    assert remedy in found
    assert bool(found) == bool(remedy)
