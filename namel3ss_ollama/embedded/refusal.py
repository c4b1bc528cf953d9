"""How the engine refuses a request: with a status and a text, like Ollama's own server."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """A request that cannot be served.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do, the `error` of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
