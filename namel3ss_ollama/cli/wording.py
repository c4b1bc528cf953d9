"""The core's messages name Python calls; the command replaces them by options and commands.

Words are replaced rather than sentences, so that a message of the core can change without this table; a test runs every
fault of the test server through the command and searches its output for Python names.
"""

from __future__ import annotations

import re

__all__ = ["in_the_commands_words"]

_WORDS = [
    (r"^OLLAMA_HOSTS: hosts(\[\d+\])?: (url: )?", "OLLAMA_HOSTS: "),
    (r"^--host: hosts(\[\d+\])?: (url: )?", "--host: "),
    (r" is given twice; give it more slots instead", " is given twice"),
    (r"^set num_ctx$", "set it for all: -o num_ctx=8192 here, PARAMETER num_ctx in the Modelfile"),
    (r"(set )?base_url \(or OLLAMA_HOST\) to where it runs", "name another server with --host or OLLAMA_HOST"),
    (r"; what had arrived is in `partial`", ""),
    (r"pull it with `ollama pull (\S+)` or `provider\.pull_model\(\)`", r"`namel3ss-ollama models pull \1`"),
    (r" or `?provider\.pull_model\(\)`?", ""),
    (r"`?provider\.pull_model\(\)`?", "`namel3ss-ollama models pull`"),
    (r"`ollama pull ", "`namel3ss-ollama models pull "),
    (r"`?(provider\.)?list_models\(\)`?", "`namel3ss-ollama models list`"),
    (r"`?(provider\.)?show_model\(\)`?", "`namel3ss-ollama models show`"),
    (r"api_key or OLLAMA_API_KEY", "OLLAMA_API_KEY"),
    (r"\bapi_key\b", "OLLAMA_API_KEY"),
    (r", or give that as verify\b", ""),
    (r"\bset base_url to\b", "give --host"),
    (r"\bbase_url\b", "--host"),
    (r": raise first_chunk_timeout, or call preload\(\) first", ": try again in a minute"),
    (r": raise first_chunk_timeout, or have it streamed", ""),
    (r", or raise (first_chunk|chunk|stream)_timeout", ""),
    (r"\braise (stream_)?timeout, or ask for fewer tokens \(max_tokens\)", "ask for fewer tokens: -o num_predict=200"),
    (r"\bstream_timeout\b", "the time for an answer"),
    (r"\bfirst_chunk_timeout\b", "the wait for the first token"),
    (r"\bchunk_timeout\b", "the wait for the next token"),
    (r", lower max_concurrent\b", ""),
    (r"\braise num_ctx\b", "raise it with -o num_ctx=8192"),
    (r"within budget=(\S+) s: raise budget$", r"within --budget \1 s: raise --budget"),
    (r"; name another$", "; name another with --journal"),
    (r"\bname another file$", "name another with --journal"),
    (r"simplify `format` or the tool's parameters", "simplify the schema given to --format"),
]
_ARGUMENTS = {
    "base_url": "--host",
    "model": "--model",
    "images": "--image",
    "format": "--format",
    "think": "--think",
    "journal": "--journal",
}
_NAMED = re.compile(r"(\w+)(?=: )")


def in_the_commands_words(text: str) -> str:
    """A message of the core, with Python names replaced by what to type on the command line."""
    if (named := _NAMED.match(text)) and named[1] in _ARGUMENTS:
        text = _ARGUMENTS[named[1]] + text[named.end() :]
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text
