"""Options that a server ignores."""

from __future__ import annotations

import logging

import pytest

from namel3ss_ollama.ignored import _SINCE, _UNTIL, IgnoredOptions
from namel3ss_ollama.server_version import ServerVersion
from namel3ss_ollama.settings import LOAD_OPTIONS, RUNTIME_OPTIONS


async def never() -> str:
    raise AssertionError("the version must not be requested")


def warned(caplog: pytest.LogCaptureFixture, version: str | None, *options: str) -> list[str]:
    known = ServerVersion(never)
    if version is not None:
        known.learn(version)
    caplog.clear()
    ignored = IgnoredOptions(known)
    for _ in range(2):
        ignored.check(options)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_all_are_keywords() -> None:
    assert _UNTIL.keys() | _SINCE.keys() <= RUNTIME_OPTIONS
    assert "draft_num_predict" in LOAD_OPTIONS


@pytest.mark.parametrize(
    ("option", "version", "ignored"),
    [
        ("tfs_z", "0.5.1", False), ("tfs_z", "0.5.2", True), ("penalize_newline", "0.5.4", False),
        ("penalize_newline", "0.5.5", True), ("mirostat", "0.6.8", False), ("mirostat", "0.7.0", True),
        ("mirostat_tau", "0.40.12", True), ("numa", "0.3.3", False), ("numa", "0.3.4", True),
        ("use_mlock", "0.9.3", True),
        ("low_vram", "0.33.0", True), ("vocab_only", "0.30.0-rc4", True), ("temperature", "0.40.0", False),
        ("draft_num_predict", "0.29.9", True), ("draft_num_predict", "0.30.0", False),
        ("draft_num_predict", "0.0.0", False), ("tfs_z", "0.0.0", False), ("tfs_z", None, False),
    ],
)  # fmt: skip
def test_an_ignored_option_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, option: str, version: str | None, ignored: bool
) -> None:
    messages = warned(caplog, version, option, "num_ctx")
    assert len(messages) == int(ignored)
    assert all(f" {option}: Ollama " in message for message in messages)


def test_each_option_has_its_warning(caplog: pytest.LogCaptureFixture) -> None:
    messages = warned(caplog, "0.9.3", "tfs_z", "mirostat")
    assert messages == [
        "the server ignores the option mirostat: Ollama dropped it in 0.7.0; leave it out",
        "the server ignores the option tfs_z: Ollama dropped it in 0.5.2; leave it out",
    ]
    assert warned(caplog, "0.9.3", "draft_num_predict") == [
        "the server ignores the option draft_num_predict: Ollama supports it since 0.30.0, and the server is "
        "older; leave it out"
    ]


def test_a_minimum_version_is_not_taken_for_the_version(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = ServerVersion(never)
    known.saw("0.12.6")
    IgnoredOptions(known).check(["draft_num_predict"])
    assert not caplog.records
