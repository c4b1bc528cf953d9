"""Which error an HTTP answer or a transport's exception stands for, and what to do about it. Plain functions.

Written against what servers were seen to answer: a 500 is what Ollama sends for an option of the wrong type as
well as for a runner that ran out of memory, so a 500 counts as temporary only when its text says so.
"""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from collections.abc import Mapping

import httpx

from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    LLMConnectionError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.reasons import reason_in_body, shortened, sign_in_page
from namel3ss_ollama.remedies import (
    of_a_closed_cloud,
    of_a_context,
    of_a_gateway,
    of_a_handshake,
    of_a_refusal,
    of_a_shortage,
    of_a_transfer,
    of_an_unread_call,
)
from namel3ss_ollama.streamer import timeout_error
from namel3ss_ollama.types import LLMResponse, usage_of
from namel3ss_ollama.unread import UnreadCall, unread_call

__all__ = ["error_for_exception", "error_for_line", "error_for_status", "retry_after_seconds"]

_CAN_HEAL = re.compile(
    r"runner (process )?(has terminated|is not responding)|out of memory|timed out waiting for llama runner|"
    r"unexpected server status|error loading llama server|model (runner has )?unexpectedly stopped|"
    r"connection (refused|reset)|forcibly closed|broken pipe|\bEOF\b|llm server (error|busy)|"
    r"health resp|resource limitations|server (is )?(busy|loading)",
    re.IGNORECASE,
)
_REQUEST_AT_FAULT = re.compile(
    r"^option \"|json: cannot unmarshal|invalid (option|JSON schema|format)|"
    r"unable to create sampling context|failed to parse grammar|JSON schema conversion|template:|does not support|"
    r"(image|audio) input is not supported|image: unknown format|failed to load image or audio",
    re.IGNORECASE,
)
_GATEWAYS = frozenset({502, 504, *range(520, 525), 529, 530})
"""What stands between could not reach the server, or not for now; beyond 511 they are Cloudflare's."""
_HTTP_FLAW = re.compile(
    r"Got more than \d+ bytes|Too many headers|Duplicate [A-Za-z-]+|[A-Za-z-]+ can't be present with [A-Za-z-]+"
)
_TOO_LONG = re.compile(
    r"(exceeds?|longer than|larger than|too long for)[\w\s'()-]*context|context (length|window|size)[\w\s]*exceeded",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(\d{1,12}) tokens")
_NO_SUCH_MODEL = re.compile(
    r"\bmodel(?::?\s+['\"`][^'\"`]*['\"`]|\s+\S+)\s+((was )?not found|(does not|doesn't) exist)|"
    r"\bmodel (was )?not found|\bno such model\b|\bunknown model\b|try pulling",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"quota|(monthly|weekly|daily|hourly|usage|plan) limit|billing|upgrade", re.IGNORECASE)


def error_for_status(status: int, headers: Mapping[str, str], body: bytes, *, url: str, model: str | None) -> LLMError:
    """The error that an HTTP answer other than 2xx stands for.

    Args:
        status: The status code.
        headers: The answer's headers.
        body: Its body, or the beginning of it.
        url: The server's address, without credentials.
        model: The model that was asked for, when one was.
    """
    reason = reason_in_body(body)
    if status == 500 and (call := unread_call(reason)) is not None:
        return _call_unread(status, call, url, model)
    said = shortened(reason)
    quoted = f": {said}" if said else ""
    if 300 <= status < 400:
        return BadRequestError(
            f"{url} redirects elsewhere ({status}); redirects are not followed, because a key might follow them: "
            "set base_url to where the server is",
            status_code=status,
        )
    if status in (401, 403):
        return AuthenticationError(
            f"{url} refused access ({status}{quoted}); {_access_advice(status, said, body)}", status_code=status
        )
    if status == 407:
        return AuthenticationError(f"the proxy before {url} wants a login (407{quoted})", status_code=status)
    if status == 404 or _NO_SUCH_MODEL.search(said):
        return _not_found(status, said, url, model)
    if status in (402, 408, 429, 503):
        if status == 402 or (status == 429 and _QUOTA.search(said)):
            wait = "add credit or a plan to the account" if status == 402 else "wait until it is renewed"
            return QuotaExceededError(
                f"a quota is used up ({status}{quoted}); {wait}, or use another account or model",
                status_code=status,
                retry_after=retry_after_seconds(headers),
            )
        return ServerBusyError(
            f"{url} takes no more requests for now ({status}{quoted}); try again later, lower max_concurrent, or raise "
            "OLLAMA_MAX_QUEUE on the server",
            status_code=status,
            retry_after=retry_after_seconds(headers),
        )
    if status >= 500:
        return _server_failed(status, said, url)
    return _bad_request(status, said)


def error_for_line(said: str, *, url: str) -> LLMError:
    """The error that a line `{"error": ...}` under status 200 stands for."""
    if (call := unread_call(said)) is not None:
        return _call_unread(None, call, url, None)
    said = shortened(said)
    if _NO_SUCH_MODEL.search(said):
        return _not_found(404, said, url, None)
    return _server_failed(None, said, url)


def pull_command(url: str, model: str) -> str:
    """The command that fetches a model for the server at an address, or for the engine in this process."""
    return f"namel3ss-ollama models pull {model} --embedded" if url == EMBEDDED_URL else f"ollama pull {model}"


def _not_found(status: int, said: str, url: str, model: str | None) -> LLMError:
    if _NO_SUCH_MODEL.search(said):
        name = f"{model!r} " if model else ""
        command = pull_command(url, model or "<model>")
        return ModelNotFoundError(
            f"{url} does not have the model {name}({said}); pull it with `{command}` or "
            "`provider.pull_model()`, or see list_models() for what is there",
            status_code=status,
        )
    return BadRequestError(
        f"{url} does not know this path (404{': ' + said if said else ''}); is the path in base_url right, "
        "and the server new enough?",
        status_code=404,
    )


def _access_advice(status: int, said: str, body: bytes) -> str:
    """What to do about a refusal of access."""
    page = sign_in_page(body)
    if page:
        return f"the server's account is not signed in at ollama.com: run `ollama signin` there, or open {page}"
    if off := of_a_closed_cloud(said):
        return off
    advice = "check api_key or OLLAMA_API_KEY, or the user and password in base_url"
    if status == 403 and not body.strip():
        return (
            "without a reason: Ollama refuses a Host or an Origin that it does not know. On the server, set "
            "OLLAMA_HOST=0.0.0.0 (or let the proxy send 'Host: localhost'), and OLLAMA_ORIGINS for an Origin; if it is "
            f"a proxy that refuses, {advice}"
        )
    return advice


def _bad_request(status: int | None, said: str) -> LLMError:
    if _TOO_LONG.search(said):
        window, tokens = _sizes(said)
        return ContextWindowExceededError(
            f"the prompt does not fit the context window ({said}); {of_a_context(said)}",
            status_code=status,
            tokens=tokens,
            window=window,
        )
    advice = of_a_refusal(said)
    return BadRequestError(
        f"the server refused the request ({_with_status(status, said)}){advice and '; ' + advice}", status_code=status
    )


def _sizes(said: str) -> tuple[int | None, int | None]:
    """The window and the tokens of a prompt, where a refusal names both; the prompt's are the more."""
    numbers = sorted(int(number) for number in _SIZE.findall(said))
    return (numbers[0], numbers[-1]) if len(numbers) > 1 else (None, None)


def _call_unread(status: int | None, call: UnreadCall, url: str, model: str | None) -> ToolCallParseError:
    what = _with_status(status, shortened(call.reason))
    return ToolCallParseError(
        f"{url} could not read the tool call that the model wrote ({what}); {of_an_unread_call(call.reason)}",
        status_code=status,
        partial=LLMResponse(call.text, model or "", usage_of({}), None, {}) if call.text else None,
        text=call.text,
    )


def _with_status(status: int | None, said: str) -> str:
    return ": ".join(filter(None, [str(status) if status else "", said]))


def _server_failed(status: int | None, said: str, url: str) -> LLMError:
    if status in (None, 500) and _TOO_LONG.search(said):
        return _bad_request(status, said)
    if status in (None, 500) and _REQUEST_AT_FAULT.search(said):
        return _bad_request(status, said)
    temporary = bool(_CAN_HEAL.search(said)) if status in (None, 500) else status in _GATEWAYS
    what = _with_status(status, said) or "no reason given"
    advice = of_a_transfer(said) or of_a_shortage(said) or of_a_gateway(status, said) or "the server's log says more"
    return ServerError(f"{url} failed ({what}); {advice}", status_code=status, temporary=temporary)


def retry_after_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """`Retry-After` in seconds from now (RFC 9110, 10.2.3: a number or a date); None when absent or malformed."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:  # asctime's form, the third of RFC 9110, 5.6.7
        when = when.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, when.timestamp() - (time.time() if now is None else now))


def error_for_exception(error: Exception, *, url: str, connect_timeout: float | None, began: bool) -> LLMError | None:
    """The error that a transport's exception stands for; None for one that no transport raises.

    Args:
        error: What was raised while sending or reading.
        url: The server's address, without credentials.
        connect_timeout: That deadline, for the message.
        began: Whether anything of the answer's content had arrived.
    """
    cause = error.__cause__
    if isinstance(error, httpx.ConnectTimeout) and _is_timeout(cause):
        return timeout_error("connect", connect_timeout or 0.0, error)
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)) or _never_connected(cause):
        what = f"through the proxy to {url}" if isinstance(error, httpx.ProxyError) else f"to {url}"
        tls = of_a_handshake(cause or error)
        advice = tls or (
            "Is Ollama running? Start it with `ollama serve`, or set base_url (or OLLAMA_HOST) to where it runs"
        )
        return LLMConnectionError(
            f"cannot connect {what} ({_brief(_reason(cause) or error)}). {advice}",
            original_error=error,
            temporary=not tls,
        )
    if isinstance(error, httpx.UnsupportedProtocol):
        return BadRequestError(f"base_url: {url} is not an address to send to", original_error=error)
    if isinstance(error, httpx.DecodingError):
        return MalformedResponseError(
            f"{url} sent a body that does not decompress; is something between that changes answers?",
            original_error=error,
        )
    if _broke(error):
        if began:
            return StreamInterruptedError(
                f"the connection to {url} broke in the middle of the answer ({_brief(cause or error)}); "
                "what had arrived is in `partial`",
                original_error=error,
                temporary=True,
            )
        return LLMConnectionError(
            f"the connection to {url} broke before anything of the answer came ({_brief(cause or error)}); "
            "did the server restart, or run out of memory? Its log says more",
            original_error=error,
        )
    if isinstance(error, httpx.HTTPError) or type(error).__module__.partition(".")[0] == "aiohttp":
        return MalformedResponseError(
            # Neither its text nor itself is passed on: it quotes what was sent, which may be an answer.
            f"{url} sent what is not HTTP ({type(error).__name__}); {_flaw_in_http(error)}"
        )
    return None


def _flaw_in_http(error: Exception) -> str:
    """What aiohttp did not take, where it says so without quoting; and what to do."""
    cause = error if error.__cause__ is None else error.__cause__
    found = _HTTP_FLAW.match(str(getattr(cause, "message", "")))
    if found is None:
        return "is this address an Ollama server?"
    return f"{found[0]}; a proxy before the server may add that. transport='httpx' is less strict"


def _never_connected(cause: BaseException | None) -> bool:
    # httpx-aiohttp reports this, too, as a ConnectTimeout.
    return type(cause).__name__.startswith(("ClientConnector", "ClientProxyConnection"))


def _reason(cause: BaseException | None) -> BaseException | None:
    # aiohttp's own text repeats the address, and speaks of ssl for http too; what the system said is enough.
    reason = getattr(cause, "os_error", None)
    return reason if isinstance(reason, OSError) else cause


def _is_timeout(cause: BaseException | None) -> bool:
    # httpx-aiohttp reports any broken connection as a ConnectTimeout; the cause tells.
    return cause is None or isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__


def _broke(error: Exception) -> bool:
    if isinstance(error, httpx.RemoteProtocolError):
        # httpcore's word for a peer that hung up, and for one that does not speak HTTP.
        return "disconnect" in str(error) or "closed" in str(error) or "incomplete" in str(error)
    return isinstance(error, (httpx.NetworkError, httpx.TimeoutException, OSError))


def _brief(error: BaseException) -> str:
    return shortened(str(error) or type(error).__name__)
