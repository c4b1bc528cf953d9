from importlib.metadata import version

__version__ = version("langchain-namel3ss-ollama")
