"""Models that run in Ollama's cloud, and the server's status and account."""

from __future__ import annotations

from . import versions
from .answers import Answer, error, unary
from .checks import Handler, Refused, Scripted, State
from .models import CAPABILITIES, Model, canonical
from .record import Record

__all__ = ["ROUTES", "check_cloud", "check_service", "found_model", "remote_names", "runs_in_cloud"]

_HOST = "https://ollama.com:443"
_SIGNIN = "https://ollama.com/connect?name=test&key=AAAA"  # server/routes.go: signinURLStr
_DISABLED = "ollama cloud is disabled: "  # internal/cloud/policy.go
_ACCOUNT = {
    "id": "00000000-0000-4000-8000-000000000000",
    "email": "tester@example.com",
    "name": "tester",
    "plan": "free",
}  # api/types.go: UserResponse


def found_model(state: State, name: str) -> Model | None:
    """The model of that name, including cloud models that were never pulled, if the version needs no pull."""
    found = state.models.get(name)
    if found is None and name and versions.CLOUD_WITHOUT_PULL.on(state.version):
        model = Model(canonical(name), CAPABILITIES)
        return model if model.cloud else None
    return found


def check_cloud(state: State, record: Record, model: Model) -> None:
    """Refuse a cloud model without access to the cloud."""
    if runs_in_cloud(state, model):
        check_service(state, record, "remote model is unavailable")  # server/cloud_proxy.go


def check_service(state: State, record: Record, unavailable: str) -> None:
    """Refuse a service of ollama.com if the cloud is disabled, or without a key and an account."""
    if state.cloud == "disabled" and versions.STATUS.on(state.version):
        raise Refused(403, _DISABLED + unavailable)
    if state.cloud == "signed_out" and not record.headers.get("authorization", "").startswith("Bearer "):
        raise Refused(401, "unauthorized", **_signin(state))


def runs_in_cloud(state: State, model: Model) -> bool:
    """Whether the model runs in the cloud, not on the server."""
    return model.cloud and versions.CLOUD.on(state.version)


def remote_names(state: State, model: Model) -> dict[str, str]:
    """`remote_model` and `remote_host` of a cloud model; empty for others."""
    if not runs_in_cloud(state, model):
        return {}
    return {"remote_model": model.name.removesuffix("-cloud").removesuffix(":cloud"), "remote_host": _HOST}


def _signin(state: State) -> dict[str, str]:
    return {"signin_url": _SIGNIN} if versions.SIGNIN_URL.on(state.version) else {}


def _me(state: State, record: Record, scripted: Scripted) -> Answer:
    if state.cloud == "signed_in":
        return unary(_ACCOUNT)
    if not versions.SIGNIN_URL.on(state.version):
        return unary(None)
    return error(401, "unauthorized", **_signin(state))


def _status(state: State, record: Record, scripted: Scripted) -> Answer:
    disabled = state.cloud == "disabled"
    return unary({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


ROUTES: dict[str, tuple[versions.Feature, dict[str, Handler]]] = {
    "/api/me": (versions.ACCOUNT, {"POST": _me}),
    "/api/status": (versions.STATUS, {"GET": _status}),
}
"""Path, the feature it came with, and its handlers by method."""
