"""Every parameter and every field has a description."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama

CLASSES = [Ollama, OllamaEmbedding]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_a_description(cls: type[Any]) -> None:
    own = {name for base in cls.__mro__ if "namel3ss" in base.__module__ for name in inspect.get_annotations(base)}
    fields = {name: field.description for name, field in cls.model_fields.items() if name in own}
    assert len(fields) > 15
    assert [name for name, text in fields.items() if not text or not text.endswith(".")] == []


@pytest.mark.parametrize("cls", CLASSES)
def test_the_docstring_lists_exactly_the_parameters(cls: type[Any]) -> None:
    section = inspect.getdoc(cls).split("Args:")[1].split("Raises:")[0]  # type: ignore[union-attr] # it has one
    described = re.findall(r"^ {4}\**(\w+): ", section, re.MULTILINE)
    assert described == [name for name in inspect.signature(cls.__init__).parameters if name != "self"]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_method_has_a_docstring(cls: type[Any]) -> None:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, (property, classmethod))):
            assert inspect.getdoc(getattr(cls, name)), name
