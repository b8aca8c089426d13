"""SAEs: what they compute, which folders are read and written, where they read in a model."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.unit.models.small_saes import make_sae
from whatchanged.demo import demo_path
from whatchanged.errors import InputError, MissingDependencyError
from whatchanged.models.hook_points import changed_at, find_hook_point, has_centering_norms
from whatchanged.models.sae_folders import (
    cached_sae_folder,
    load_sae_folder,
    load_sae_release,
    read_settings,
    sae_arrays,
    sae_config,
)
from whatchanged.models.saes import ARCHITECTURES, NORMALIZATIONS, Sae, SaeSettings
from whatchanged.store.sae_folders import write_sae_folder

has_saelens = importlib.util.find_spec("sae_lens") is not None
needs_saelens = pytest.mark.skipif(
    not has_saelens, reason="sae-lens is not installed: pip install 'whatchanged[saes]'"
)

FLAT: dict[str, Any] = {
    "architecture": "standard",
    "activation_fn_str": "relu",
    "d_in": 96,
    "d_sae": 40,
    "hook_point": "blocks.1.hook_resid_pre",
    "normalize_activations": "none",
    "prepend_bos": False,
    "context_size": 128,
    "apply_b_dec_to_input": False,
}


def activations(n: int = 50, d_in: int = 96, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


def written(sae: Sae, folder: Path, *, half: bool = False) -> Path:
    return write_sae_folder(folder, sae_config(sae), sae_arrays(sae, half=half))


def by_hand(architecture: Any, weights: dict[str, list[Any]], **settings: Any) -> Sae:
    """Two dimensions, three features; each writes one known vector."""
    shared = {
        "W_enc": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]],
        "W_dec": [[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        "b_dec": [1.0, 0.0],
    }
    options = {"normalization": "none", "prepends_start": True, "context_size": 8} | settings
    return Sae(
        "hand",
        SaeSettings(architecture, 2, 3, "blocks.0.hook_resid_post", **options),
        {name: torch.tensor(value) for name, value in (shared | weights).items()},
    )


# What they compute -------------------------------------------------------------------------------


def test_a_standard_sae_takes_the_decoder_bias_away_and_cuts_at_zero() -> None:
    sae = by_hand("standard", {"b_enc": [0.5, 0.0, -1.0]})
    x = torch.tensor([[3.0, -2.0]])
    # x - b_dec = (2, -2): 2 + 0.5, -2, 0 - 1.
    assert sae.encode(x).tolist() == [[2.5, 0.0, 0.0]]
    assert replace(sae, settings=replace(sae.settings, subtracts_decoder_bias=False)).encode(
        x
    ).tolist() == [[3.5, 0.0, 0.0]]
    assert sae.decode(sae.encode(x), x).tolist() == [[6.0, 0.0]]


def test_a_topk_sae_keeps_the_largest_k_above_zero() -> None:
    sae = by_hand("topk", {"b_enc": [0.0, 0.0, 0.0]}, k=2)
    # x - b_dec = (2, 1): 2, 1, 3; and (-3, 1): -3, 1, -2, of which only one is above 0.
    assert sae.encode(torch.tensor([[3.0, 1.0], [-2.0, 1.0]])).tolist() == [[2, 0, 3], [0, 1, 0]]


def test_a_topk_sae_that_rescales_ranks_by_the_decoders_norms_and_writes_unit_directions() -> None:
    sae = by_hand("topk", {"b_enc": [0.0, 0.0, 0.0]}, k=1, rescales_by_decoder_norm=True)
    x = torch.tensor([[3.0, 0.0]])
    # Before: 2, 0, 2; the decoder's norms are 2, 1 and sqrt 2, so the first has 4.
    assert sae.encode(x).tolist() == [[4.0, 0.0, 0.0]]
    assert sae.decode(sae.encode(x), x).tolist() == [[5.0, 0.0]]
    assert sae.decoder[0].tolist() == [1.0, 0.0]


def test_a_jumprelu_sae_lets_through_only_what_exceeds_its_threshold() -> None:
    sae = by_hand("jumprelu", {"b_enc": [0.0, 0.0, 0.0], "threshold": [2.0, 0.5, 2.5]})
    assert sae.encode(torch.tensor([[3.0, 1.0]])).tolist() == [[0.0, 1.0, 3.0]]


def test_a_gated_sae_opens_by_one_bias_and_measures_by_the_other() -> None:
    weights = {"b_gate": [0.0, -1.5, 0.0], "b_mag": [1.0, 0.0, -4.0], "r_mag": [0.0, 0.0, 0.0]}
    # x - b_dec = (2, 1): the second gate is shut (1 - 1.5), the third has size 3 - 4.
    assert by_hand("gated", weights).encode(torch.tensor([[3.0, 1.0]])).tolist() == [[3, 0, 0]]


def test_a_normalizing_sae_gives_back_the_scale_that_it_took() -> None:
    sae = by_hand("standard", {"b_enc": [0.0] * 3, "b_dec": [0.0] * 2}, normalization="layer_norm")
    x = torch.tensor([[5.0, 3.0]])
    # Mean 4, standard deviation sqrt 2 (over n - 1): 0.7071, -0.7071; the third feature has 0.
    features = sae.encode(x)
    assert features[0, 0].item() == pytest.approx(0.7071, abs=1e-4)
    assert sae.decode(features, x)[0].tolist() == pytest.approx([4 + 2.0, 4.0], abs=1e-4)
    rescaled = replace(sae, settings=replace(sae.settings, normalization="constant_norm_rescale"))
    # |(3, 4)| = 5, so (3, 4) becomes sqrt 2 / 5 of itself.
    found = rescaled.encode(torch.tensor([[3.0, 4.0]]))[0].tolist()
    assert found == pytest.approx([3 * 2**0.5 / 5, 4 * 2**0.5 / 5, 7 * 2**0.5 / 5])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_contributions_of_all_features_are_the_difference_that_they_make(
    normalization: Any,
) -> None:
    sae, x = make_sae(normalization=normalization), activations(1)
    features = sae.encode(x)
    parts = [
        sae.contribution(features[:, i], torch.tensor([i]), x) for i in range(sae.settings.d_sae)
    ]
    nothing = sae.decode(torch.zeros_like(features), x)
    torch.testing.assert_close(sum(parts), sae.decode(features, x) - nothing)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sparse_features_and_what_they_rebuild_are_those_of_the_dense_ones(
    architecture: Any, normalization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 3 rows: the last one is shorter.
    monkeypatch.setattr("whatchanged.models.saes._MAX_BLOCK", {"cpu": 120})
    sae, x = make_sae(architecture, normalization=normalization), activations(8)
    dense, sparse = sae.encode(x), sae.encode_sparse(x)
    torch.testing.assert_close(torch.from_numpy(sparse.toarray()), dense)
    assert sparse.nnz == int((dense > 0).sum()) > 0
    assert sparse.has_canonical_format
    torch.testing.assert_close(sae.decode_sparse(sparse, x), sae.decode(dense, x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_that_are_no_numbers_are_not_taken_for_silent_features(
    architecture: Any,
) -> None:
    x = activations(2)
    x[1, 0] = torch.nan
    assert np.isnan(make_sae(architecture).encode_sparse(x).toarray()[1]).any()
    assert make_sae(architecture).encode(x)[1].isnan().any()


def test_an_identity_names_weights_and_settings_and_not_the_place() -> None:
    sae = make_sae()
    assert sae.identity == replace(sae, name="other").identity == make_sae().identity
    assert sae.identity != make_sae(seed=1).identity
    assert sae.identity != make_sae(context_size=65).identity


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"W_enc": torch.zeros(96, 41)}, r"expected W_enc of shape \(96, 40\), found \(96, 41\)"),
        ({"b_gate": torch.zeros(40)}, "no such weight"),
        ({"b_dec": torch.full((96,), torch.nan)}, "NaN or infinity in b_dec"),
    ],
)
def test_weights_that_do_not_belong_are_refused(change: Any, said: str) -> None:
    sae = make_sae()
    with pytest.raises(InputError, match=said):
        replace(sae, weights={**sae.weights, **change})


def test_a_k_beyond_the_features_is_refused() -> None:
    with pytest.raises(InputError, match="k from 1 to 40 features per token, found 41"):
        make_sae("topk", k=41)


# Folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_gives_back_the_sae_that_was_written(tmp_path: Path, architecture: Any) -> None:
    sae = make_sae(
        architecture,
        normalization="layer_norm",
        excluded_tokens=(1, 2),
        positions=(1, None),
        is_centered=True,
        neuronpedia_id="model/1-res",
    )
    found = load_sae_folder(written(sae, tmp_path / "sae"))
    assert found.settings == sae.settings
    assert found.identity == sae.identity


def test_half_precision_on_disk_is_float32_in_memory(tmp_path: Path) -> None:
    folder = written(make_sae(), tmp_path / "a", half=True)
    found = load_sae_folder(folder, name="small")
    assert {weight.dtype for weight in found.weights.values()} == {torch.float32}
    assert (folder / "sae_weights.safetensors").stat().st_size < 2 * (2 * 96 * 40 + 136) + 500
    assert found.name == "small"


def test_the_flat_layout_of_older_versions_is_read() -> None:
    settings = read_settings({**FLAT, "neuronpedia_id": "gpt2-small/1-res-jb"}, "cfg.json")
    assert settings == SaeSettings(
        "standard",
        96,
        40,
        "blocks.1.hook_resid_pre",
        "none",
        prepends_start=False,
        context_size=128,
        subtracts_decoder_bias=False,
        is_centered=None,
        neuronpedia_id="gpt2-small/1-res-jb",
    )
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}
    found = read_settings({**FLAT, **topk}, "cfg.json")
    assert (found.architecture, found.k) == ("topk", 7)
    centered = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    assert read_settings({**FLAT, **centered}, "cfg.json").is_centered is True
    assert read_settings({**FLAT, "normalize_activations": False}, "cfg.json") == read_settings(
        FLAT, "cfg.json"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": None}, "expected architecture .one of standard, topk"),
        ({"architecture": "transcoder"}, "architecture among standard, .* found 'transcoder'"),
        ({"activation_fn_str": None}, "expected activation_fn"),
        ({"activation_fn_str": "tanh-relu"}, "found 'tanh-relu'"),
        ({"hook_point": None}, "expected hook_name"),
        ({"normalize_activations": None}, "expected normalize_activations"),
        ({"normalize_activations": "expected_average_only_in"}, "fold it into the weights"),
        ({"normalize_activations": True}, "fold it into the weights"),
        ({"prepend_bos": None}, "expected prepend_bos"),
        ({"prepend_bos": "yes"}, "prepend_bos as true or false"),
        ({"context_size": None}, "expected context_size"),
        ({"apply_b_dec_to_input": None}, "expected apply_b_dec_to_input"),
        ({"d_sae": 0}, "d_sae as a whole number of at least 1, found 0"),
        ({"architecture": "topk"}, "expected k"),
        ({"reshape_activations": "fold"}, "found 'fold'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"hook_head_index": 3}, "single head"),
        ({"hook_name_out": "blocks.1.hook_mlp_out"}, "transcoder"),
    ],
)
def test_what_a_config_leaves_open_or_is_unknown_is_refused(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_settings({**FLAT, **change}, "cfg.json")


def test_an_override_says_what_a_config_leaves_open(tmp_path: Path) -> None:
    folder = written(make_sae(), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    del config["metadata"]["context_size"]
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected context_size"):
        load_sae_folder(folder)
    found = load_sae_folder(folder, overrides={"context_size": 32, "prepend_bos": False})
    assert (found.settings.context_size, found.settings.prepends_start) == (32, False)


def test_a_folder_without_an_sae_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cfg.json and no sae_weights.*hf download"):
        load_sae_folder(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(InputError, match="expected JSON"):
        load_sae_folder(tmp_path)
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object, found list"):
        load_sae_folder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(FLAT))
    with pytest.raises(InputError, match="expected safetensors"):
        load_sae_folder(tmp_path)


def test_a_scaling_factor_of_ones_is_dropped_and_another_refused(tmp_path: Path) -> None:
    sae = make_sae()
    folder = written(sae, tmp_path / "sae")
    file = folder / "sae_weights.safetensors"
    save_file({**sae.weights, "scaling_factor": torch.ones(40)}, file)
    assert load_sae_folder(folder).identity == sae.identity
    save_file({**sae.weights, "scaling_factor": torch.full((40,), 2.0)}, file)
    with pytest.raises(InputError, match="scaling factor"):
        load_sae_folder(folder)


def test_unknown_centering_is_not_written_as_known() -> None:
    with pytest.raises(InputError, match="center_writing_weights"):
        sae_config(make_sae(is_centered=None))


# Releases ----------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one repository in SAELens's format, and no network."""
    root = tmp_path / "models--someone--saes"
    written(make_sae(), root / "snapshots" / "c0ffee" / "layer_1")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_the_hubs_cache_is_asked_for_an_sae(hub_cache: Path) -> None:
    found = cached_sae_folder("someone/saes", "layer_1")
    assert found == hub_cache / "models--someone--saes" / "snapshots" / "c0ffee" / "layer_1"
    assert cached_sae_folder("someone/saes", "layer_2") is None
    assert cached_sae_folder("someone/else", "layer_1") is None


@pytest.mark.skipif(has_saelens, reason="sae-lens is installed and does this itself")
def test_without_the_package_a_cached_repository_loads_and_all_else_says_what_to_do(
    hub_cache: Path,
) -> None:
    assert load_sae_release("someone/saes", "layer_1").identity == make_sae().identity
    with pytest.raises(MissingDependencyError, match=r"pip install 'whatchanged\[saes\]', or hf"):
        load_sae_release("someone/saes", "layer_2")
    with pytest.raises(MissingDependencyError, match=r"pip install 'whatchanged\[saes\]'$"):
        load_sae_release("gpt2-small-res-jb", "blocks.1.hook_resid_pre")


@needs_saelens
def test_with_the_package_a_release_loads_and_a_missing_one_says_what_to_do(
    hub_cache: Path,
) -> None:
    assert load_sae_release("someone/saes", "layer_1").identity == make_sae().identity
    with pytest.raises(MissingDependencyError, match="hf download someone/saes --include"):
        load_sae_release("someone/saes", "layer_2")
    with pytest.raises(MissingDependencyError, match="hf download jbloom/GPT2-Small-SAEs"):
        load_sae_release("gpt2-small-res-jb", "blocks.1.hook_resid_pre")
    with pytest.raises(InputError, match="not found in release"):
        load_sae_release("gpt2-small-res-jb", "blocks.99.hook_resid_pre")
    with pytest.raises(InputError, match="no-such-release"):
        load_sae_release("no-such-release", "x")


# SAELens -----------------------------------------------------------------------------------------


@needs_saelens
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_reads_our_folders_and_computes_the_same(
    tmp_path: Path, architecture: Any, normalization: Any
) -> None:
    from sae_lens import SAE  # type: ignore[import-not-found, unused-ignore]

    sae = make_sae(architecture, normalization=normalization)
    theirs = SAE.load_from_disk(written(sae, tmp_path / "sae"))
    x = activations()
    features = sae.encode(x)
    assert (features > 0).any()
    torch.testing.assert_close(features, theirs.encode(x).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sae.decode(features, x), theirs(x).detach(), atol=1e-5, rtol=1e-5)
    assert theirs.cfg.metadata.hook_name == sae.settings.hook_name


@needs_saelens
@pytest.mark.parametrize("rescales", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folders_that_saelens_writes_load_and_compute_the_same(
    tmp_path: Path, architecture: Any, rescales: bool
) -> None:
    from sae_lens import SAE  # type: ignore[import-not-found, unused-ignore]

    if rescales and architecture != "topk":
        pytest.skip("only TopK knows the setting")
    config = sae_config(make_sae(architecture))
    config |= {"rescale_acts_by_decoder_norm": True} if rescales else {}
    theirs = SAE.from_dict(config)
    for place, weight in enumerate(theirs.parameters()):
        torch.manual_seed(place)
        weight.data.normal_(std=0.2)
    theirs.save_model(tmp_path)
    found = load_sae_folder(tmp_path)
    x = activations()
    assert found.settings.rescales_by_decoder_norm == rescales
    torch.testing.assert_close(found.encode(x), theirs.encode(x).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.decode(found.encode(x), x), theirs(x).detach(), atol=1e-5, rtol=1e-5
    )


@needs_saelens
def test_both_libraries_read_the_flat_layout_alike(tmp_path: Path) -> None:
    from sae_lens import SAE  # type: ignore[import-not-found, unused-ignore]

    sae = make_sae()
    config = {**FLAT, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True}
    write_sae_folder(tmp_path, config, sae_arrays(sae))
    x = activations()
    theirs = SAE.load_from_disk(tmp_path)
    found = load_sae_folder(tmp_path)
    torch.testing.assert_close(found.encode(x), theirs.encode(x).detach(), atol=1e-5, rtol=0)
    assert found.settings.hook_name == theirs.cfg.metadata.hook_name


# Hook points -------------------------------------------------------------------------------------


def demo_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo_path("base")).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=300)
    return GPT2LMHeadModel(config).eval()


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    return Gemma2ForCausalLM(
        Gemma2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, intermediate_size=48, vocab_size=300,
        )
    ).eval()  # fmt: skip


def neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            vocab_size=300, use_parallel_residual=True,
        )
    ).eval()  # fmt: skip


KNOWN_PARTS = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_in", "hook_mlp_out",
    "hook_attn_out", "attn.hook_z", "mlp.hook_post",
)  # fmt: skip


def passing(model: Any, *names: str) -> list[torch.Tensor]:
    """What passes these hook points on one text."""
    seen: dict[str, torch.Tensor] = {}

    def see(name: str) -> Any:
        return lambda x: seen.setdefault(name, x)

    with torch.inference_mode(), ExitStack() as stack:
        for name in names:
            stack.enter_context(changed_at(model, find_hook_point(model, name), see(name)))
        model(input_ids=torch.tensor([[5, 9, 40, 7]]))
    return [seen[name] for name in names]


@pytest.mark.parametrize("make", [demo_model, gpt2, gemma2])
def test_the_parts_of_a_block_add_up_to_its_residual_stream(make: Any) -> None:
    model = make()
    pre, mid, entering_mlp, post, attention, mlp, following = passing(
        model,
        *(
            f"blocks.0.hook_{part}"
            for part in ("resid_pre", "resid_mid", "mlp_in", "resid_post", "attn_out", "mlp_out")
        ),
        "blocks.1.hook_resid_pre",
    )
    torch.testing.assert_close(pre + attention, mid)
    torch.testing.assert_close(mid, entering_mlp)
    torch.testing.assert_close(mid + mlp, post)
    torch.testing.assert_close(post, following)
    states = model(input_ids=torch.tensor([[5, 9, 40, 7]]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(pre, states[0].detach())
    torch.testing.assert_close(post, states[1].detach())


def test_parallel_blocks_have_no_middle_and_add_up_without_it() -> None:
    model = neox()
    pre, attention, mlp, post = passing(
        model, *(f"blocks.0.hook_{part}" for part in ("resid_pre", "attn_out", "mlp_out",
                                                      "resid_post"))
    )  # fmt: skip
    torch.testing.assert_close(pre + attention + mlp, post)
    with pytest.raises(InputError, match=r"found 'blocks.0.hook_resid_mid'"):
        find_hook_point(model, "blocks.0.hook_resid_mid")


@pytest.mark.parametrize("make", [demo_model, gpt2, gemma2, neox])
def test_neurons_and_heads_are_what_enters_the_last_projections(make: Any) -> None:
    model = make()
    text = model.config.get_text_config()
    neurons = find_hook_point(model, "blocks.1.mlp.hook_post")
    heads = find_hook_point(model, "blocks.1.attn.hook_z")
    d_mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    assert (neurons.width, heads.width) == (d_mlp, text.hidden_size)
    assert not neurons.is_residual and not heads.is_residual
    found = passing(model, neurons.name, heads.name)
    assert [x.shape[-1] for x in found] == [neurons.width, heads.width]


def test_a_path_of_a_module_is_its_output_unless_it_says_input() -> None:
    model = gpt2()
    output, same, entering, up, pre, post = passing(
        model,
        "transformer.h.0",
        "transformer.h.0.output",
        "transformer.h.0.input",
        "transformer.h.0.mlp.act",
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
    )
    assert torch.equal(output, post) and torch.equal(same, post) and torch.equal(entering, pre)
    assert up.shape[-1] == 128


@pytest.mark.parametrize(
    "name", ["blocks.3.hook_resid_post", "blocks.0.hook_q", "model.layers.9", "hook_embed"]
)
def test_an_unknown_hook_point_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(InputError, match=f"found '{name}': known are blocks.N.NAME with N below 3"):
        find_hook_point(demo_model(), name)


def test_what_passes_can_be_changed_and_no_hook_stays() -> None:
    model = gpt2()
    ids = torch.tensor([[5, 9, 40, 7]])
    for name in ("blocks.0.hook_resid_pre", "blocks.0.hook_attn_out", "transformer.h.1"):
        with torch.inference_mode():
            before = model(input_ids=ids).logits
            with changed_at(model, find_hook_point(model, name), lambda x: x * 0.5):
                changed = model(input_ids=ids).logits
            assert not torch.allclose(before, changed)
            assert torch.equal(model(input_ids=ids).logits, before)


@needs_saelens
@pytest.mark.parametrize("centers", [False, True])
def test_hook_points_are_those_of_transformerlens(centers: bool) -> None:
    from transformer_lens import (  # type: ignore[import-not-found, unused-ignore]
        HookedTransformer,
        HookedTransformerConfig,
    )
    from transformer_lens.pretrained.weight_conversions import (  # type: ignore[import-not-found, unused-ignore]
        convert_gpt2_weights,
    )

    ours = gpt2()
    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=32, d_head=8, n_heads=4, d_mlp=128, d_vocab=300,
        act_fn="gelu_new", eps=1e-5, normalization_type="LN",
    )  # fmt: skip
    theirs = HookedTransformer(config)
    theirs.load_and_process_state_dict(
        convert_gpt2_weights(ours, config), fold_ln=False, center_writing_weights=centers,
        center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    theirs.set_use_hook_mlp_in(True)
    with torch.inference_mode():
        _, cache = theirs.run_with_cache(torch.tensor([[5, 9, 40, 7]]), prepend_bos=False)
    names = [f"blocks.1.{part}" for part in KNOWN_PARTS]
    for name, found in zip(names, passing(ours, *names), strict=True):
        # What the residual stream holds is what centering is about.
        if centers and find_hook_point(ours, name).is_residual:
            found = found - found.mean(dim=-1, keepdim=True)
        torch.testing.assert_close(found, cache[name].reshape(found.shape), atol=1e-6, rtol=0)


def test_only_layer_norms_take_a_mean_away() -> None:
    assert [has_centering_norms(make()) for make in (demo_model, gpt2, gemma2, neox)] == [
        False, True, False, True,
    ]  # fmt: skip


def test_the_decoder_is_a_plain_array() -> None:
    sae = make_sae()
    assert isinstance(sae.decoder, np.ndarray)
    assert sae.decoder.shape == (40, 96)
