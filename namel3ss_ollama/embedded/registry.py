"""The model endpoints: available and loaded models, their details, pulling and deleting."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from namel3ss_ollama._version import __version__
from namel3ss_ollama.embedded import weights
from namel3ss_ollama.embedded.engine import Cancelled, Loaded
from namel3ss_ollama.embedded.prompts import capabilities
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model, all_models, canonical, find_model
from namel3ss_ollama.embedded.work import Handler, Json, Work

__all__ = ["cannot", "delete", "ps", "pull", "show", "tags", "version"]


def tags(work: Work) -> None:
    """GET /api/tags."""
    work.emit({"models": [_listed(model) for model in all_models()]})


def ps(work: Work) -> None:
    """GET /api/ps."""
    work.emit({"models": [_running(loaded) for loaded in work.engine.running()]})


def _running(loaded: Loaded) -> Json:
    forever = datetime(2318, 1, 1, tzinfo=timezone.utc)  # what Ollama reports for a model that never expires
    expires = loaded.expires
    until = forever if expires is None else datetime.fromtimestamp(expires, timezone.utc)
    listed = {key: value for key, value in _listed(loaded.model).items() if key != "modified_at"}
    size = listed["size"] + loaded.model.header.bytes_a_token * loaded.options.num_ctx
    return {
        **listed,
        "size": size,
        "size_vram": 0,
        "expires_at": until.isoformat(),
        "context_length": loaded.options.num_ctx,
    }


def show(work: Work) -> None:
    """POST /api/show."""
    model = work.model()
    header = model.header
    parameters = [(key, one) for key, value in model.parameters.items() for one in _several(value)]
    shown: Json = {
        "license": model.license,
        "modelfile": f"FROM {model.name}",
        "parameters": "\n".join(f"{key:30} {_quoted(value)}" for key, value in parameters),
        "template": model.template or header.chat_template,
        "system": model.system,
        "messages": [dict(message) for message in model.messages],
        "details": _details(model),
        "model_info": {**header.metadata, "general.parameter_count": header.parameters},
        "capabilities": capabilities(model),
        "modified_at": _modified(model),
    }
    work.emit({key: value for key, value in shown.items() if value})


def pull(work: Work) -> None:
    """POST /api/pull."""
    name = canonical(work.wanted("model", str, "") or work.wanted("name", str, ""))
    if name not in weights.CATALOG:
        can = ", ".join(weights.CATALOG)
        raise Refused(
            400, f"the embedded engine cannot pull {name!r}; it can pull {can}, and load any GGUF file by its path"
        )
    stream = work.wanted("stream", bool, True)

    def report(status: str, completed: int, total: int) -> bool:
        if stream:
            digest = f"sha256:{weights.CATALOG[name].sha256}"
            work.emit({"status": status, "digest": digest, "total": total, "completed": completed})
        return work.job.cancelled

    if stream:
        work.emit({"status": "pulling manifest"})
    try:
        weights.fetch(name, report)
    except InterruptedError:
        raise Cancelled from None
    work.emit({"status": "success"})


def delete(work: Work) -> None:
    """DELETE /api/delete."""
    name = canonical(work.wanted("model", str, "") or work.wanted("name", str, ""))
    if name not in weights.CATALOG or not weights.kept(name).exists():
        find_model(name)
        raise Refused(
            400, f"the embedded engine deletes only models that it has pulled, and {name!r} is not one of them"
        )
    work.engine.unload(weights.kept(name))
    weights.kept(name).unlink()
    work.emit({})


def version(work: Work) -> None:
    """GET /api/version."""
    work.emit({"version": f"{__version__}+embedded"})


def cannot(what: str) -> Handler:
    """The handler of an endpoint that only a server supports."""

    def refuse(work: Work) -> None:
        raise Refused(400, f"the embedded engine cannot {what} models: use an Ollama server for that")

    return refuse


def _listed(model: Model) -> Json:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _modified(model),
        "size": model.path.stat().st_size,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Model) -> Json:
    header = model.header
    count = header.parameters
    size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": header.architecture,
        "families": [header.architecture],
        "parameter_size": size,
        "quantization_level": header.quantization,
    }


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _modified(model: Model) -> str:
    return datetime.fromtimestamp(model.path.stat().st_mtime, timezone.utc).isoformat()
