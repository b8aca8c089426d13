"""Prompt banks that are datasets, from folders that the tests save."""

from __future__ import annotations

from pathlib import Path

import pytest

from whatchanged.errors import InputError, MissingDependencyError, TransientError
from whatchanged.models import prompt_dataset
from whatchanged.prompt_bank import PromptBank, PromptRow, read_prompt_bank
from whatchanged.prompts_config import PromptDatasetConfig, PromptsConfig

COLUMNS = {"question": ["Tea?", "Chess?", "Tea?"], "topic": ["drinks", None, None], "n": [1, 2, 3]}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders: `one` and `splits` as saved by the library, `files` of Parquet."""
    datasets = pytest.importorskip("datasets", reason="the extra `banks` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    data = datasets.Dataset.from_dict(COLUMNS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "files").mkdir()
    data.to_parquet(str(tmp_path / "files" / "train.parquet"))
    return tmp_path


def read(name: object, split: str = "train", column: str = "question", **other: str) -> PromptBank:
    dataset = PromptDatasetConfig(name=str(name), split=split, column=column, **other)
    return read_prompt_bank(PromptsConfig(dataset=dataset))


@pytest.mark.parametrize(
    ("folder", "split"), [("one", "train"), ("splits", "test"), ("files", "train")]
)
def test_the_named_columns_of_a_split_are_the_bank(saved: Path, folder: str, split: str) -> None:
    bank = read(saved / folder, split, group_column="topic")
    assert bank == PromptBank(
        (PromptRow("Tea?", "drinks"), PromptRow("Chess?", None)), 1, "dataset"
    )
    assert {row.group for row in read(saved / folder, split).rows} == {None}


def test_what_is_not_there_is_said(saved: Path) -> None:
    for name, options, said in [
        (saved / "one", {"column": "prompt"}, "expected prompt among .*question, topic"),
        (saved / "one", {"group_column": "kind"}, "name another than kind"),
        (saved / "one", {"column": "n"}, "row 1: expected .*found '1'"),
        (saved / "one", {"split": "test"}, "expected a split test in .*, found train"),
        (saved / "one", {"revision": "main"}, "expected neither config nor revision"),
        (saved / "files", {"split": "test"}, r"Unknown split .*test.*\['train'\]"),
        (saved / "files", {"config": "en"}, "'en' not found"),
        (saved / "nowhere", {}, "expected a dataset .*nowhere, found none"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=said) as error:
            read(name, **options)
        assert "\n" not in str(error.value)


def test_a_hub_out_of_reach_may_be_tried_again(saved: Path) -> None:
    with pytest.raises(TransientError, match="expected the hub to give invented/bank"):
        read("invented/bank")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_dataset.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'whatchanged\[banks\]'"
    ) as error:
        read("invented/bank")
    assert error.value.exit_code == 5
