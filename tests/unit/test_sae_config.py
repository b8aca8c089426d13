from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from whatchanged.config_blocks import parse_block
from whatchanged.errors import ConfigError
from whatchanged.sae_config import SaeComparisonConfig, load_comparison

SMALL = "model: {model: org/one}\nsaes: [{folder: a}]\ntexts: {file: t.jsonl}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_a_model_an_sae_and_texts_are_a_whole_config(config_file: Path) -> None:
    loaded = load_comparison(config_file)
    config = loaded.config
    assert loaded.name == "small"
    assert (config.model.model, config.saes[0].folder, config.texts.file) == (
        "org/one", "a", "t.jsonl"
    )  # fmt: skip
    assert (config.intervention, config.pooling, config.concepts) == (None, "max", {})
    assert config.thresholds.quantiles == (0.5, 0.9)


def test_overrides_win_and_the_written_config_reads_back_equal(config_file: Path) -> None:
    overrides = [
        "pooling=last",
        "texts.n_per_category=3",
        "saes=[{release: r, id: i, name: x, overrides: {k: 3}}]",
        'concepts={"a: b": ["one\\ntwo", "c # d"]}',
    ]
    loaded = load_comparison(config_file, overrides)
    text = loaded.to_yaml()
    assert "pooling: last  # override" in text
    assert parse_block(SaeComparisonConfig, yaml.safe_load(text), "text") == loaded.config
    assert loaded.config.concepts == {"a: b": ("one\ntwo", "c # d")}
    assert loaded.config.saes[0].overrides == {"k": 3}


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "a").mkdir()
    path = tmp_path / "c.yaml"
    path.write_text(SMALL.replace("[{folder: a}]", "[{folder: a}, {folder: demo:topk}]"))
    config = load_comparison(path).config
    assert config.texts.file == str(tmp_path / "t.jsonl")
    assert [sae.folder for sae in config.saes] == [str(tmp_path / "a"), "demo:topk"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("poling=max", "unknown key 'poling': did you mean 'pooling'?"),
        ("ablation.n_control=1", "'ablation.n_control': did you mean 'n_controls'?"),
        ("saes=[{foldr: a}]", "unknown key 'saes.0.foldr': did you mean 'folder'?"),
        ("intervention={modle: a}", "unknown key 'intervention.modle': did you mean 'model'?"),
        ("saes=[]", "saes"),
        ("saes=[{folder: a, release: r, id: i}]", "either `folder`, or `release` and `id`"),
        ("saes=[{release: r}]", "either `folder`, or `release` and `id`"),
        ("saes=[{name: a}]", "either `folder`, or `release` and `id`"),
        ("texts.file=demo:categories", "needs `n_per_category`"),
        ("texts.n_per_category=0", "texts.n_per_category"),
        ("thresholds.quantiles=[0.5, 1]", "between 0 and 1"),
        ("thresholds.quantiles=[0.5, 0.5]", "quantiles must differ"),
        ("concepts={a: []}", "the concept 'a' must hold texts, none of them empty"),
        ("concepts={a: [' ']}", "the concept 'a' must hold texts, none of them empty"),
        ("model.system_prompt=Hi", "`system_prompt` and `thinking` mean nothing here"),
        ("batch_size=0", "batch_size must be auto or at least 1"),
        ("alpha=0", "alpha"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    config_file: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_comparison(config_file, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
