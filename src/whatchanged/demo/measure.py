"""Count what the embedded models do: `python -m whatchanged.demo.measure [--out DIR]`.

Writes `DIR/ground_truth.json`, the planted behaviours with their rates counted on decoded texts,
and prints how far the null intervention drifted from the base model, per sentence form. What is
counted is what the stored, rounded weights do; the rates of the corpus are not used.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.demo.behaviours import Behaviour
from whatchanged.demo.grammar import Topic, sentence_forms
from whatchanged.demo.pair import DEMO, MAX_NEW_TOKENS, PairSpec
from whatchanged.demo.train import load_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SENTENCE_END = re.compile(r"(?<=[.!?]) +")
OTHER_FORM = "other"


@dataclass(frozen=True)
class Decoded:
    """One decoded reply and the prompt it answers; `group` is the topic of the prompt."""

    group: str
    prompt: str
    text: str


@dataclass(frozen=True)
class FormDrift:
    """How far the share of the texts with one sentence form moved, from base to another model.

    Shares are in [0, 1] among the texts of `group`, which is "all" for the overall share.
    `estimate` is the difference by importance weighting of base texts, `standard_error` its
    standard error: much smaller than that of a difference of counts when the models are close.
    """

    group: str
    form: str
    share_base: float
    estimate: float
    standard_error: float


def decode_replies(
    model: Any, tokenizer: Any, prompts: Sequence[str], seed: int, batch_texts: int = 250
) -> list[str]:
    """One sampled reply (temperature 1) per prompt, in the order of `prompts`; [] for none.

    A reply depends on `seed`, on its place in the list and on `batch_texts`.
    """
    import torch

    torch.manual_seed(seed)
    replies: list[str] = []
    for at in range(0, len(prompts), batch_texts):
        batch = tokenizer(list(prompts[at : at + batch_texts]), padding=True, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(
                **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=MAX_NEW_TOKENS,
            )  # fmt: skip
        new_ids = ids[:, batch["input_ids"].shape[1] :]
        replies += tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    return replies


def read_bank(file: Path) -> list[tuple[str, str]]:
    """The (prompt, group) rows of a prompt bank."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [(row["prompt"], row["group"]) for row in rows]


def decode_side(
    folder: Path, bank: Sequence[tuple[str, str]], n_texts: int, seed: int
) -> list[Decoded]:
    """`n_texts` replies of the model in `folder`, going round the prompts of `bank` evenly."""
    model, tokenizer = load_model(folder)
    rows = [bank[i % len(bank)] for i in range(n_texts)]
    # Shuffled, so that every batch holds prompts of all lengths and no batch is one topic.
    random.Random(seed).shuffle(rows)
    texts = decode_replies(model, tokenizer, [prompt for prompt, _ in rows], seed)
    return [Decoded(group, prompt, text) for (prompt, group), text in zip(rows, texts, strict=True)]


def rate(texts: Sequence[Decoded], behaviour: Behaviour) -> tuple[float, int]:
    """(share of texts where the behaviour is detected, number of texts in its group).

    Raises ValueError when no text is in the group.
    """
    found = [
        re.search(behaviour.regex, text.text) is not None
        for text in texts
        if behaviour.group in (None, text.group)
    ]
    if not found:
        raise ValueError(f"no decoded text in group {behaviour.group!r} of {behaviour.id}")
    return sum(found) / len(found), len(found)


@cache
def _form_of(topic: Topic) -> dict[str, str]:
    return sentence_forms(topic)


def sentences_of(text: str) -> list[str]:
    """The sentences of a reply; [] for an empty one."""
    return _SENTENCE_END.split(text.strip()) if text.strip() else []


def forms_in(text: Decoded, topics: dict[str, Topic]) -> set[str]:
    """The forms of the sentences in a reply; a sentence outside the grammar is `OTHER_FORM`."""
    known = _form_of(topics[text.group])
    return {known.get(sentence, OTHER_FORM) for sentence in sentences_of(text.text)}


def text_log_probs(
    model: Any, tokenizer: Any, texts: Sequence[Decoded], batch_texts: int = 250
) -> NDArray[np.float64]:
    """Log-probability in nats of each reply with its end, given its prompt; (n_texts,)."""
    import numpy as np
    import torch

    from whatchanged.demo.train import batch_of, encode_pairs

    encoded = encode_pairs([(text.prompt, text.text, text.text) for text in texts], tokenizer)
    totals = []
    with torch.inference_mode():
        for at in range(0, len(encoded), batch_texts):
            batch = batch_of(encoded[at : at + batch_texts], tokenizer.pad_token_id)
            logits = model(input_ids=batch.ids[:, :-1]).logits
            chosen = logits.log_softmax(-1).gather(2, batch.ids[:, 1:, None])[..., 0]
            totals.append((chosen * batch.is_target).sum(dim=1).numpy())
    return np.concatenate([np.asarray(total, dtype=np.float64) for total in totals])


def form_drift(
    texts: Sequence[Decoded], log_ratio: NDArray[np.float64], topics: Sequence[Topic]
) -> list[FormDrift]:
    """Drift of every sentence form, per topic and overall, from texts of the base model.

    `log_ratio` (n_texts,) is the log-probability under the other model minus that under the base.
    Texts with a sentence outside the grammar count in no form: their few, huge weights would hide
    everything else.
    """
    import numpy as np

    by_name = {topic.name: topic for topic in topics}
    has_form: dict[tuple[str, str], list[int]] = {}
    for i, text in enumerate(texts):
        forms = forms_in(text, by_name)
        for form in forms if OTHER_FORM not in forms else ():
            has_form.setdefault((text.group, form), []).append(i)
    n_in_group = {name: sum(text.group == name for text in texts) for name in by_name}
    drift = []
    for (group, form), at in has_form.items():
        excess = np.exp(log_ratio[at]) - 1.0
        for scope, n in ((group, n_in_group[group]), ("all", len(texts))):
            share, error = len(at) / n, float(np.sqrt(np.sum(excess**2))) / n
            drift.append(FormDrift(scope, form, share, float(excess.sum()) / n, error))
    return drift


def measure_drift(
    spec: PairSpec, out_dir: Path, side: str, n_texts: int, seed: int
) -> tuple[list[FormDrift], float]:
    """Drift from base to `side` on base texts, and KL(base, side) in nats per reply."""
    bank = read_bank(out_dir / "prompts.jsonl")
    texts = decode_side(out_dir / "models" / "base", bank, n_texts, seed)
    scores = [
        text_log_probs(*load_model(out_dir / "models" / name), texts) for name in ("base", side)
    ]
    log_ratio = scores[1] - scores[0]
    return form_drift(texts, log_ratio, spec.topics), float(-log_ratio.mean())


def count_behaviours(
    spec: PairSpec, out_dir: Path, n_texts: int, n_group_texts: int, seed: int
) -> list[dict[str, Any]]:
    """One row per behaviour: `n_texts` over all prompts, `n_group_texts` in each small group."""
    bank = read_bank(out_dir / "prompts.jsonl")
    texts: dict[str, list[Decoded]] = {}
    for side in ("base", "intervention"):
        folder = out_dir / "models" / side
        texts[side] = decode_side(folder, bank, n_texts, seed)
        groups = sorted({b.group for b in spec.behaviours if b.group is not None})
        extra = [(prompt, group) for prompt, group in bank if group in groups]
        n_extra = n_group_texts * len(groups)
        # Extra texts must not count for the behaviours that concern all groups.
        texts[f"{side} extra"] = decode_side(folder, extra, n_extra, seed + 1) if groups else []
    rows = []
    for behaviour in spec.behaviours:
        suffix = "" if behaviour.group is None else " extra"
        rate_base, n_base = rate(texts[f"base{suffix}"], behaviour)
        rate_intervention, n_intervention = rate(texts[f"intervention{suffix}"], behaviour)
        rows.append(
            {
                "id": behaviour.id,
                "kind": behaviour.kind,
                "description": behaviour.description,
                "group": behaviour.group,
                "rate_base": round(rate_base, 4),
                "rate_intervention": round(rate_intervention, 4),
                "n_base": n_base,
                "n_intervention": n_intervention,
                "regex": behaviour.regex,
            }
        )
    return rows


def measure_pair(
    spec: PairSpec,
    out_dir: Path,
    n_texts: int = 6_000,
    n_group_texts: int = 2_000,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """Count the planted behaviours and write `out_dir/ground_truth.json`; returns its rows."""
    rows = count_behaviours(spec, out_dir, n_texts, n_group_texts, seed)
    text = json.dumps({"behaviours": rows}, indent=2)
    (out_dir / "ground_truth.json").write_text(text + "\n")
    return rows


def _print_drift(drift: list[FormDrift], divergence: float) -> None:
    print(f"divergence from base: {divergence:.4f} nats per reply")
    for scope in ("topic", "all"):
        chosen = [d for d in drift if (d.group == "all") == (scope == "all")]
        chosen.sort(key=lambda d: -abs(d.estimate))
        mean_square = sum(d.estimate**2 - d.standard_error**2 for d in chosen) / len(chosen)
        print(f"share of {scope}: drift (rms) {max(mean_square, 0.0) ** 0.5:.4f}, largest:")
        for d in chosen[:6]:
            print(f"  {d.form:24s} {d.share_base:.3f} {d.estimate:+.4f} +- {d.standard_error:.4f}")


def main() -> None:
    """Command line: count, write the ground truth, print the drift of the null intervention."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--texts", type=int, default=6_000)
    parser.add_argument("--group-texts", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    for row in measure_pair(DEMO, args.out, args.texts, args.group_texts):
        print(f"{row['id']:22s} {row['rate_base']:.4f} -> {row['rate_intervention']:.4f}")
    _print_drift(*measure_drift(DEMO, args.out, "null_intervention", args.texts, seed=2))


if __name__ == "__main__":
    main()
