"""Finding models: in Ollama's store, in the cache, and by path."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest
from gguf_files import gguf, write_gguf
from ollama_store import MEDIA, Store

from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import all_models, canonical, find_model, ollama_folder
from namel3ss_ollama.embedded.weights import CATALOG, cache_folder, kept

LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where OLLAMA_MODELS points in these tests."""
    return Store(tmp_path / "ollama")


def refused(name: str) -> Refused:
    with pytest.raises(Refused) as caught:
        find_model(name)
    return caught.value


def names() -> list[str]:
    return [model.name for model in all_models()]


# Folders


def test_the_stores_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", "~/models")
    assert ollama_folder() == tmp_path / "models"
    monkeypatch.setenv("OLLAMA_MODELS", " ")
    assert ollama_folder() == tmp_path / ".ollama" / "models"
    monkeypatch.delenv("OLLAMA_MODELS")
    assert ollama_folder() == tmp_path / ".ollama" / "models"


def test_the_caches_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.delenv("NAMEL3SS_OLLAMA_CACHE")
    assert "namel3ss-ollama" in cache_folder().parts


# Ollama's store


def test_a_model_with_all_its_layers(store: Store) -> None:
    manifest = store.add(
        f"{LIBRARY}/small/1b",
        gguf(),
        template="{{ .Prompt }}",
        system="Be brief.",
        params={"stop": ["<|end|>"], "temperature": 0.5},
        messages=[{"role": "user", "content": "Hi!"}],
        license="MIT",
    )
    model = find_model("small:1b")
    assert model.name == "small:1b"
    assert model.path.read_bytes() == gguf()
    assert model.digest == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert (model.template, model.system, model.license) == ("{{ .Prompt }}", "Be brief.", "MIT")
    assert model.parameters == {"stop": ["<|end|>"], "temperature": 0.5}
    assert model.messages == ({"role": "user", "content": "Hi!"},)
    assert model.header.architecture == "llama"


def test_a_model_with_only_weights(store: Store) -> None:
    store.add(f"{LIBRARY}/small/latest", gguf())
    model = find_model("small")
    assert (model.template, model.system, model.parameters, model.messages) == ("", "", {}, ())


@pytest.mark.parametrize(
    ("place", "listed", "others"),
    [
        (f"{LIBRARY}/small/latest", "small:latest", ["small", "library/small", f"{LIBRARY}/small:latest"]),
        ("registry.ollama.ai/me/small/q4", "me/small:q4", ["registry.ollama.ai/me/small:q4"]),
        ("hf.co/me/small-GGUF/Q4_K_M", "hf.co/me/small-GGUF:Q4_K_M", []),
        ("hf.co/me/small-GGUF/small-Q4.gguf", "hf.co/me/small-GGUF:small-Q4.gguf", []),
        (
            "localhost:5000/library/small/latest",
            "localhost:5000/library/small:latest",
            ["localhost:5000/library/small"],
        ),
    ],
)
def test_hosts_namespaces_and_tags(store: Store, place: str, listed: str, others: list[str]) -> None:
    store.add(place, gguf())
    assert names() == [listed]
    for name in [listed, *others]:
        assert find_model(name).name == listed
    assert refused("small:other").status == 404


def test_a_canonical_name_is_unchanged() -> None:
    for name in ("small", "small:1b", "me/small", "localhost:5000/me/small", "registry.ollama.ai/library/small"):
        assert canonical(canonical(name)) == canonical(name)


def test_weights_missing_from_the_store(store: Store) -> None:
    store.add(f"{LIBRARY}/small/latest", gguf())
    next((store.folder / "blobs").iterdir()).unlink()
    assert names() == []
    assert refused("small").status == 404
    store.manifest(f"{LIBRARY}/other/latest", {"layers": []})
    assert refused("other").status == 404


def test_a_template_missing_from_the_store(store: Store) -> None:
    """Without its template the model would answer, but wrongly."""
    digest = store.blob(gguf())
    layers = [
        {"mediaType": f"{MEDIA}model", "digest": digest},
        {"mediaType": f"{MEDIA}template", "digest": "sha256:" + "0" * 64},
    ]
    store.manifest(f"{LIBRARY}/small/latest", {"layers": layers})
    error = refused("small")
    assert error.status == 500
    assert "the manifest of small:latest" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        {},
        {"layers": None},
        {"layers": [7]},
        {"layers": [{}]},
        {"layers": [{"mediaType": 7, "digest": "sha256:00"}]},
        {"layers": [{"mediaType": f"{MEDIA}model", "digest": 7}]},
        {"layers": [{"mediaType": f"{MEDIA}model", "digest": "md5:00"}]},
        {"layers": [{"mediaType": f"{MEDIA}model", "digest": "sha256:../../secret"}]},
    ],
)
def test_a_damaged_manifest(store: Store, content: object, caplog: pytest.LogCaptureFixture) -> None:
    store.add(f"{LIBRARY}/good/latest", gguf())
    store.manifest(f"{LIBRARY}/bad/latest", content)
    error = refused("bad")
    assert error.status == 500
    assert "the manifest of bad:latest in" in str(error)
    with caplog.at_level(logging.WARNING, "namel3ss_ollama"):
        assert names() == ["good:latest"]
    assert [str(error) in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    "layers", [{"params": [1]}, {"params": "{"}, {"messages": [1]}, {"messages": {"role": 1}}, {"params": "null"}]
)
def test_damaged_layers(store: Store, layers: dict[str, object]) -> None:
    store.add(f"{LIBRARY}/bad/latest", gguf(), **layers)
    assert refused("bad").status == 500


def test_weights_that_are_damaged_are_left_out(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.add(f"{LIBRARY}/bad/latest", gguf()[:100])
    store.add(f"{LIBRARY}/good/latest", gguf())
    with caplog.at_level(logging.WARNING, "namel3ss_ollama"):
        assert names() == ["good:latest"]
    assert "damaged or truncated" in caplog.text


def test_an_adapter_is_not_ignored(store: Store) -> None:
    store.add(f"{LIBRARY}/tuned/latest", gguf(), adapter="weights")
    error = refused("tuned")
    assert error.status == 400
    assert "adapter" in str(error)
    assert names() == []


def test_stray_files_are_not_models(store: Store) -> None:
    store.manifest("stray", "{}")
    store.manifest("registry.ollama.ai/stray", "{}")
    store.manifest(f"{LIBRARY}/small/deep/er", "{}")
    assert names() == []


@pytest.mark.parametrize("name", ["", "none", "none:1b", "../manifests", "a/b/c/d/e", "small\0"])
def test_an_unknown_name(name: str) -> None:
    error = refused(name)
    assert error.status == 404
    assert "not found" in str(error)


# Fetched weights


def test_fetched_weights(store: Store) -> None:
    assert refused("smollm2:135m").status == 404
    write_gguf(kept("smollm2:135m"))
    model = find_model("smollm2:135m")
    catalogued = CATALOG["smollm2:135m"]
    assert (model.path, model.digest) == (kept("smollm2:135m"), catalogued.sha256)
    assert (model.template, model.parameters) == (catalogued.template, catalogued.parameters)
    assert find_model("library/smollm2:135m") == model
    assert names() == ["smollm2:135m"]
    store.add(f"{LIBRARY}/smollm2/135m", gguf())
    assert names() == ["smollm2:135m"]
    assert find_model("smollm2:135m").path.parent == store.folder / "blobs"  # Ollama's own takes precedence


def test_fetched_weights_that_are_damaged_are_left_out() -> None:
    kept("smollm2:135m").parent.mkdir(parents=True)
    kept("smollm2:135m").write_bytes(b"damaged")
    assert names() == []


# Paths


def test_a_file_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "models" / "x.gguf")
    model = find_model(str(path))
    assert (model.name, model.path) == (str(path), path)
    assert len(model.digest) == 64
    monkeypatch.chdir(tmp_path)
    for name in ("models/x.gguf", "./models/x.gguf", f"..{os.sep}{tmp_path.name}/models/x.gguf"):
        assert find_model(name).digest == model.digest
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find_model("~/models/x.gguf").path == path
    assert names() == []


def test_a_path_without_the_usual_suffix(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "sha256-0123")
    assert find_model(str(path)).path == path


def test_a_file_that_changes_is_another_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    before = find_model(str(path))
    assert before.header.context_length == 2048
    write_gguf(path, {"general.architecture": "other", "other.context_length": 7})
    after = find_model(str(path))
    assert after.digest != before.digest
    assert after.header.context_length == 7


def test_paths_without_a_model(tmp_path: Path) -> None:
    for name in (f"{tmp_path}/none.gguf", "./none.gguf", "~nobody-of-that-name/x.gguf"):
        error = refused(name)
        assert error.status == 404
        assert "not found" in str(error)
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    for name in (str(tmp_path), str(folder), f"{folder}/"):
        error = refused(name)
        assert (error.status, str(error)) == (400, f"{Path(name)} is a folder: name the GGUF file in it")
    (tmp_path / "text.gguf").write_text("not a model, but long enough to be read as one")
    assert "is not a GGUF file" in str(refused(f"{tmp_path}/text.gguf"))
