"""Prompts from a dataset of the Hugging Face hub, or from a folder of one, by the library
`datasets` (the extra `banks`). It runs no code of a dataset.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whatchanged.errors import (
    InputError,
    MissingDependencyError,
    TransientError,
    WhatchangedError,
    first_line,
)
from whatchanged.prompts_config import PromptDatasetConfig
from whatchanged.table_files import Row

# What `save_to_disk` leaves in a folder: a split, or several.
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


def read_dataset(config: PromptDatasetConfig) -> Iterator[Row]:
    """The rows of a split, with the columns that hold prompts and groups alone.

    `config.name` is a folder where there is one: written by `save_to_disk`, or of files that
    `datasets` can load. The split of a folder that has none is called train.

    Raises MissingDependencyError without the library, InputError for a dataset, a configuration, a
    split or a column that is not there, and TransientError where the hub cannot be reached.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingDependencyError(
            f"prompts.dataset: expected the package datasets, to read {config.name}, found none: "
            "pip install 'whatchanged[banks]', or save the prompts as a file"
        )
    split = _load_split(config)
    wanted = [config.column, *([config.group_column] if config.group_column else [])]
    if missing := [name for name in wanted if name not in split.column_names]:
        raise InputError(
            f"prompts.dataset: expected {_listed(wanted)} among the columns of {config.name}, "
            f"found {_listed(split.column_names)}: name another than {_listed(missing)}"
        )
    for number, row in enumerate(split.select_columns(wanted), start=1):
        yield f"{config.name}, split {config.split}, row {number}", row


def _load_split(config: PromptDatasetConfig) -> Any:
    try:
        folder = Path(config.name).expanduser()
        is_saved = any((folder / name).is_file() for name in (_SAVED, _SAVED_SPLITS))
        return _from_disk(folder, config) if is_saved else _from_hub(config)
    except WhatchangedError:
        raise
    except Exception as error:  # the library raises many unrelated types, its clients' among them
        raise _failure(config, error) from None


def _from_disk(folder: Path, config: PromptDatasetConfig) -> Any:
    from datasets import load_from_disk

    if config.config is not None or config.revision is not None:
        raise InputError(
            f"prompts.dataset: expected neither config nor revision, because {folder} is a saved "
            "dataset, which has none: leave them out"
        )
    loaded = load_from_disk(str(folder))
    splits = (
        loaded if (folder / _SAVED_SPLITS).is_file() else {str(loaded.split or "train"): loaded}
    )
    if config.split not in splits:
        raise InputError(
            f"prompts.dataset: expected a split {config.split} in {config.name}, found "
            f"{_listed(list(splits))}: name one of these"
        )
    return splits[config.split]


def _from_hub(config: PromptDatasetConfig) -> Any:
    from datasets import load_dataset

    return load_dataset(config.name, config.config, split=config.split, revision=config.revision)


def _failure(config: PromptDatasetConfig, error: Exception) -> WhatchangedError:
    from datasets.exceptions import DatasetNotFoundError

    said = " ".join(first_line(error).split()).rstrip(".")
    if isinstance(error, ConnectionError | TimeoutError):
        return TransientError(
            f"prompts.dataset: expected the hub to give {config.name}, found "
            f"{type(error).__name__}: {said}; run again, or save the prompts as a file"
        )
    if isinstance(error, DatasetNotFoundError | FileNotFoundError):
        return InputError(
            f"prompts.dataset: expected a dataset {config.name}, found none ({said}): check name "
            "and revision, and whether it is a private one, which wants HF_TOKEN"
        )
    return InputError(
        f"prompts.dataset: expected the split {config.split} of {config.name}, found "
        f"{type(error).__name__}: {said}; check config, split and revision"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
