"""A LoRA adapter merged into the model that it was made for, by peft.

Merged weights decode as fast as any, and what reads weights reads the intervention in them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from whatchanged.errors import InputError, MissingDependencyError, first_line
from whatchanged.models.weights import ResolvedModel


def check_installed() -> None:
    """Nothing, where adapters can be loaded; raises MissingDependencyError where they cannot."""
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError(
            "adapter: expected the package peft, found none: pip install 'whatchanged[adapters]'"
        )


def merge_adapter(network: Any, adapter: ResolvedModel) -> Any:
    """The network with the adapter in its weights. `network` is changed in place.

    An adapter that fits by the names and shapes of its modules is taken, whatever model it says it
    was made for: copies of one model have many names.

    Raises MissingDependencyError without peft, InputError for an adapter that is no LoRA, does
    not fit this network, or holds NaN.
    """
    check_installed()
    from peft import PeftModel, PeftType

    config = _read_config(adapter.path)
    if config.peft_type != PeftType.LORA:
        raise InputError(
            f"adapter {adapter.path}: expected a LoRA, which can be merged into weights, found "
            f"{getattr(config.peft_type, 'value', config.peft_type)}: merge it by other means and "
            "name the result as `model`"
        )
    try:
        wrapped = PeftModel(network, config)
        found = wrapped.load_adapter(str(adapter.path), "default")
        left_over = [*found.missing_keys, *found.unexpected_keys]
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit(adapter.path, config, type(network).__name__, error) from error
    if left_over:
        raise _misfit(adapter.path, config, type(network).__name__, left_over[0])
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise InputError(
            f"adapter {adapter.path}: expected finite weights, found NaN or infinite ones: save it "
            "again"
        ) from error


def _read_config(folder: Path) -> Any:
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        said = first_line(error)
        raise InputError(
            f"adapter {folder}: expected an adapter_config.json that peft reads, found another "
            f"({type(error).__name__}: {said}): save the adapter again with peft"
        ) from error


def _misfit(folder: Path, config: Any, network: str, what: object) -> InputError:
    # peft's message repeats the whole list of a model's modules, or one line per tensor.
    lines = [line.strip() for line in str(what).splitlines() if line.strip()]
    detail = (lines[1] if len(lines) > 1 else "".join(lines))[:200]
    return InputError(
        f"adapter {folder}: expected a LoRA that fits the {network} it is put on, found one that "
        f"was made for {config.base_model_name_or_path or 'a model that it does not name'} "
        f"({detail}): give that model as `model`"
    )
