from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from whatchanged.config import AuditConfig, parse_config
from whatchanged.config_file import load_config
from whatchanged.errors import ConfigError

TWO_MODELS = "base: {model: org/before}\nintervention: {model: org/after}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TWO_MODELS)
    return path


def test_two_models_are_a_whole_config(config_file: Path) -> None:
    loaded = load_config(config_file)
    assert loaded.name == "small"
    assert loaded.config.base.model == "org/before"
    assert loaded.config.decode.max_new_tokens == 48
    assert loaded.config.judge.borderline == (0.4, 0.6)
    assert loaded.config.seed == 0


def test_an_override_wins_over_the_file_and_is_remembered(config_file: Path) -> None:
    config_file.write_text(TWO_MODELS + "seed: 1\nsample: {max_texts: 7}\n")
    loaded = load_config(config_file, ["seed=2", "decode.temperature=0.5"])
    assert (loaded.config.seed, loaded.config.sample.max_texts) == (2, 7)
    assert loaded.config.decode.temperature == 0.5
    assert loaded.origins["seed"] == "override"
    assert loaded.origins["decode.temperature"] == "override"
    assert loaded.origins["sample.max_texts"] == "file"
    assert "decode.top_p" not in loaded.origins


def test_an_override_may_be_a_list_or_a_whole_block(config_file: Path) -> None:
    overrides = ["judge.borderline=[0.2, 0.8]", "sample={max_texts: 9}"]
    config = load_config(config_file, overrides).config
    assert config.judge.borderline == (0.2, 0.8)
    assert config.sample.max_texts == 9


def test_the_written_config_reads_back_equal_and_names_origins(config_file: Path) -> None:
    loaded = load_config(config_file, ["seed=5"])
    text = loaded.to_yaml()
    assert "seed: 5  # override" in text
    assert "  model: org/before  # file" in text
    assert "  max_new_tokens: 48  # default" in text
    assert parse_config(yaml.safe_load(text), "text") == loaded.config


def test_a_misspelt_key_is_refused_with_the_nearest_one(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sample\.max_text': did you mean 'max_texts'\?"):
        load_config(config_file, ["sample.max_text=3"])


def test_a_key_like_no_other_is_refused_with_all_known_ones(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'budget\.zzzz': known keys: max_usd"):
        load_config(config_file, ["budget.zzzz=3"])


def test_the_alias_of_a_block_is_what_a_user_writes(config_file: Path) -> None:
    assert load_config(config_file, ["validate.alpha=0.01"]).config.validation.alpha == 0.01
    with pytest.raises(ConfigError, match=r"'validate\.alfa': did you mean 'alpha'\?"):
        load_config(config_file, ["validate.alfa=0.01"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decode.temperature=0", "decode.temperature: Input should be greater than 0, found 0"),
        ("prompts.validation_share=1", "prompts.validation_share"),
        ("sample.strategy=guess", "sample.strategy"),
        ("judge.borderline=[0.6, 0.4]", "0 <= low <= high <= 1"),
        ("seed=-1", "seed"),
        ("sample.max_texts=many", "sample.max_texts"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(
    config_file: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(config_file, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("base: {model: a/b}\n")
    with pytest.raises(ConfigError, match="key 'intervention' is missing"):
        load_config(path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_config(path)


def test_a_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_key_or_value_is_refused(config_file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set expects key=value"):
        load_config(config_file, [override])


def test_an_override_cannot_go_below_a_value(config_file: Path) -> None:
    with pytest.raises(ConfigError, match="seed is a value, not a block"):
        load_config(config_file, ["seed=1", "seed.deeper=2"])


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "bank.jsonl").write_text("")
    path = tmp_path / "there.yaml"
    path.write_text(TWO_MODELS + "prompts: {file: bank.jsonl}\n")
    config = load_config(path).config
    assert config.prompts.file == str(tmp_path / "bank.jsonl")
    # A hub id stays an id: there is no such folder beside the file.
    assert config.base.model == "org/before"


def test_paths_in_a_list_of_a_block_are_relative_to_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = tmp_path / "latents.yaml"
    path.write_text(
        TWO_MODELS + "activations:\n  sources: [saes]\n  saes:\n"
        "    - {folder: mine}\n    - {folder: demo:topk}\n    - {release: org/saes, id: layer_3}\n"
    )
    loaded = load_config(path)
    mine, demo, release = loaded.config.activations.saes
    assert (mine.folder, demo.folder) == (str(tmp_path / "mine"), "demo:topk")
    assert (release.release, release.id) == ("org/saes", "layer_3")
    again = tmp_path / "again.yaml"
    again.write_text(loaded.to_yaml())
    assert load_config(again).config == loaded.config


def test_latents_need_a_list_of_saes(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"the source saes needs `saes`, a list such as"):
        load_config(config_file, ["activations.sources=[saes]"])
    listed = ["activations.sources=[saes]", "activations.saes=[{release: org/saes}]"]
    with pytest.raises(ConfigError, match="expected either `folder`, or `release` and `id`"):
        load_config(config_file, listed)


def test_packaged_names_are_left_alone(config_file: Path) -> None:
    config = load_config(config_file, ["prompts.file=demo:prompts.jsonl"]).config
    assert config.prompts.file == "demo:prompts.jsonl"


def test_a_config_cannot_be_changed(config_file: Path) -> None:
    config = load_config(config_file).config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]  # what the test is about
    assert isinstance(config, AuditConfig)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("{store: shared}", "write ./shared for a folder beside this file"),
        ("{store: 'sftp://me:secret@host/a'}", "`store` holds a password"),
        ("{store: 's3://bucket/a', offline: true}", "`offline` connects to no other machine"),
    ],
)
def test_a_store_that_cannot_be_shared_is_refused(
    config_file: Path, run: str, sentence: str
) -> None:
    config_file.write_text(f"{TWO_MODELS}run: {run}\n")
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(config_file)
    assert "secret" not in str(caught.value)


def test_a_store_is_a_url_or_a_folder_beside_the_file(config_file: Path) -> None:
    for written, meant in [
        ("s3://bucket/a", "s3://bucket/a"),
        ("/mnt/a", "/mnt/a"),
        ("./a", str(config_file.parent / "a")),
    ]:
        config_file.write_text(f"{TWO_MODELS}run: {{store: {written}}}\n")
        assert load_config(config_file).config.run.store == meant
