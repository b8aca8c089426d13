"""How far the two models are apart on each prompt, from texts that both have scored.

The mean of `kl_base` over texts of the base estimates KL(base || intervention) of whole texts, and
likewise the reverse. Both are unbounded: one rare sentence that the other model would never write
outweighs a hundred texts. `parting`, in [0, 1], ranks prompts better, and `shift` those better that
changed in a few percent of their texts. With coupled texts, the share of pairs that differ bounds
the total variation as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from whatchanged.records import Prompt, ScoreRequest, TextScore
from whatchanged.sample import Evidence
from whatchanged.shift import estimate_shift

SCORE_COLUMNS = (
    "text_key", "prompt_key", "side", "split", "n_bytes", "logprob_base", "logprob_intervention",
    "kl_base", "kl_intervention", "parting", "differences", "moved_tokens", "moved_mass",
)  # fmt: skip
PAIR_COLUMNS = (
    "prompt_key", "sample", "text_key_base", "text_key_intervention", "is_identical",
    "first_difference", "token_base", "token_intervention",
)  # fmt: skip
DIVERGENCE_COLUMNS = (
    "prompt_key", "n_base", "n_intervention", "kl_base", "kl_base_se", "kl_intervention",
    "kl_intervention_se", "parting", "parting_se", "shift", "shift_se", "n_pairs", "n_differing",
)  # fmt: skip


def score_requests(texts: pd.DataFrame) -> list[ScoreRequest]:
    """What a scorer needs of the rows of the texts table, in their order."""
    return [
        ScoreRequest(prompt, text, tuple(int(i) for i in ids))
        for prompt, text, ids in zip(
            texts["prompt"], texts["text"], texts["token_ids"], strict=True
        )
    ]


def tabulate_scores(texts: pd.DataFrame, scores: Sequence[TextScore]) -> pd.DataFrame:
    """One row (`SCORE_COLUMNS`) per text. `differences` is a list, base minus intervention in nats
    per token; `moved_tokens` and `moved_mass` are those of `TextScore`."""
    table = texts[["text_key", "prompt_key", "side", "split"]].reset_index(drop=True)
    n_bytes = [len(text.encode("utf-8", "surrogatepass")) for text in texts["text"]]
    scored = pd.DataFrame(
        {name: [getattr(score, name) for score in scores] for name in SCORE_COLUMNS[5:]}
    )
    return pd.concat([table.assign(n_bytes=np.array(n_bytes, dtype=np.int64)), scored], axis=1)


def match_pairs(texts: pd.DataFrame) -> pd.DataFrame:
    """The coupled pairs (`PAIR_COLUMNS`) of a texts table whose sides share their noise.

    `first_difference` is the place of the first token that differs, from 0; where texts are
    identical it is -1, and so are both tokens. A text that has ended has the token -1 beyond its
    end. Pairs with a failed text are left out.
    """
    decoded = texts[texts["finish"] != "failed"]
    sides = [
        decoded[decoded["side"] == side][["prompt_key", "sample", "text_key", "token_ids"]]
        for side in ("base", "intervention")
    ]
    pairs = sides[0].merge(
        sides[1], on=["prompt_key", "sample"], suffixes=("_base", "_intervention")
    )
    pairs = pairs.sort_values(["prompt_key", "sample"], ignore_index=True)
    places = [
        first_difference(base, intervention)
        for base, intervention in zip(
            pairs["token_ids_base"], pairs["token_ids_intervention"], strict=True
        )
    ]
    found = np.array(places, dtype=np.int64).reshape(len(pairs), 3)
    pairs = pairs.assign(
        is_identical=found[:, 0] < 0,
        first_difference=found[:, 0],
        token_base=found[:, 1],
        token_intervention=found[:, 2],
    )
    return pairs[list(PAIR_COLUMNS)]


def first_difference(base: Sequence[int], intervention: Sequence[int]) -> tuple[int, int, int]:
    """The first place at which two rows of tokens differ, and their tokens there; -1 for none."""
    shorter = min(len(base), len(intervention))
    one, other = np.asarray(base)[:shorter], np.asarray(intervention)[:shorter]
    differing = np.flatnonzero(one != other)
    if len(differing):
        place = int(differing[0])
        return place, int(one[place]), int(other[place])
    if len(base) == len(intervention):
        return -1, -1, -1
    token = [int(row[shorter]) if len(row) > shorter else -1 for row in (base, intervention)]
    return shorter, token[0], token[1]


def estimate_divergence(
    scores: pd.DataFrame, pairs: pd.DataFrame, prompts: Sequence[Prompt]
) -> pd.DataFrame:
    """One row (`DIVERGENCE_COLUMNS`) per prompt, in the order of `prompts`.

    `kl_base` estimates KL(base || intervention) and `kl_intervention` its reverse, in nats per
    text; `parting` is the mean over the texts of both sides; `shift` is what most moves towards or
    away from one token (`estimate_shift`); each with its standard error. The
    screen's texts, which are shorter, count only where a prompt has no others. A single text has no
    variance of its own: the mean variance of the other prompts stands in. Where the models' tokens
    differ, the divergences are the means of the texts' log-ratios, and `parting` and `shift` are
    NaN. So is everything for prompts without scored texts. `pairs` are `match_pairs`' rows, none
    where decoding was independent.
    """
    keys = [prompt.key for prompt in prompts]
    is_short = scores["split"] == "screen"
    has_whole = scores["prompt_key"].isin(scores["prompt_key"][~is_short])
    scores = scores[~(is_short & has_whole)]
    base, intervention = (scores[scores["side"] == side] for side in ("base", "intervention"))
    columns: dict[str, Any] = {"prompt_key": keys}
    for name, rows, sign in (("base", base, 1), ("intervention", intervention, -1)):
        ratio = sign * (rows["logprob_base"] - rows["logprob_intervention"])
        known = bool(rows[f"kl_{name}"].notna().any())
        found = _mean_by_prompt(rows, rows[f"kl_{name}"] if known else ratio, keys)
        columns[f"n_{name}"] = found["n"].to_numpy()
        columns[f"kl_{name}"] = found["mean"].to_numpy()
        columns[f"kl_{name}_se"] = found["se"].to_numpy()
    parting = _mean_by_prompt(scores, scores["parting"], keys)
    columns |= {"parting": parting["mean"].to_numpy(), "parting_se": parting["se"].to_numpy()}
    shift = estimate_shift(scores, keys)
    columns |= {"shift": shift.estimate, "shift_se": shift.error}
    counts = pairs.groupby("prompt_key")["is_identical"].agg(["size", "sum"])
    counts = counts.reindex(list(keys), fill_value=0).astype(np.int64)
    columns |= {
        "n_pairs": counts["size"].to_numpy(),
        "n_differing": (counts["size"] - counts["sum"]).to_numpy(),
    }
    return pd.DataFrame(columns)[list(DIVERGENCE_COLUMNS)]


def name_method(scores: pd.DataFrame) -> str:
    """What the divergences come from: "tokens" that both models scored, whole "texts" where their
    tokens differ, or "none" where nothing was scored."""
    if scores["kl_base"].notna().any():
        return "tokens"
    return "texts" if scores["logprob_base"].notna().any() else "none"


def add_divergence(evidence: Evidence, estimates: pd.DataFrame) -> Evidence:
    """The evidence with what `estimate_divergence` found; its rows follow the same prompts."""
    is_scored = bool(estimates["kl_base"].notna().any())
    has_tokens = bool(estimates["shift"].notna().any())
    is_paired = bool((estimates["n_pairs"] > 0).any())
    both = estimates["kl_base"] + estimates["kl_intervention"]
    se = np.hypot(estimates["kl_base_se"], estimates["kl_intervention_se"])
    return replace(
        evidence,
        divergence=both.to_numpy(float) if is_scored else None,
        divergence_se=np.asarray(se, dtype=float) if is_scored else None,
        parting=estimates["parting"].to_numpy(float) if is_scored else None,
        parting_se=estimates["parting_se"].to_numpy(float) if is_scored else None,
        shift=estimates["shift"].to_numpy(float) if has_tokens else None,
        shift_se=estimates["shift_se"].to_numpy(float) if has_tokens else None,
        n_pairs=estimates["n_pairs"].to_numpy() if is_paired else None,
        n_differing=estimates["n_differing"].to_numpy() if is_paired else None,
    )


def _mean_by_prompt(
    rows: pd.DataFrame, values: pd.Series[float], keys: Sequence[str]
) -> pd.DataFrame:
    """Number, mean and standard error of the mean of the known values of each prompt."""
    # A table without rows has no types.
    grouped = values.astype(float).dropna().groupby(rows["prompt_key"])
    n = grouped.size().reindex(list(keys), fill_value=0)
    variance = grouped.var(ddof=1).reindex(list(keys))
    variance = variance.fillna(variance.mean()).where(n > 0)
    mean = grouped.mean().reindex(list(keys))
    return pd.DataFrame({"n": n, "mean": mean, "se": np.sqrt(variance / n.clip(lower=1))})
