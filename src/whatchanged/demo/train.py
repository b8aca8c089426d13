"""Train the embedded models from nothing: `python -m whatchanged.demo.train [--out DIR]`.

A developer tool: it writes `DIR/models/{base,intervention,null_intervention}/` and
`DIR/prompts.jsonl` (DIR is this package by default). The base model learns the grammar. The
intervention is the base fine-tuned on the edited grammar; the null intervention is the base
fine-tuned by the same recipe on the grammar as it was.

Plain fine-tuning drifts: it moves shares that nobody asked it to move. So a fine-tune is partly a
distillation: at every position up to the first edited token, the target is a mixture of the corpus
token (weight `Recipe.hard_weight`) and the base model's own next-token distribution. From the first
edited token on, and for the choice to start an edit, the corpus token alone is the target. The null
intervention has no edited tokens, so all its targets are such mixtures.

Weights are stored as float16 (about 1 MB a model) and are loaded as float32: the configuration says
so, and everything measured is measured on the rounded weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.demo.behaviours import write_pair
from whatchanged.demo.grammar import prompt_bank
from whatchanged.demo.pair import DEMO, SIDES, ModelSize, PairSpec, Recipe

if TYPE_CHECKING:
    import torch

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
_CHUNK_BATCHES = 32
_WARMUP_STEPS = 40


@dataclass(frozen=True)
class Encoded:
    """One training text. `ids` is bos + prompt + reply + eos; the reply starts at `start`.

    Tokens from `first_edit` on differ from the unedited text (`len(ids)` when nothing was edited).
    """

    ids: tuple[int, ...]
    start: int
    first_edit: int


@dataclass(frozen=True)
class Batch:
    """`ids` (n_texts, n_tokens) int64, right-padded; the masks have the shape of `ids` less one.

    `is_target` marks positions whose next token belongs to the reply; `is_soft` those of them where
    the base model's distribution is part of the target.
    """

    ids: torch.Tensor
    is_target: torch.Tensor
    is_soft: torch.Tensor


def train_tokenizer(spec: PairSpec, n_texts: int = 8_000) -> Any:
    """A byte-level BPE tokenizer of at most `spec.size.vocab_size` tokens.

    It is trained on texts of both corpora and puts `<bos>` before every text, so that
    `tokenizer(prompt)` is the prefix that the models were trained on.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"tokenizer-{spec.seed}")
    # Fixed rates: tuning the rate of a behaviour must not change the tokenizer, nor the base model.
    behaviours = [replace(behaviour, rate=0.5) for behaviour in spec.behaviours]
    pairs = (write_pair(spec.topics, behaviours, rng) for _ in range(n_texts))
    texts = (example.prompt + example.text for pair in pairs for example in pair)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.size.vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=spec.size.max_positions,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def new_model(size: ModelSize, tokenizer: Any, seed: int) -> Any:
    """A randomly initialized Llama-style causal language model, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=size.mlp_size,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_kv_heads,
        max_position_embeddings=size.max_positions,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _first_difference(a: list[int], b: list[int]) -> int:
    """The first index where `a` and `b` differ; `len(b)` when they are equal."""
    if a == b:
        return len(b)
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def encode_pairs(pairs: list[tuple[str, str, str]], tokenizer: Any) -> list[Encoded]:
    """Encode (prompt, reply before, reply after) for training on the reply after the edits."""
    eos = [tokenizer.eos_token_id]

    def encoded(texts: list[str]) -> list[list[int]]:
        return [ids + eos for ids in tokenizer(texts)["input_ids"]]

    prompts = tokenizer([prompt for prompt, _, _ in pairs])["input_ids"]
    before = encoded([prompt + text for prompt, text, _ in pairs])
    after = encoded([prompt + text for prompt, _, text in pairs])
    return [
        Encoded(tuple(a), len(p), _first_difference(b, a))
        for p, b, a in zip(prompts, before, after, strict=True)
    ]


def batch_of(texts: list[Encoded], pad_id: int) -> Batch:
    """Right-padded tensors of at least one text; see `Batch`."""
    import torch

    width = max(len(text.ids) for text in texts)
    ids = torch.tensor([[*text.ids, *[pad_id] * (width - len(text.ids))] for text in texts])
    target = torch.arange(1, width)[None, :]
    start = torch.tensor([text.start for text in texts])[:, None]
    end = torch.tensor([len(text.ids) for text in texts])[:, None]
    first_edit = torch.tensor([text.first_edit for text in texts])[:, None]
    is_target = (target >= start) & (target < end)
    return Batch(ids, is_target, is_target & (target < first_edit))


def batches(spec: PairSpec, side: str, recipe: Recipe, tokenizer: Any) -> Iterator[Batch]:
    """Endless batches of fresh texts of one side's corpus; texts of similar length go together."""
    rng = random.Random(f"{side}-{spec.seed}")
    behaviours = spec.behaviours_of(side)
    planted = {behaviour.group for behaviour in spec.behaviours}
    topics = [
        t for t in spec.topics for _ in range(recipe.planted_weight if t.name in planted else 1)
    ]
    while True:
        n_texts = _CHUNK_BATCHES * recipe.batch_texts
        drawn = [write_pair(topics, behaviours, rng) for _ in range(n_texts)]
        texts = encode_pairs([(b.prompt, b.text, a.text) for b, a in drawn], tokenizer)
        texts.sort(key=lambda text: len(text.ids))
        starts = list(range(0, n_texts, recipe.batch_texts))
        rng.shuffle(starts)
        for i in starts:
            yield batch_of(texts[i : i + recipe.batch_texts], tokenizer.pad_token_id)


def _reply_log_probs(model: Any, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n_rows, n_vocab) of the next token at the marked positions only.

    The vocabulary projection is the dearest part of so small a model.
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    log_probs: torch.Tensor = model.lm_head(hidden[rows]).log_softmax(dim=-1)
    return log_probs


def batch_loss(model: Any, base: Any | None, batch: Batch, hard_weight: float) -> torch.Tensor:
    """Mean cross-entropy in nats per reply token against the mixed targets; a scalar.

    Without a `base` model all targets are corpus tokens.
    """
    import torch

    rows = batch.is_target
    log_probs = _reply_log_probs(model, batch.ids, rows)
    hard = -log_probs.gather(1, batch.ids[:, 1:][rows][:, None])[:, 0]
    if base is None or hard_weight == 1.0:
        return hard.mean()
    with torch.no_grad():
        base_probs = _reply_log_probs(base, batch.ids, rows).exp()
    soft = -(base_probs * log_probs).sum(dim=1)
    mixed = hard_weight * hard + (1.0 - hard_weight) * soft
    return torch.where(batch.is_soft[rows], mixed, hard).mean()


def _optimizers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    import torch

    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inner_ids = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in inner_ids]
    return [
        torch.optim.Muon(inner, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _lr_factor(step: int, n_steps: int) -> float:
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    return warm * (1.0 - step / n_steps)


def _move_toward(average: Any, model: Any, share: float) -> None:
    import torch

    with torch.no_grad():
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, share)


def fit(model: Any, base: Any | None, spec: PairSpec, side: str, tokenizer: Any) -> Any:
    """Train `model` in place on one side's corpus and return its moving average.

    Prints the running loss per reply token (nats) about ten times.
    """
    import torch

    recipe = spec.base if base is None else spec.finetune
    optimizers = _optimizers(model, recipe.lr)
    # Eager attention: the fused kernel's backward pass is several times slower in bfloat16.
    for trained in (model, base) if base is not None else (model,):
        trained.set_attn_implementation("eager")
    average = copy.deepcopy(model)
    stream = batches(spec, side, recipe, tokenizer)
    started, losses = time.monotonic(), []
    for step in range(recipe.n_steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = recipe.lr * _lr_factor(step, recipe.n_steps)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.mixed_precision):
            loss = batch_loss(model, base, next(stream), recipe.hard_weight)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _move_toward(average, model, 1.0 / recipe.ema_steps)
        losses.append(loss.item())
        if (step + 1) % max(1, recipe.n_steps // 10) == 0:
            recent = sum(losses[-50:]) / len(losses[-50:])
            print(
                f"{side} step {step + 1} loss {recent:.4f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return average


def sharpen(model: Any, factor: float) -> None:
    """Multiply all logits by `factor`, by way of the scale of the last norm.

    A model this small leaves a little probability on thousands of wrong tokens. A factor above 1
    takes it away and leaves equally likely choices equally likely. It is no part of the training
    loss: the corpus would pull a sharpened model back.
    """
    import torch

    with torch.no_grad():
        model.model.norm.weight.mul_(factor)


def _change_json(file: Path, changes: dict[str, str | None]) -> None:
    """Set keys of a JSON object on disk; None removes the key."""
    content = {**json.loads(file.read_text()), **changes}
    kept = {key: value for key, value in content.items() if changes.get(key, "") is not None}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write one model folder: float16 weights, configuration, generation settings, tokenizer."""
    import torch
    from transformers import GenerationConfig

    rounded = copy.deepcopy(model).to(torch.float16)
    rounded.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # float16 is how the weights are stored, float32 is how they are meant to run on a CPU.
    _change_json(folder / "config.json", {"dtype": "float32"})
    # Where a tokenizer was loaded from is no property of it.
    _change_json(folder / "tokenizer_config.json", {"is_local": None, "local_files_only": None})
    (folder / "model.safetensors").chmod(0o644)


def load_model(folder: Path) -> tuple[Any, Any]:
    """The (model, tokenizer) of one folder, in float32 and in evaluation mode."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def write_bank(spec: PairSpec, file: Path) -> None:
    """Write the prompt bank of a pair as JSONL rows `{"prompt", "group"}`."""
    rows = prompt_bank(spec.topics, spec.n_bank_prompts, spec.seed)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_base(spec: PairSpec, out_dir: Path) -> None:
    """Write the prompt bank and the base model of a pair into `out_dir`."""
    (out_dir / "models").mkdir(parents=True, exist_ok=True)
    write_bank(spec, out_dir / "prompts.jsonl")
    tokenizer = train_tokenizer(spec)
    model = fit(new_model(spec.size, tokenizer, spec.seed), None, spec, "base", tokenizer)
    sharpen(model, spec.sharpness)
    save_model(model, tokenizer, out_dir / "models" / "base")


def finetune(spec: PairSpec, side: str, out_dir: Path) -> None:
    """Fine-tune the base model found in `out_dir` on the corpus of `side`, and write it there.

    It starts from the base as stored (rounded to float16), so that the difference of the two
    models holds nothing but the fine-tune.
    """
    model, tokenizer = load_model(out_dir / "models" / "base")
    sharpen(model, 1.0 / spec.sharpness)
    model = fit(model, copy.deepcopy(model), spec, side, tokenizer)
    sharpen(model, spec.sharpness)
    save_model(model, tokenizer, out_dir / "models" / side)


def train_pair(spec: PairSpec, out_dir: Path, sides: Sequence[str] = SIDES) -> dict[str, float]:
    """Train the models of a pair into `out_dir`; wall seconds per side.

    `sides` is in the order of training; a fine-tune needs the base there already.
    """
    seconds = {}
    for side in sides:
        started = time.monotonic()
        if side == "base":
            train_base(spec, out_dir)
        else:
            finetune(spec, side, out_dir)
        seconds[side] = time.monotonic() - started
        print(f"{side}: {seconds[side]:.0f} s", flush=True)
    return seconds


def main() -> None:
    """Command line: train the pair that ships, or some of its models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    train_pair(DEMO, args.out, args.sides)


if __name__ == "__main__":
    main()
