"""What to do about failures that a server or a system reports in its own words. Plain functions over texts."""

from __future__ import annotations

import difflib
import re
import ssl

from namel3ss_ollama.settings import RUNTIME_OPTIONS

__all__ = [
    "of_a_closed_cloud",
    "of_a_context",
    "of_a_gateway",
    "of_a_handshake",
    "of_a_refusal",
    "of_a_shortage",
    "of_a_transfer",
    "of_an_unread_call",
]

_PLAIN_HTTP = re.compile(
    r"wrong[_ ]version[_ ]number|record layer failure|packet length too long|http[_ ]request", re.I
)
_PLAIN_TO_TLS = re.compile(
    r"HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS|plain HTTP to an SSL-enabled", re.IGNORECASE
)
_UNTRUSTED = re.compile(r"certificate[_ ]verify[_ ]failed", re.IGNORECASE)
_TRANSFER = re.compile(r"\b(pull|push)(ing)? model|max retries exceeded|\bregistry\b", re.IGNORECASE)
_NO_WAY_OUT = re.compile(
    r"dial (tcp|udp)|no such host|server misbehaving|proxyconnect|x509:|TLS handshake|unreachable|i/o timeout|"
    r"deadline exceeded|connection (refused|reset)|(Client\.Timeout|timeout) (exceeded|awaiting)",
    re.IGNORECASE,
)
_NO_SUCH_FILE = re.compile(r"manifest: file does not exist", re.IGNORECASE)
_NO_DECISIONS = re.compile(r"does not support decision", re.IGNORECASE)
_TOO_LARGE = re.compile(r"(body|entity|content|payload|request)( is)? too large", re.IGNORECASE)
_CANNOT = re.compile(r"(does not|doesn't|do not|not) support|not supported", re.IGNORECASE)
_UNREAD_MEDIA = re.compile(r"image: unknown format|failed to load image or audio", re.IGNORECASE)
_GRAMMAR = re.compile(r"JSON schema (in format|conversion)|sampling context|grammar", re.IGNORECASE)
_CLOUD_OFF = re.compile(r"ollama cloud is disabled", re.IGNORECASE)
_MOST_OF_A_MODEL = re.compile(r"model's maximum context", re.IGNORECASE)
_NOT_REACHED = frozenset({502, *range(520, 524), 530})
_GAVE_UP = frozenset({504, 524})
_ENDS_EARLY = re.compile(r"unexpected (end of JSON|EOF)|incomplete", re.IGNORECASE)
_NO_MEMORY = re.compile(
    r"requires more ([\w-]+ )?memory|out of memory|(unable|failed) to allocate|cudaMalloc failed", re.IGNORECASE
)
_OPTION = re.compile(r'option "(\w+)" is not supported')


def of_a_handshake(error: BaseException | None) -> str:
    """What to do when TLS is why there is no connection; empty when it is not."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    if error is None:
        return ""
    if _PLAIN_HTTP.search(str(error)):
        return "The server there speaks plain HTTP: use http:// instead of https://"
    if _UNTRUSTED.search(str(error)):
        return "Its certificate is not trusted: set SSL_CERT_FILE to a file with its CA, or give that as verify"
    return "The TLS handshake failed: is the address right, and TLS set up there?"


def of_a_transfer(said: str) -> str:
    """What to do when a server that pulls or pushes a model says this; empty when it is about something else."""
    if not _TRANSFER.search(said):
        return ""
    if _NO_SUCH_FILE.search(said):
        return "the registry has no model of that name: look for the right one at https://ollama.com/library"
    if _NO_WAY_OUT.search(said):
        return (
            "the server transfers models itself, and its way to the registry is closed: check the network of its "
            "machine, and set HTTPS_PROXY for `ollama serve` there if it needs a proxy"
        )
    return ""


def of_a_shortage(said: str) -> str:
    """What to do when a model does not fit into memory; empty when it does, or the server says what to do."""
    if not _NO_MEMORY.search(said) or "num_ctx" in said:
        return ""
    return (
        "the model does not fit into memory there: lower num_ctx, unload other models (`ollama ps` lists them), or "
        "choose a smaller model or quantization"
    )


def of_a_refusal(said: str) -> str:
    """What to do when a server refuses a request with these words; empty when they say it themselves."""
    if _PLAIN_TO_TLS.search(said):
        return "the server there speaks TLS: use https:// instead of http://"
    if option := _OPTION.search(said):
        near = difflib.get_close_matches(option[1], RUNTIME_OPTIONS, n=1)
        return f"did you mean {near[0]}?" if near else "leave it out"
    if "embedded engine" in said:
        return ""
    if _NO_DECISIONS.search(said):
        return "choose a decision model, such as nimble or clef (show_model() lists the capability 'decision')"
    if _TOO_LARGE.search(said):
        return "send less at once, or raise the limit of what stands before the server, if that refuses it"
    if _CANNOT.search(said):
        return "choose a model that can (show_model() lists its capabilities)"
    if _UNREAD_MEDIA.search(said):
        return (
            "give images as PNG or JPEG and audio as WAV, to a model that can take them (show_model() lists the "
            'capabilities "vision" and "audio")'
        )
    if _GRAMMAR.search(said):
        return "the server can make no grammar of this schema: simplify `format` or the tool's parameters"
    return ""


def of_an_unread_call(reason: str) -> str:
    """What to do when a server cannot read the tool call that its model wrote, for this reason."""
    cut = "it ends early: raise max_tokens if there is such a limit; else " if _ENDS_EARLY.search(reason) else ""
    return (
        f"{cut}ask again, since the model then writes another call. If that fails too, simplify the tools' parameters, "
        "lower the temperature, or choose a model that is better at calling tools"
    )


def of_a_closed_cloud(said: str) -> str:
    """What to do when a server may not use Ollama's cloud; empty when it says something else."""
    if not _CLOUD_OFF.search(said):
        return ""
    return (
        "it is switched off on the server: unset OLLAMA_NO_CLOUD there, or remove disable_ollama_cloud from its "
        "~/.ollama/server.json, and restart it; or choose a model that the server runs itself"
    )


def of_a_context(said: str) -> str:
    """What to do when a prompt is too long for a context window."""
    if _MOST_OF_A_MODEL.search(said):  # ollama 0.33: x/mlxrunner/pipeline.go, which does not look at num_ctx
        return "shorten the prompt, or choose a model with a longer context window; num_ctx does not raise this limit"
    return "raise num_ctx, or shorten the prompt"


def of_a_gateway(status: int | None, said: str) -> str:
    """What to do when a gateway answers in the server's place; empty for any other status."""
    if status == 502 and "ollama.com" in said:  # ollama 0.12: server/cloud_proxy.go, on the way to a model in the cloud
        return "the server did not reach ollama.com: check the network of its machine, or choose a model it runs itself"
    if status in _GAVE_UP:
        return (
            "a gateway did not wait long enough for the server: have the answer streamed, keep the model loaded "
            "(keep_alive), or raise the gateway's limit"
        )
    if status in _NOT_REACHED:
        return "a gateway did not reach the server: is it running, and is its address right in the gateway?"
    return ""
