"""SAEs in SAELens's format: a folder with `cfg.json` and `sae_weights.safetensors`, or a release.

Two layouts of `cfg.json` are read: the flat one of SAELens before 6, and the current one, where
what concerns the language model stands under `metadata`. Whatever decides a feature and is unknown
is refused; `overrides` (SAELens's keys) say what a config leaves out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import InputError, MissingDependencyError, first_line
from whatchanged.models.saes import ARCHITECTURES, NORMALIZATIONS, Sae, SaeSettings

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

# SAELens tells the layouts apart by this version.
_CURRENT_LAYOUT = "6.0.0"
UNKNOWN_CENTERING = (
    "expected to know whether its activations had their mean taken away, found nothing: add "
    '"model_from_pretrained_kwargs": {"center_writing_weights": true} (or false) to cfg.json, or '
    "give it as an override, as it was when the SAE was trained"
)

_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


def load_sae_folder(
    folder: Path, *, name: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Sae:
    """The SAE in a folder, on the CPU in float32; `name` is the folder's unless given.

    Raises InputError for a folder that is not there or holds no SAE in safetensors, and for a
    config that leaves open or names as yet unknown what decides a feature.
    """
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not config_file.is_file() or not weights_file.is_file():
        missing = [file.name for file in (config_file, weights_file) if not file.is_file()]
        raise InputError(
            f"expected an SAE with {CONFIG_FILE} and {WEIGHTS_FILE} in {folder}, found no "
            f"{' and no '.join(missing)}: check the path, download both files there (hf download "
            "REPOSITORY --include 'SAE/*'), or save a pickled SAE again with SAELens"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config_file}: expected JSON, found {error}: get it again") from None
    if not isinstance(config, dict):
        raise InputError(f"{config_file}: expected a JSON object, found {type(config).__name__}")
    settings = read_settings({**config, **(overrides or {})}, str(config_file))
    return Sae(name or folder.name, settings, _read_weights(weights_file))


def load_sae_release(
    release: str,
    sae_id: str,
    *,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Sae:
    """An SAE of a release that SAELens knows, or of a hub repository; float32, on the CPU.

    With the package `sae-lens` all its releases can be had, and are downloaded where they must be.
    Without it, a repository in SAELens's format is read from the hub's cache.

    Raises InputError for a release or id that does not exist and for what `read_settings` refuses,
    MissingDependencyError where the package or the weights are not here.
    """
    name = name or f"{release}/{sae_id}"
    if importlib.util.find_spec("sae_lens") is None:
        folder = cached_sae_folder(release, sae_id) if "/" in release else None
        if folder is None:
            raise MissingDependencyError(
                f"expected SAE {sae_id!r} of {release!r} in the hub's cache or the package "
                "sae-lens to load it, found neither: pip install 'whatchanged[saes]'"
                + (f", or {_download(release, sae_id)}" if "/" in release else "")
            )
        return load_sae_folder(folder, name=name, overrides=overrides)
    return _load_with_saelens(release, sae_id, name, overrides or {})


def cached_sae_folder(repository: str, folder: str) -> Path | None:
    """Where the hub's cache holds an SAE of a repository, None where it does not."""
    import huggingface_hub

    found = [
        huggingface_hub.try_to_load_from_cache(repository, f"{folder}/{name}")
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    ]
    # A file that the hub does not have is remembered as an object that is no path.
    paths = [Path(file) for file in found if isinstance(file, str)]
    return paths[0].parent if len(paths) == len(found) else None


def read_settings(config: Mapping[str, Any], where: str) -> SaeSettings:
    """The settings that a `cfg.json` in either layout states; `where` names it in errors.

    Raises InputError for what it does not state and for a value that is not known here.
    """
    is_current = isinstance(config.get("metadata"), Mapping)
    named = {**(config["metadata"] if is_current else {}), **config}
    flat = {_OLD_NAMES.get(key, key): value for key, value in named.items()}
    _refuse_unsupported(flat, where)
    architecture, k = _architecture(flat, is_current, where)
    kept = flat.get("exclude_special_tokens") or False
    return SaeSettings(
        architecture=architecture,
        d_in=_integer(flat, "d_in", where),
        d_sae=_integer(flat, "d_sae", where),
        hook_name=str(_needed(flat, "hook_name", where, "the place that it reads")),
        normalization=_normalization(flat, where),
        prepends_start=_boolean(flat, "prepend_bos", where),
        context_size=_integer(flat, "context_size", where),
        k=k,
        subtracts_decoder_bias=_boolean(flat, "apply_b_dec_to_input", where),
        rescales_by_decoder_norm=bool(flat.get("rescale_acts_by_decoder_norm", False)),
        is_centered=_is_centered(flat, is_current),
        excluded_tokens=kept if isinstance(kept, bool) else tuple(int(i) for i in kept),
        positions=tuple(flat.get("seqpos_slice") or (None,)),
        model_name=flat.get("model_name"),
        neuronpedia_id=flat.get("neuronpedia_id"),
    )


def sae_config(sae: Sae) -> dict[str, Any]:
    """The `cfg.json` of an SAE, in SAELens's current layout.

    Raises InputError where it is not known whether activations are centered: the layout has no
    word for that.
    """
    settings = sae.settings
    if settings.is_centered is None:
        raise InputError(f"SAE {sae.name!r}: {UNKNOWN_CENTERING}")
    top: dict[str, Any] = {
        "architecture": settings.architecture,
        "d_in": settings.d_in,
        "d_sae": settings.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": settings.subtracts_decoder_bias,
        "normalize_activations": settings.normalization,
        "reshape_activations": "hook_z" if settings.hook_name.endswith("hook_z") else "none",
    }
    if settings.architecture == "topk":
        top["k"] = settings.k
        top["rescale_acts_by_decoder_norm"] = settings.rescales_by_decoder_norm
    kept = settings.excluded_tokens
    metadata = {
        "sae_lens_version": _CURRENT_LAYOUT,
        "sae_lens_training_version": None,
        "hook_name": settings.hook_name,
        "prepend_bos": settings.prepends_start,
        "context_size": settings.context_size,
        "exclude_special_tokens": kept if isinstance(kept, bool) else list(kept),
        "seqpos_slice": list(settings.positions),
        "model_name": settings.model_name,
        "neuronpedia_id": settings.neuronpedia_id,
        "model_from_pretrained_kwargs": (
            {"center_writing_weights": True} if settings.is_centered else {}
        ),
    }
    return {**top, "metadata": metadata}


def sae_arrays(sae: Sae, *, half: bool = False) -> dict[str, NDArray[Any]]:
    """The weights of an SAE by SAELens's names, float32, or float16 (`half`), which SAELens reads
    as the `dtype` of the config says."""
    dtype = np.float16 if half else np.float32
    return {name: weight.cpu().numpy().astype(dtype) for name, weight in sae.weights.items()}


def _load_with_saelens(release: str, sae_id: str, name: str, overrides: Mapping[str, Any]) -> Sae:
    sae_lens = importlib.import_module("sae_lens")
    directory = importlib.import_module("sae_lens.loading.pretrained_saes_directory")
    try:
        loaded = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except (ValueError, KeyError) as error:
        raise InputError(f"SAE {sae_id!r} of {release!r}: {error}") from None
    except Exception as error:
        # The hub's client raises many unrelated types; for the user they all mean the same.
        repository, folder = directory.get_repo_id_and_folder_name(release, sae_id)
        said = first_line(error)
        raise MissingDependencyError(
            f"expected SAE {sae_id!r} of {release!r} in the hub's cache or on the hub, found "
            f"neither ({type(error).__name__}: {said}): where there is a network, run "
            f"{_download(repository, folder)}"
        ) from error
    settings = read_settings({**loaded.cfg.to_dict(), **overrides}, f"SAE {name!r}")
    return Sae(name, settings, {key: weight.float() for key, weight in loaded.state_dict().items()})


def _download(repository: str, folder: str) -> str:
    return f"hf download {repository} --include '{folder}/*'"


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file}: expected safetensors, found {error}: get it again") from None
    scaling = weights.pop("scaling_factor", None)
    if scaling is not None and not bool((scaling == 1).all()):
        raise InputError(
            f"{file}: expected features without a finetuned scaling factor, found one: fold it "
            "into the decoder with SAELens and save the SAE again"
        )
    return {name: weight.to(torch.float32) for name, weight in weights.items()}


def _architecture(flat: Mapping[str, Any], is_current: bool, where: str) -> tuple[Any, int | None]:
    """The architecture and, for TopK, its k; SAELens 6 left the activation function out, because
    the architecture says it."""
    named = _needed(flat, "architecture", where, f"one of {', '.join(ARCHITECTURES)}")
    if is_current:
        activation = flat.get("activation_fn", "relu")
    else:
        activation = _needed(flat, "activation_fn", where, "relu or topk")
    if activation == "topk" and named == "standard":
        named = "topk"
    if named not in ARCHITECTURES:
        raise InputError(
            f"{where}: expected an architecture among {', '.join(ARCHITECTURES)}, found {named!r}: "
            "leave this SAE out"
        )
    if activation not in ("relu", "topk") or (activation == "topk" and named != "topk"):
        raise InputError(
            f"{where}: expected the activation function relu, or topk in a topk SAE, found "
            f"{activation!r} in a {named} one: leave this SAE out"
        )
    if named != "topk":
        return named, None
    k = flat.get("k", (flat.get("activation_fn_kwargs") or {}).get("k"))
    return named, _integer({"k": k}, "k", where)


def _normalization(flat: Mapping[str, Any], where: str) -> Any:
    named = _needed(flat, "normalize_activations", where, f"one of {', '.join(NORMALIZATIONS)}")
    if named is False:  # SAELens before 3 had a switch
        named = "none"
    if named not in NORMALIZATIONS:
        raise InputError(
            f"{where}: expected normalize_activations among {', '.join(NORMALIZATIONS)}, found "
            f"{named!r}: its statistics are not in the file, so fold it into the weights with "
            "SAELens (fold_activation_norm_scaling_factor) and save the SAE again"
        )
    return named


def _is_centered(flat: Mapping[str, Any], is_current: bool) -> bool | None:
    """SAELens 6 processes a model only as the config says; older versions left it to the
    library's defaults, which changed."""
    processing = flat.get("model_from_pretrained_kwargs") or {}
    if "center_writing_weights" in processing:
        return bool(processing["center_writing_weights"])
    return False if is_current else None


def _refuse_unsupported(flat: Mapping[str, Any], where: str) -> None:
    reshaping = flat.get("reshape_activations", "none")
    if reshaping not in ("none", "hook_z"):
        raise InputError(
            f"{where}: expected reshape_activations none or hook_z, found {reshaping!r}: leave "
            "this SAE out"
        )
    if flat.get("finetuning_scaling_factor"):
        raise InputError(
            f"{where}: expected no finetuning_scaling_factor, found one: fold it into the decoder "
            "with SAELens and save the SAE again"
        )
    if flat.get("hook_head_index") is not None or flat.get("hook_name_out") is not None:
        raise InputError(
            f"{where}: expected an SAE of one whole hook point, found one of a single head or one "
            "that writes elsewhere (a transcoder): leave it out"
        )


def _needed(flat: Mapping[str, Any], key: str, where: str, expected: str) -> Any:
    value = flat.get(key)
    if value is None:
        raise InputError(
            f"{where}: expected {key} ({expected}), found none: add it to the file, or give it as "
            "an override, as it was when the SAE was trained"
        )
    return value


def _integer(flat: Mapping[str, Any], key: str, where: str) -> int:
    value = _needed(flat, key, where, "a whole number of at least 1")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"{where}: expected {key} as a whole number of at least 1, found {value!r}"
        )
    return value


def _boolean(flat: Mapping[str, Any], key: str, where: str) -> bool:
    value = _needed(flat, key, where, "true or false")
    if not isinstance(value, bool):
        raise InputError(f"{where}: expected {key} as true or false, found {value!r}")
    return value
