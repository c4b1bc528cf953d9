"""Use Ollama from Python: `OllamaProvider` and what goes in and comes out of it.

The public names are listed in `namel3ss_ollama.api`, which is imported on first use. This lets the command install its
Ctrl-C handler before half a second of imports.
"""

TYPE_CHECKING = False  # as in `typing`, whose import is not needed for that
if TYPE_CHECKING:
    from namel3ss_ollama.api import *  # noqa: F403
    from namel3ss_ollama.api import __all__ as __all__
    from namel3ss_ollama.api import __version__ as __version__


def __getattr__(name: str) -> object:
    if not name.startswith("__") or name in ("__all__", "__version__"):
        from importlib import import_module, util  # not `from namel3ss_ollama import api`, which would ask here for it

        if name.islower() and util.find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")  # a module of ours that another one imports from here
        api = import_module("namel3ss_ollama.api")
        if name == "__all__" or name in api.__all__:
            value: object = getattr(api, name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})  # type: ignore[misc] # a list of names
