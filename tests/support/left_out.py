"""The parts of Ollama's API, its Python client and related packages that this package leaves out, and why.

The second half of docs/compatibility.md. A row lists the names that would exist if it were supported, so that a row
that is no longer true fails its test.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LEFT_OUT", "LeftOut", "section"]


class LeftOut(NamedTuple):
    """Something that is not supported."""

    what: str
    why: str
    names: tuple[str, ...] = ()
    """The methods and keywords that `OllamaProvider` would have."""


LEFT_OUT = {
    "Endpoints": (
        LeftOut("`/api/embeddings`", "`/api/embed`, which `embed()` asks, takes its place", ("embeddings",)),
        LeftOut(
            "`/api/signout`, `DELETE /api/user/keys/:key`",
            "signing in and out is for the server's owner, since it is for all who use the server: `ollama signin` and "
            "`ollama signout`",
            ("signout", "sign_out", "delete_key"),
        ),
        LeftOut(
            "`/api/experimental/model-recommendations`",
            "a list for Ollama's own app, and experimental",
            ("model_recommendations", "recommended_models"),
        ),
        LeftOut(
            "`/v1/chat/completions`, `/v1/responses`, `/v1/messages` and their like",
            "the same models for clients of OpenAI and Anthropic, with less of what Ollama can do",
            ("completions", "responses"),
        ),
        LeftOut("`HEAD` of `/`, `/api/version`, `/api/tags`", "`is_available()` and `version()` tell as much"),
    ),
    "Fields": (
        LeftOut(
            "`_debug_render_only`",
            "for the server's own developers. `extra_body` sends it, but what comes back is no answer of a model, and "
            "so an error; `count_tokens()` estimates how long a prompt is",
            ("debug_render_only", "render"),
        ),
        LeftOut(
            "`width`, `height`, `steps` and an `image` in the answer",
            "images are not generated any more since 0.32.6",
            ("width", "height", "steps"),
        ),
        LeftOut("`message.images` in an answer", "documented, but no server was seen to send it; `chunk.raw` has it"),
        LeftOut(
            "`normalize` of an embedding, `think_budget`, `image_max_tokens`, `/metrics`, `/api/tokenize`, "
            "`/v1/*/input_tokens`, `projected_context_length`",
            "proposals that were not merged when they were last looked at (October 2026); `extra_body` sends such a "
            "field of a chat or generation to a server that has it",
            ("normalize", "think_budget", "image_max_tokens", "tokenize"),
        ),
    ),
    "Ways to call": (
        LeftOut(
            "`stream=False` for `pull_model`, `push_model`, `create_model`",
            "minutes without a word cannot be told from a stall; read the progress to its end: "
            "`for _ in provider.sync.pull_model(): pass`",
        ),
        LeftOut(
            "a file's name as a string in `images`",
            "a string is base64 or a `data:` URL, so that text from elsewhere never reads a file; "
            "`pathlib.Path` is a file",
        ),
        LeftOut("functions of a module (`ollama.chat(...)`)", "slots, retries and connections need an owner"),
        LeftOut(
            "answers of `list_models`, `show_model`, `running_models` as objects",
            "dicts have what a newer server adds, too",
        ),
        LeftOut(
            "every keyword of httpx's client (`client_kwargs`)",
            "those about connections are taken, with deadlines that are ours; `http_client=` takes a client of "
            "yours with all that it has",
            ("follow_redirects", "event_hooks"),
        ),
        LeftOut(
            "clients and transports of httpx2",
            "it shares no class with httpx: each request would have to be rebuilt, each stream wrapped and each "
            "exception translated. An object of it is a `TypeError`",
        ),
        LeftOut(
            '`init_chat_model("ollama:...")` of LangChain',
            "it maps the name to `langchain_ollama` in its own table, which others cannot extend; make a `ChatOllama`",
        ),
        LeftOut("refusals as LangChain has them (`RefusalContentBlock`, `ModelRefusalError`)", "Ollama sends none"),
    ),
}


def section() -> str:
    """The section of the page, with its heading."""
    tables = "".join(
        f"\n### {heading}\n\n| what | why not |\n| --- | --- |\n"
        + "".join(f"| {one.what} | {one.why} |\n" for one in rows)
        for heading, rows in LEFT_OUT.items()
    )
    return f"\n## What this package leaves out, and why\n{tables}"
