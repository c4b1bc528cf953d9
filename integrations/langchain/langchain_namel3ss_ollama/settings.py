"""The fields that the classes share, how they become a provider, and how the settings of a call override them.

The names are langchain-ollama's, LangChain's and the core's. Only `validate_model_on_init` sends requests. The core
validates all values, and is made to do so at construction: a wrong value raises there, not at the first call.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    PrivateAttr,
    TypeAdapter,
    model_validator,
)
from typing_extensions import Self

from langchain_namel3ss_ollama.connection import (
    ConnectionFields,
    address_of,
    check_sharing,
    connect,
    key_in_environment,
    read_where,
    split_userinfo,
    written_where,
)
from namel3ss_ollama import Hosts, OllamaProvider, run_sync

__all__ = ["CALL_FIELDS", "OPTION_FIELDS", "OllamaSettings", "normalised", "reject_unknown"]

ALIASES = {"model_name": "model", "max_tokens": "num_predict"}
_PASS_ON = "options={...} passes on runtime options without a keyword, extra_body={...} other fields of the request"
CALL_FIELDS = frozenset({"keep_alive", "shift", "truncate", "timeout", "stream_config", "on_truncation", "extra_body"})
"""Settings that are not runtime options, and that any call may override under the same name."""


class OllamaSettings(ConnectionFields):
    """The fields that the classes share."""

    validate_model_on_init: bool = False
    """Whether the constructor checks that the server has the model."""

    keep_alive: int | float | str | None = None
    """How long the model stays loaded after a request: "5m", seconds, 0 to unload it at once, or -1 for good."""

    options: dict[str, Any] | None = None
    """Runtime options without a field of their own."""

    extra_body: dict[str, Any] | None = None
    """Request fields, other than runtime options, without a field of their own, such as those of a newer server."""

    stop: list[str] | str | None = None
    """Stop sequences: strings that end the answer. Those of a call replace these."""

    num_predict: int | None = None
    """The maximum number of tokens of an answer; `max_tokens` is an alias."""

    temperature: float | None = None
    """The sampling temperature: 0 always picks the most likely token, higher values make answers more varied."""

    top_k: int | None = None
    """Sample from this many of the most likely tokens."""

    top_p: float | None = None
    """Sample from the most likely tokens whose probabilities add up to this, from 0 to 1."""

    min_p: float | None = None
    """Exclude tokens whose probability is below this fraction of the most likely token's, from 0 to 1."""

    typical_p: float | None = None
    """Locally typical sampling: sample from the most typical tokens whose probabilities add up to this; 1 disables
    it."""

    tfs_z: float | None = None
    """Tail-free sampling: values below 1 cut off unlikely tokens. Newer servers ignore it."""

    repeat_last_n: int | None = None
    """How many of the last tokens to check for repetition; 0 disables the check, -1 uses the entire context window."""

    repeat_penalty: float | None = None
    """How strongly to penalise repeated tokens; 1 disables the penalty."""

    presence_penalty: float | None = None
    """The penalty for a token that has occurred, no matter how often."""

    frequency_penalty: float | None = None
    """The penalty for a token for each time it has occurred."""

    penalize_newline: bool | None = None
    """Whether newlines count as repetitions too. Newer servers ignore it."""

    mirostat: int | None = None
    """Mirostat sampling, which targets a perplexity: 0 disables it, 1 or 2 is the version. Newer servers ignore it."""

    mirostat_eta: float | None = None
    """The learning rate of Mirostat. Newer servers ignore it."""

    mirostat_tau: float | None = None
    """The target entropy of Mirostat; lower is more focused. Newer servers ignore it."""

    seed: int | None = None
    """The random seed: the same seed and request give the same answer."""

    num_keep: int | None = None
    """How many tokens at the start of the prompt to keep when the context window overflows."""

    num_ctx: int | None = None
    """The context window in tokens, for prompt and answer together. Another value reloads the model."""

    num_batch: int | None = None
    """How many prompt tokens to process at once."""

    num_gpu: int | None = None
    """How many layers to offload to the GPU; -1 lets the server decide."""

    main_gpu: int | None = None
    """The index of the GPU for whatever is not split across several."""

    num_thread: int | None = None
    """How many CPU threads to use; 0 lets the server decide."""

    numa: bool | None = None
    """Whether to optimise memory placement for several NUMA nodes. Newer servers ignore it."""

    low_vram: bool | None = None
    """Whether to use less GPU memory. Newer servers ignore it."""

    use_mmap: bool | None = None
    """Whether to memory-map the model file instead of reading it."""

    use_mlock: bool | None = None
    """Whether to lock the model in memory, so that it is not swapped out. Newer servers ignore it."""

    vocab_only: bool | None = None
    """Whether to load only the vocabulary, without the weights. Newer servers ignore it."""

    draft_num_predict: int | None = None
    """How many tokens the draft model proposes at a time in speculative decoding (newer servers)."""

    if TYPE_CHECKING:  # aliases of fields, which the constructor takes
        max_tokens: int | None = None
        """An alias of `num_predict`."""

        model_name: str | None = None
        """An alias of `model`."""

    else:  # readable and writable too; not properties, since a subclass may have fields of these names

        def __getattr__(self, name):
            return getattr(self, ALIASES[name]) if name in ALIASES else super().__getattr__(name)

        def __setattr__(self, name, value):
            if name == "base_url":
                value = read_where(value)  # a list would be serialised with its passwords
            super().__setattr__(name if name in type(self).model_fields else ALIASES.get(name, name), value)

    # The provider built from the fields, with the values it was built from: a changed field builds a new one.
    _own: tuple[Any, OllamaProvider] | None = PrivateAttr(default=None)
    _own_sync: tuple[Any, OllamaProvider] | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _read_settings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        names = _names_in_constructor(cls)
        aliases = {alias: name for alias, name in ALIASES.items() if alias not in names}
        if cls.model_config.get("extra") != "allow":
            reject_unknown(values, names.keys() | aliases.keys(), cls.__name__)
        named = {names.get(name) or name: value for name, value in values.items()}
        values = _with_aliases(named, aliases)
        _reject_flags(cls, values)
        provider = values.get("provider")
        if isinstance(provider, OllamaProvider):
            check_sharing(provider, values)
            if values.get("model") is None:
                values["model"] = provider.model
            values["base_url"], values["api_key"] = provider.where, None
            return values
        if isinstance(url := values.get("base_url"), str):
            url, userinfo = split_userinfo(url)
            values["base_url"] = url.strip() or None  # then the core reads the environment
            if userinfo is not None:
                values["userinfo"] = userinfo
        if values.get("api_key") is None and values.get("userinfo") is None:
            values["api_key"] = key_in_environment()
        return values

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if not self.model:
            raise ValueError("model: is needed, unless a provider is given")
        provider = self._provider_for(sync=False)
        self._provider_for(sync=True)
        # The core validates its arguments; this instance exists only for that.
        OllamaProvider(self.model, provider.base_url, **self._defaults_to_check())
        if self.validate_model_on_init:
            found = run_sync(provider.preflight(self.model, capabilities=()))
            if not found.ok:
                raise ValueError(str(found))
        return self

    def _defaults_to_check(self) -> dict[str, Any]:
        checked: dict[str, Any] = self._runtime_options()
        if self.options is not None:
            checked["options"] = _with_aliases(self.options)
        values = {
            "keep_alive": self.keep_alive,
            "on_truncation": self.policy_of_provider(),
            "timeout": self.timeout,
            "extra_body": self.extra_body,
        }
        checked.update({name: value for name, value in values.items() if value is not None})
        return checked

    def _provider_for(self, *, sync: bool) -> OllamaProvider:
        """The provider for synchronous or asynchronous calls, usually the same one."""
        if self.provider is not None:
            return self.provider
        extra = self.sync_client_kwargs if sync else self.async_client_kwargs
        key = self._made_from(extra)
        for made in (self._own_sync, self._own) if sync else (self._own, self._own_sync):
            if made is not None and made[0] == key:
                return made[1]
        made = key, connect(self, extra)
        if sync:
            self._own_sync = made
        else:
            self._own = made
        return made[1]

    def _made_from(self, extra: Mapping[str, Any] | None) -> tuple[Any, ...]:
        """The values that this object's own provider is built from."""
        return (
            self.model, self.base_url, self.userinfo, self.api_key, _copied(self.headers), self.timeout,
            self.max_retries, self.retry, self.max_concurrent, self.stream_config, self.on_truncation,
            _copied(self.client_kwargs), _copied(extra),
        )  # fmt: skip

    def _runtime_options(self) -> dict[str, Any]:
        """The runtime options that are set as fields."""
        values = self.__dict__
        options = {name: value for name in OPTION_FIELDS if (value := values[name]) is not None}
        if not options.get("stop", True):
            del options["stop"]  # an empty list is as good as none
        return options

    def _settings_of_call(self, given: Mapping[str, Any], stop: list[str] | None) -> dict[str, Any]:
        """The keywords for a provider's method: the fields, overridden by the call. None means not given.

        Args:
            given: The call's runtime options, `options` and `CALL_FIELDS`.
            stop: The call's stop sequences; they replace those of the field, an empty list removes them.
        """
        options = _one_layer({name: given[name] for name in given if name in OPTION_FIELDS}, given.get("options"))
        if stop is not None:
            options["stop"] = stop
        merged = {**_with_aliases(self.options or {}), **self._runtime_options(), **options}
        if not merged.get("stop", True):
            del merged["stop"]
        settings: dict[str, Any] = {name: merged.pop(name) for name in OPTION_FIELDS & merged.keys()}
        if merged:
            settings["options"] = merged
        for name in CALL_FIELDS & given.keys():
            if given[name] is not None:
                settings[name] = given[name]
        if "keep_alive" not in settings and self.keep_alive is not None:
            settings["keep_alive"] = self.keep_alive
        extra = settings.get("extra_body", {})
        if self.extra_body and isinstance(extra, Mapping):  # the core rejects anything else
            settings["extra_body"] = {**self.extra_body, **extra}
        if self.provider is not None:  # our own provider was built with these
            for name in ("timeout", "stream_config", "on_truncation"):
                if name not in settings and (value := getattr(self, name)) is not None:
                    settings[name] = value
        return settings

    def _identity(self) -> dict[str, Any]:
        """The settings that affect answers, for caches and tracers; no secrets."""
        identity: dict[str, Any] = {"model": self.model, "base_url": address_of(self._provider_for(sync=False))}
        identity.update(sorted(self._runtime_options().items()))
        if self.options:
            identity["options"] = self.options
        if self.extra_body:
            identity["extra_body"] = self.extra_body
        if defaults := self._shared_defaults():
            identity["provider_options"] = defaults
        return identity

    def _shared_defaults(self) -> dict[str, Any]:
        """The options of a shared provider, which apply where neither this object nor the call sets them."""
        if self.provider is None:
            return {}
        defaults = {name: value for name, value in sorted(self.provider.options.items()) if value is not None}
        form = defaults.get("format")
        if not isinstance(form, (str, Mapping, type(None))):  # a schema identifies a type better than its name
            adapter = form if isinstance(form, TypeAdapter) else TypeAdapter(form)
            defaults["format"] = adapter.json_schema()
        return defaults

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The fields that serialise to a different type: several addresses."""
        return {"base_url": written_where(where)} if isinstance(where := self.base_url, Hosts) else {}

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle the fields without secrets, and the providers as the core pickles them."""
        state = super().__getstate__()
        fields = {**state["__dict__"], "api_key": None, "userinfo": None}
        if isinstance(where := fields["base_url"], Hosts):
            fields["base_url"] = Hosts.from_dict(where.to_dict())
        fields.pop("_serialized", None)
        made = (None, None) if self.provider else (self._provider_for(sync=False), self._provider_for(sync=True))
        private = {**(state.get("__pydantic_private__") or {}), "_own": made[0], "_own_sync": made[1]}
        return {**state, "__dict__": fields, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore the fields and the providers, which take their credentials from the environment of this process."""
        super().__setstate__(state)
        if self.provider is None:
            private = state["__pydantic_private__"]
            self._own = self._made_from(self.async_client_kwargs), private["_own"]
            self._own_sync = self._made_from(self.sync_client_kwargs), private["_own_sync"]


_NOT_OPTIONS = CALL_FIELDS | {
    "model", "base_url", "userinfo", "api_key", "headers", "max_retries", "retry", "max_concurrent", "provider",
    "client_kwargs", "sync_client_kwargs", "async_client_kwargs", "validate_model_on_init", "options",
}  # fmt: skip
OPTION_FIELDS: frozenset[str] = frozenset(OllamaSettings.model_fields) - _NOT_OPTIONS
"""The fields that are runtime options."""


def reject_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Reject unknown keywords.

    Raises:
        TypeError: Names the first unknown keyword and the nearest known one.
    """
    names = set(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1)
            hint = f"did you mean {near[0]!r}?" if near else _PASS_ON
            raise TypeError(f"{where} got an unexpected keyword argument {name!r}; {hint}")


def normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """A call's keywords with aliases such as `max_tokens` resolved, and without those that are None."""
    return _with_aliases({name: value for name, value in given.items() if value is not None})


def _names_in_constructor(cls: type[BaseModel]) -> dict[str, str]:
    """The keywords of a constructor, each with its field; a user's subclass may have aliases."""
    fields = cls.model_fields
    names = dict(zip(fields, fields, strict=True))
    for name, field in fields.items():
        if field.alias is None and field.validation_alias is None:
            continue
        for alias in (field.alias, field.validation_alias):
            for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
                if isinstance(choice, AliasPath):
                    names[str(choice.path[0])] = str(choice.path[0])  # pydantic follows the rest of the path
                elif choice is not None:
                    names.setdefault(choice, name)
    return names


def _reject_flags(cls: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Reject True and False for numbers: pydantic would convert them to 1 and 0.

    Raises:
        TypeError: Names the field.
    """
    for name, value in values.items():
        if isinstance(value, bool) and name in cls.model_fields:
            taken = get_args(cls.model_fields[name].annotation)
            if bool not in taken and (int in taken or float in taken):
                raise TypeError(f"{name}: expected a number, not {value!r}")


def _with_aliases(given: Mapping[str, Any], aliases: Mapping[str, str] = ALIASES) -> dict[str, Any]:
    values = dict(given)
    for alias, name in aliases.items():
        if alias in values:
            value = values.pop(alias)
            if value is not None:
                if values.get(name) is not None:
                    raise TypeError(f"{alias} and {name} are the same setting; pass only one of them")
                values[name] = value
    return values


def _copied(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy to compare with, so that a change inside the dict is detected."""
    return {
        name: dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, list) else value
        for name, value in (given or {}).items()
    }


def _one_layer(keywords: dict[str, Any], options: Any) -> dict[str, Any]:
    if options is None:
        return keywords
    if not isinstance(options, Mapping):
        raise TypeError(f"options: expected a mapping, not {type(options).__name__}")
    for name, value in _with_aliases(options).items():
        if name in keywords:
            raise TypeError(f"{name}: given as a keyword and in options; give it once")
        if value is not None:
            keywords[name] = value
    return keywords
