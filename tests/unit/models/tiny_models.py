"""Tiny models with random weights, made on the spot: no network, no weights in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = (
    "The harbour was quiet in the morning, and the boats came back one by one.",
    "She asked for a recipe with lentils, garlic and a little lemon.",
    "How do I plan a garden that needs no water in the summer?",
    "The train leaves at seven, but the station opens only at eight.",
    "Write about a library, a lamp and a very old map of the river.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(chat_template: str | None = None) -> Any:
    """A byte-level BPE tokenizer of 2,048 tokens at most, with bos before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})
    fast.chat_template = chat_template
    return fast


def save_causal_model(
    folder: Path, *, seed: int = 0, chat_template: str | None = None, **config: Any
) -> Path:
    """A small Llama with peaked random weights and its tokenizer, saved in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(chat_template)
    torch.manual_seed(seed)
    options = {
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 256,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        # Random weights of the usual size give nearly uniform tokens; these give a few likely ones.
        "initializer_range": 0.12,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    model = LlamaForCausalLM(LlamaConfig(**(options | config)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sentence_encoder(
    folder: Path,
    *,
    seed: int = 0,
    max_tokens: int = 32,
    pooling: str = "mean",
    d_dense: int | None = None,
    prompts: dict[str, str] | None = None,
    dtype: Any = None,
) -> Path:
    """A small BERT with pooling, and a dense layer if asked for, saved in `folder`; the first of
    the prompts is the default."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    bert = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
    )
    bert.to(dtype).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert"), max_seq_length=max_tokens), Pooling(24, pooling)]
    if d_dense is not None:
        modules.append(Dense(24, d_dense))
    model = SentenceTransformer(
        modules=modules, prompts=prompts, default_prompt_name=next(iter(prompts or ()), None)
    )
    model.save(str(folder))
    return folder
