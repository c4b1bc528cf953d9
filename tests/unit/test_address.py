"""The address of the server: every form of OLLAMA_HOST and base_url."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.address import DEFAULT_URL, Address, is_ollama_com, parse_address, resolve_address

FORMS = [
    # host and port
    ("myhost", "http://myhost:11434"),
    ("myhost:8080", "http://myhost:8080"),
    ("myhost:", "http://myhost:11434"),
    (":8080", "http://127.0.0.1:8080"),
    ("my_service.local-1", "http://my_service.local-1:11434"),
    ("192.168.0.7", "http://192.168.0.7:11434"),
    ("192.168.0.7:80", "http://192.168.0.7:80"),
    ("müller.example", "http://müller.example:11434"),
    ("myhost:0", "http://myhost:0"),
    ("myhost:65535", "http://myhost:65535"),
    # scheme
    ("http://myhost", "http://myhost:80"),
    ("https://myhost", "https://myhost:443"),
    ("HTTPS://myhost", "https://myhost:443"),
    ("http://myhost:11434", "http://myhost:11434"),
    ("https://myhost:8443", "https://myhost:8443"),
    ("http://:1234", "http://127.0.0.1:1234"),
    ("ollama.com", "https://ollama.com:443"),
    ("http://ollama.com", "http://ollama.com:80"),
    ("https://ollama.com", "https://ollama.com:443"),
    ("ollama.com:8080", "http://ollama.com:8080"),
    # path
    ("myhost/prefix", "http://myhost:11434/prefix"),
    ("http://myhost:1/a/b/", "http://myhost:1/a/b"),
    ("https://myhost/", "https://myhost:443"),
    ("https://myhost//", "https://myhost:443"),
    (":1/x", "http://127.0.0.1:1/x"),
    # IPv6
    ("::1", "http://[::1]:11434"),
    ("[::1]", "http://[::1]:11434"),
    ("[::1]:80", "http://[::1]:80"),
    ("[::1]:", "http://[::1]:11434"),
    ("https://[2001:db8::7]", "https://[2001:db8::7]:443"),
    ("https://2001:db8::7/x", "https://[2001:db8::7]:443/x"),
    ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
    ("[fe80::1%eth0]", "http://[fe80::1%eth0]:11434"),
    # a bind address
    ("0.0.0.0", "http://127.0.0.1:11434"),
    ("0.0.0.0:80", "http://127.0.0.1:80"),
    ("http://0.0.0.0", "http://127.0.0.1:80"),
    ("::", "http://[::1]:11434"),
    ("[::]", "http://[::1]:11434"),
    ("[::]:80", "http://[::1]:80"),
    # white space around
    ("  myhost:1 \n", "http://myhost:1"),
]


@pytest.mark.parametrize(("text", "url"), FORMS)
def test_each_form_of_an_address(text: str, url: str) -> None:
    assert parse_address(text) == Address(url)
    assert parse_address(text, lenient=True) == Address(url)
    assert resolve_address(None, {"OLLAMA_HOST": text}) == Address(url)


@pytest.mark.parametrize("text", ["0:0:0:0:0:0:0:0", "[::0]:11434"])
def test_another_spelling_of_the_bind_address_is_one_too(text: str) -> None:
    # Once wrong: only the spelling "::" is known (`ipaddress.ip_address(host).is_unspecified` knows all)
    assert parse_address(text).url == "http://[::1]:11434"


def test_a_zone_and_a_port_are_distinguished() -> None:
    # Once wrong: what follows % is not looked at, so "fe80::1%eth0]:5" passes for an address without a port, and
    # the URL is http://[fe80::1%eth0]:5]:11434
    assert parse_address("[fe80::1%eth0]:5").url == "http://[fe80::1%eth0]:5"


@pytest.mark.parametrize("text", ["[::1", "::1]", "[::1:80", "]::1[", "[[::1]]"])
def test_unbalanced_brackets_are_rejected(text: str) -> None:
    # Once wrong: brackets are stripped from either end, so that "[::1:80" is the host ::1:80 at port 11434
    with pytest.raises(ValueError, match=r"^base_url: "):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "an address must be like http://localhost:11434"),
        (" ", "an address must be like"),
        ("my host", "without spaces"),
        ("http://my\thost", "without spaces"),
        ("myhost\x00", "control characters"),
        ("http://my\u2028host", "without spaces"),
        ("ftp://myhost", "the scheme 'ftp' is not http or https"),
        ("://myhost", "the scheme '' is not http or https"),
        ("embedded://x", "the scheme 'embedded' is not http or https"),
        ("http+unix://x", "the scheme 'http\\+unix' is not"),
        ("http://myhost?x=1", "no query and no fragment"),
        ("http://myhost/x#y", "no query and no fragment"),
        ("myhost:eighty", "the port is not a number"),
        ("myhost:65536", "the port is not a number"),
        ("myhost:-1", "the port is not a number"),
        ("myhost:٣", "the port is not a number"),
        ("myhost:1:2", "the port is not a number"),
        ("[::1]:x", "the port is not a number"),
        ("[nonsense]:80", "not an IPv6 address in brackets"),
        ("[::1]80", "not an IPv6 address in brackets"),
        ("my$host", "'my\\$host' is not a host name"),
        ("127.0.0.1%eth0", "is not a host name"),
        ("http://a,b", "is not a host name"),
    ],
)
def test_an_error_about_a_malformed_address_names_its_source(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^base_url: .*({what})"):
        parse_address(text)
    with pytest.raises(ValueError, match=f"^here: .*({what})"):
        parse_address(text, "here")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("myhost:eighty", "http://myhost:11434"),
        ("myhost:65536", "http://myhost:11434"),
        (":x", "http://127.0.0.1:11434"),
        ("http://myhost:x", "http://myhost:80"),
        ("https://myhost:-1", "https://myhost:443"),
        ("[::1]:x", "http://[::1]:11434"),
    ],
)
def test_a_malformed_port_in_ollama_host_is_the_default_one(text: str, url: str) -> None:
    assert resolve_address(None, {"OLLAMA_HOST": text}).url == url
    with pytest.raises(ValueError, match=r"^OLLAMA_BASE_URL: the port"):
        resolve_address(None, {"OLLAMA_BASE_URL": text})


def test_a_port_of_thousands_of_digits_is_malformed_like_any_other() -> None:
    # Once wrong: int() refuses so many digits with an error of its own (ValueError, but not ours, and not lenient)
    assert parse_address("myhost:" + "1" * 5000, lenient=True).url == "http://myhost:11434"


@pytest.mark.parametrize(
    ("base_url", "environ", "url"),
    [
        ("a", {"OLLAMA_BASE_URL": "b", "OLLAMA_HOST": "c"}, "http://a:11434"),
        (None, {"OLLAMA_BASE_URL": "b", "OLLAMA_HOST": "c"}, "http://b:11434"),
        (None, {"OLLAMA_BASE_URL": " ", "OLLAMA_HOST": "c"}, "http://c:11434"),
        (None, {"OLLAMA_HOST": "c"}, "http://c:11434"),
        (None, {"OLLAMA_HOST": ""}, DEFAULT_URL),
        (None, {"OLLAMA_HOST": "''"}, DEFAULT_URL),
        (None, {"OLLAMA_BASE_URL": "", "OLLAMA_HOST": " "}, DEFAULT_URL),
        (None, {}, DEFAULT_URL),
    ],
)
def test_which_setting_takes_precedence(base_url: str | None, environ: dict[str, str], url: str) -> None:
    assert resolve_address(base_url, environ).url == url


def test_quotes_around_ollama_host_are_dropped_as_ollama_does() -> None:
    assert resolve_address(None, {"OLLAMA_HOST": "\"'myhost:1'\" "}).url == "http://myhost:1"


def test_quotes_around_nothing_are_nothing() -> None:
    # Once wrong: what is left of the quotes is not stripped again (Ollama does)
    assert resolve_address(None, {"OLLAMA_HOST": '" "'}).url == DEFAULT_URL


def test_an_empty_base_url_in_code_is_a_mistake_and_not_the_default() -> None:
    with pytest.raises(ValueError, match=r"^base_url: "):
        resolve_address("", {"OLLAMA_HOST": "c"})


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("http://me:secret@myhost:1", "me", "secret"),
        ("me:secret@myhost:1", "me", "secret"),
        ("http://me@myhost:1", "me", ""),
        ("http://:secret@myhost:1", "", "secret"),
        ("http://me%40home:s%3A%2F%25@myhost:1", "me@home", "s:/%"),
        ("http://me:se:cret@myhost:1", "me", "se:cret"),
        ("http://me@home:secret@myhost:1", "me@home", "secret"),
    ],
)
def test_credentials_are_removed_from_the_url(text: str, user: str, password: str) -> None:
    assert parse_address(text) == Address("http://myhost:1", user, password)
    assert parse_address(f"{text}/p") == Address("http://myhost:1/p", user, password)


def test_credentials_are_in_no_repr() -> None:
    address = parse_address("http://me:secret@myhost:1")
    assert repr(address) == "Address('http://myhost:1', with credentials)"
    assert repr(parse_address("myhost")) == "Address('http://myhost:11434')"


@pytest.mark.parametrize(
    "text",
    [
        "http://me:sec ret@myhost",
        "ftp://me:secret@myhost",
        "http://me:secret@my$host",
        "http://me:secret@myhost:x",
        "http://me:secret@[::1]x",
        "http://me:secret@myhost?x",
    ],
)
def test_credentials_are_in_no_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url") as caught:
        parse_address(text)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("lenient", [False, True])
def test_a_password_with_a_slash_is_neither_quoted_nor_taken_for_a_path(lenient: bool) -> None:
    # Once wrong: "the port is not a number", and with OLLAMA_HOST the address is http://me:80/word@myhost.
    # An @ after the first slash can be refused: it has to be written %2F and %40 there.
    with pytest.raises(ValueError, match=r"^base_url") as caught:
        parse_address("http://me:secret/word@myhost", lenient=lenient)
    assert "secret" not in str(caught.value)


names = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,10}[a-z0-9])?(\.[a-z][a-z0-9]{0,5})?", fullmatch=True)
hosts = st.one_of(
    names,
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
)
paths = st.lists(st.from_regex(r"[a-z0-9._-]{1,5}", fullmatch=True), max_size=3).map("/".join)


@given(st.sampled_from(["", "http://", "https://"]), hosts, st.none() | st.integers(0, 65535), paths)
def test_a_parsed_address_has_all_its_parts_and_round_trips(
    scheme: str, host: str, port: int | None, path: str
) -> None:
    text = f"{scheme}{host}{'' if port is None else f':{port}'}{'/' if path else ''}{path}"
    address = parse_address(text)
    again = parse_address(address.url)
    assert again == address
    default = {"": 11434, "http://": 80, "https://": 443}[scheme]
    assert address.url.startswith(f"{scheme or 'http://'}")
    authority, _, rest = address.url.partition("://")[2].partition("/")
    assert rest == path
    assert authority.rpartition(":")[2] == str(default if port is None else port)
    bare = host.strip("[]")
    if bare not in ("0.0.0.0", "::"):
        assert authority.rpartition(":")[0] == host


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_needs_no_brackets(ip: ipaddress.IPv6Address) -> None:
    assert parse_address(str(ip)) == parse_address(f"[{ip}]")


@given(st.text(max_size=30), st.booleans())
def test_any_text_is_an_address_or_our_value_error(text: str, lenient: bool) -> None:
    try:
        address = parse_address(text, lenient=lenient)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert address.url.startswith(("http://", "https://"))
        assert not any(c.isspace() for c in address.url)
    assert not message or message.startswith("base_url: ")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("ollama.com", True), ("Ollama.COM.", True), ("www.ollama.com", True), ("a.b.ollama.com", True)),
        *(("ollama.com.example", False), ("notollama.com", False), ("ollama.co", False), ("localhost", False)),
        ("", False),
    ],
)
def test_which_hosts_are_the_service(host: str, expected: bool) -> None:
    assert is_ollama_com(host) is expected
