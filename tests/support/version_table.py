"""How to detect each feature of a version: docs/compatibility.md, and the tests of the test server's versions.

A probe sends requests to a server and returns whether it has the feature. It runs against the test server at every
version and, unless it needs a script or the server's internals, against the real server of the live tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
from drop_in import SCENARIOS
from left_out import section
from media_files import MP3, PNG, encoded

from namel3ss_ollama.testing import Model, OllamaServer, ToolCall
from namel3ss_ollama.testing.versions import FEATURES, Feature

__all__ = ["CHAT", "MODELS", "PROBES", "TRIED", "VERSIONS", "Place", "Probe", "page"]

VERSIONS = ("0.9.3", "0.12", "0.33", "0.40")
TRIED = "0.9.3"
"""The version of the real server that the live tests run against."""
CHAT, THINK, EMBED, CLOUD = "smollm2:135m", "smollm2-think:135m", "all-minilm:22m", "gpt-oss:120b-cloud"
DECIDES = "nimble:latest"
HEARS = "gemma4:e2b"
MODELS = [
    Model(CHAT, ("completion", "tools")),
    Model(THINK, ("completion", "thinking")),
    Model(EMBED, ("embedding",), family="bert", context_length=512),
    Model(HEARS, ("completion", "vision", "audio"), family="gemma4"),
]
PARSED = Model("qwen3.5", ("completion", "thinking"), parser="qwen3.5")
LONG = " ".join(f"word {number}" for number in range(400))
TOOL = {
    "type": "function",
    "function": {
        "name": "send",
        "parameters": {
            "type": "object",
            "properties": {
                "to": {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]},
                "text": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "from": {"$ref": "#/$defs/Address"},
            },
        },
    },
}


_CLIENT = httpx.Client(timeout=120, trust_env=False)


@dataclass(frozen=True)
class Place:
    """A server to query, by default with `chat_model`; `server` is None for a real one."""

    url: str
    server: OllamaServer | None = None
    chat_model: str = CHAT

    def get(self, path: str) -> httpx.Response:
        """The response to a request without a body."""
        return _CLIENT.get(self.url + path)

    def post(self, path: str, **payload: Any) -> httpx.Response:
        """The response to a request: not streamed, and a few tokens at most."""
        options = {"num_predict": 4, "temperature": 0, **payload.pop("options", {})}
        body = {"model": self.chat_model, "stream": False, **payload, "options": options}
        return _CLIENT.post(self.url + path, json=body)

    def generate(self, prompt: str = "Hello.", **payload: Any) -> httpx.Response:
        """The response to a prompt."""
        return self.post("/api/generate", prompt=prompt, **payload)

    def chat(self, text: str = "Hello.", **payload: Any) -> httpx.Response:
        """The response to a chat of one message."""
        return self.post("/api/chat", messages=[{"role": "user", "content": text}], **payload)

    @property
    def script(self) -> OllamaServer:
        """The test server, to script or inspect."""
        assert self.server is not None
        return self.server


class Probe(NamedTuple):
    """Whether a server has a feature; `real` if a real server can be probed as well."""

    found: Callable[[Place], bool]
    real: bool = True


def _error(answer: httpx.Response) -> str:
    return answer.json().get("error", "")


def _cut(place: Place, **payload: Any) -> httpx.Response:
    return place.generate(LONG, options={"num_ctx": 256}, **payload)


def _embedding(place: Place, text: str = "Hello.", **payload: Any) -> httpx.Response:
    return place.post("/api/embed", model=EMBED, input=text, **payload)


def _refused_embedding(place: Place) -> str:
    return _error(_embedding(place, LONG, truncate=False, options={"num_ctx": 256}))


def _loaded(place: Place) -> dict[str, Any]:
    place.generate()
    return place.get("/api/ps").json()["models"][0]


def _property(place: Place, name: str) -> dict[str, Any]:
    place.chat(tools=[TOOL])
    kept: Any = place.script.requests[-1].kept_tools
    assert "default" not in kept[0]["function"]["parameters"]["properties"]["text"]
    assert kept[0]["function"]["parameters"]["properties"]["from"] == {}
    return kept[0]["function"]["parameters"]["properties"][name]


def _call(place: Place) -> dict[str, Any]:
    place.script.reply(tool_calls=[ToolCall("send")], times=1)
    return place.chat(tools=[TOOL]).json()["message"]["tool_calls"][0]


def _shifts(place: Place) -> bool:
    place.script.reply("word " * 400, times=1)
    return place.generate(shift=False, options={"num_ctx": 256}).json()["done_reason"] == "length"


def _bounded(place: Place) -> bool:
    place.script.reply("word " * 100, times=1)
    answer = place.generate(options={"num_ctx": 8, "num_predict": 1000}).json()
    return (answer["eval_count"], answer["done_reason"]) == (80, "length")


def _loads_again(place: Place) -> bool:
    durations = [place.generate(shift=shift).json()["load_duration"] for shift in (None, True, False, False)]
    assert durations[1] == durations[3] < 1e9, "an unchanged setting loads nothing"
    return durations[2] > 1e9


@contextmanager
def _with_model(model: Model, place: Place) -> Iterator[None]:
    place.script.models.add(model)
    try:
        yield
    finally:
        place.script.models.remove(model.name)


def _of(model: Model, place: Place, path: str = "/api/chat", **payload: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello."}]
    with _with_model(model, place):
        return place.post(path, **{"messages": messages, "format": {"type": "object"}, **payload, "model": model.name})


def _shown(model: Model, place: Place) -> dict[str, Any]:
    with _with_model(model, place):
        return place.post("/api/show", model=model.name).json()


def _in_cloud(place: Place, **payload: Any) -> httpx.Response:
    with _with_model(Model(CLOUD, ("completion",)), place):
        return place.chat(model=CLOUD, **payload)


def _checks(place: Place, *options: str) -> bool:
    """Whether the server validates these options: those that it does not know may have any type."""
    (found,) = {place.generate(options={option: "x"}).status_code == 500 for option in options}
    return found


def _default_window(place: Place) -> bool:
    return place.generate(LONG * 4).json()["prompt_eval_count"] > 2048


PROBES: dict[str, Probe] = {
    "THINK_LEVELS": Probe(lambda place: "unmarshal" not in _error(place.chat(model=THINK, think="low"))),
    "THINK_MAX": Probe(lambda place: place.chat(model=THINK, think="max").status_code == 200),
    "THINK_ANY_LEVEL": Probe(lambda place: place.chat(model=THINK, think="some").status_code == 200),
    "THINKS_BY_DEFAULT": Probe(lambda place: "thinking" in place.chat(model=THINK).json()["message"], real=False),
    "NUM_PREDICT_BOUND": Probe(_bounded, real=False),
    "TRUNCATE": Probe(lambda place: _cut(place, truncate=False).status_code == 400),
    "SHIFT": Probe(_shifts, real=False),
    "SHIFT_LOADS": Probe(_loads_again, real=False),
    "LOGPROBS": Probe(lambda place: "logprobs" in place.chat(logprobs=True).json()),
    "DIMENSIONS": Probe(lambda place: len(_embedding(place, dimensions=16).json()["embeddings"][0]) == 16),
    "RENDER_ONLY": Probe(lambda place: "_debug_info" in place.chat(_debug_render_only=True).json()),
    "NUMA": Probe(lambda place: _checks(place, "numa")),
    "TFS_Z": Probe(lambda place: _checks(place, "tfs_z")),
    "PENALIZE_NEWLINE": Probe(lambda place: _checks(place, "penalize_newline")),
    "SAMPLERS": Probe(lambda place: _checks(place, "mirostat", "mirostat_tau", "mirostat_eta")),
    "MEMORY": Probe(lambda place: _checks(place, "low_vram", "use_mlock", "vocab_only")),
    "DRAFT": Probe(lambda place: _checks(place, "draft_num_predict")),
    "TOOL_ANY_OF": Probe(lambda place: "anyOf" in _property(place, "text"), real=False),
    "TOOL_PROPERTIES": Probe(lambda place: "properties" in _property(place, "to"), real=False),
    "TOOL_REQUIRED": Probe(lambda place: "required" in _property(place, "to"), real=False),
    "TOOL_CALL_INDEX": Probe(lambda place: "index" in _call(place)["function"], real=False),
    "TOOL_CALL_IDS": Probe(lambda place: "id" in _call(place), real=False),
    "CACHED_COUNT": Probe(lambda place: "prompt_eval_cached_count" in place.generate().json()),
    "ESCAPES_LITERALS": Probe(lambda place: place.chat(format={"enum": ['a "b"']}).status_code == 200),
    "CALL_GRAMMAR": Probe(
        lambda place: "grammar" in _error(_of(Model("own", call_grammar=True), place, tools=[TOOL])), real=False
    ),
    "MLX_FORMAT": Probe(
        lambda place: _of(Model("mlx", format="safetensors"), place).json()["message"]["content"] == "{}", real=False
    ),
    "UNTHINKING_FORMAT": Probe(
        lambda place: _of(PARSED, place, think=False).json()["message"]["content"] != "{}", real=False
    ),
    "FORMAT_IN_THINKING": Probe(
        lambda place: _of(PARSED, place, path="/api/generate", prompt="Hello.", think=True).json()["response"] == "",
        real=False,
    ),
    "PS_CONTEXT_LENGTH": Probe(lambda place: "context_length" in _loaded(place)),
    "TAGS_CAPABILITIES": Probe(lambda place: "capabilities" in place.get("/api/tags").json()["models"][0]),
    "SHOW_THINKING": Probe(lambda place: "thinking" in place.post("/api/show", model=THINK).json()),
    "AUDIO": Probe(lambda place: "audio" in place.post("/api/show", model=HEARS).json()["capabilities"], real=False),
    "AUDIO_MP3": Probe(lambda place: place.generate(model=HEARS, images=[encoded(MP3)]).status_code == 200, real=False),
    "SHOW_PARSER": Probe(lambda place: _shown(PARSED, place).get("parser") == "qwen3.5", real=False),
    "STATUS": Probe(lambda place: place.get("/api/status").status_code == 200),
    "ACCOUNT": Probe(lambda place: place.post("/api/me").status_code != 404),
    "WEB": Probe(lambda place: place.post("/api/experimental/web_search", query="q").status_code != 404),
    "USAGE": Probe(lambda place: place.get("/api/usage").status_code != 404),
    "SYSTEMONE": Probe(lambda place: _decided(place).status_code != 404),
    "SYSTEMONE_IMAGES": Probe(lambda place: "images" in _decided(place, images=["aW1hZ2U="]).text, real=False),
    "SYSTEMONE_CLOUD": Probe(lambda place: _decided(place, model="clef:cloud").status_code == 200, real=False),
    "CLOUD": Probe(
        lambda place: _in_cloud(place, format={"type": "object"}).json()["message"]["content"] != "{}", real=False
    ),
    "REMOTE_NAMES": Probe(lambda place: "remote_model" in _in_cloud(place).json(), real=False),
    "CLOUD_WITHOUT_PULL": Probe(lambda place: place.chat(model=CLOUD).status_code != 404, real=False),
    "SIGNIN_URL": Probe(lambda place: "signin_url" in _signed_out(place), real=False),
    "NAMES_CHAT_MODEL": Probe(lambda place: _error(place.chat(model="nope")) == "model 'nope' not found"),
    "NAMES_THINKING_MODEL": Probe(
        lambda place: _error(place.chat(think=True)) == f'"{place.chat_model}" does not support thinking'
    ),
    "LLAMA_SERVER": Probe(lambda place: '{"error":' in _error(_cut(place, truncate=False))),
    "REFUSES_MEDIA": Probe(lambda place: place.generate(images=[encoded(PNG)]).status_code == 400),
    "WINDOW_4096": Probe(_default_window, real=False),
    "SHIFT_REFUSES": Probe(lambda place: "shorten the prompt" in _error(_cut(place, shift=False))),
    "HALF_WINDOW": Probe(lambda place: _cut(place).json()["prompt_eval_count"] < 200),
    "EMBED_WORDS": Probe(lambda place: _refused_embedding(place) == "input exceeds maximum context length"),
    "EMBED_RUNNER_WORDS": Probe(
        lambda place: _refused_embedding(place) == "the input length exceeds the context length"
    ),
}
"""The probe of each feature in `FEATURES`, by its name."""


def _decided(place: Place, **payload: Any) -> httpx.Response:
    if place.server is not None:
        place.server.models.add(Model(DECIDES, ("decision",)))
    question = {"type": "noul", "instructions": "Is it urgent?"}
    return place.post("/v1/systemone", **{"model": DECIDES, "state": "x", "questions": {"q": question}, **payload})


def _signed_out(place: Place) -> dict[str, Any]:
    with OllamaServer([Model(CLOUD)], version=_version(place), cloud="signed_out") as server:
        return Place(server.url, server).chat(model=CLOUD).json()


def _version(place: Place) -> str:
    return place.get("/api/version").json()["version"]


_HEAD = f"""# Compatibility

What differs between versions of Ollama, and what was tried. The tests ask the test server, which behaves as the
version that it is given ([testing.md](testing.md)), for every row in every column. A column stands for the first
release of that name (0.12.0). The rows that are marked were asked of a real server {TRIED} too. Newer servers were not
run: what they do was read in their source, up to 0.33, and in the documentation of 0.40.12; decision models in both.

| feature | {" | ".join(VERSIONS)} | since | asked of a real {TRIED} |
| --- |{" --- |" * (len(VERSIONS) + 2)}
"""
_MIDDLE = """
A field that a server does not know is ignored by it, without an error.

## The provider and the adapters

On each of these versions the provider, LangChain's `ChatOllama` and LlamaIndex's `Ollama` pass the same tests:

"""
_SUITES = """
LangChain's conformance suites of chat models and of embeddings pass on each as well, and so do the suites that compare
the adapters with the packages whose place they take.
"""
_FOOT = """
<!-- Made out of namel3ss_ollama/testing/versions.py, and version_table.py and left_out.py in tests/support.
`make pages` writes it. -->
"""


def page() -> str:
    """The page docs/compatibility.md."""
    rows = "".join(f"| {' | '.join(_cells(name, feature))} |\n" for name, feature in FEATURES.items())
    return _HEAD + rows + _MIDDLE + "".join(f"- {one.about}\n" for one in SCENARIOS) + _SUITES + section() + _FOOT


def _cells(name: str, feature: Feature) -> list[str]:
    marks = ["yes" if feature.on(version) else "no" for version in VERSIONS]
    span = feature.since or ""
    if feature.until:
        span = f"{span}, until {feature.until}" if span else f"until {feature.until}"
    return [feature.about, *marks, span, "yes" if PROBES[name].real else ""]
