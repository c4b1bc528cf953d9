from importlib.metadata import version

__version__ = version("ray-namel3ss-ollama")
