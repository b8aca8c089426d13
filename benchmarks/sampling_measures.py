"""What `benchmarks.sampling` measures beside the audits: screens, clusterings, other findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.heldout import _FULL, ROOT, plant_pair, write_config
from benchmarks.heldout_pairs import PAIRS
from benchmarks.heldout_scores import recount, shows_behaviour
from benchmarks.sampling_audit import screen
from benchmarks.text_pool import Models, TextPool, VectorMemory, load_models
from whatchanged.background import Parting, estimate_parting, pool_groups
from whatchanged.config import AuditConfig
from whatchanged.config_file import load_config
from whatchanged.divergence import add_divergence, estimate_divergence, match_pairs
from whatchanged.keys import content_key
from whatchanged.nearest import assign
from whatchanged.prompts import group_prompts, read_prompts, split_prompts
from whatchanged.quality import label_agreement, measure_quality
from whatchanged.records import Prompt
from whatchanged.rounds import group_codes
from whatchanged.sample import no_evidence
from whatchanged.screen import screen_prompts
from whatchanged.stats import auc
from whatchanged.truth import Behaviour, parse_ground_truth, read_ground_truth

Figures = dict[str, Any]

# Texts for counting, with noise of their own, on which no audit rests.
_COUNT_SEED = 2_000_003
N_COUNTED = 200
CARRIES = 0.5
N_SHORT = (1, 2, 4)
_N_HELD_OUT = 2_000


@dataclass(frozen=True)
class Pair:
    """A pair to audit. `topics` names the true topic of every prompt, which the audit may not
    know; `vectors` are shared by its pools."""

    name: str
    config: AuditConfig
    truth: tuple[Behaviour, ...]
    topics: Mapping[str, str | None]
    models: Models
    vectors: VectorMemory = field(default_factory=VectorMemory, repr=False)


def open_pair(name: str, out: Path) -> Pair:
    """The demo pair, or a held-out one, planted in `out/NAME` unless it lies there."""
    if name == "demo":
        config = load_config(ROOT / "configs" / "demo.yaml").config
        truth = read_ground_truth(config.report.ground_truth) or ()
        prompts = config.prompts.file
    else:
        folder = out / name
        plant_pair(PAIRS[name], folder, _FULL)
        config = load_config(write_config(PAIRS[name], folder)).config
        truth = parse_ground_truth(_read_json(folder / "ground_truth.json"))
        prompts = str(folder / "prompts.jsonl")
    topics = {row.prompt: row.group for row in read_prompts(prompts)}
    return Pair(name, config, truth, topics, load_models(config))


def _read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_text(encoding="utf-8"))


def open_pool(pair: Pair, seed: int, *, split_seed: int | None = None) -> TextPool:
    """A pool of the pair's texts under a seed, with the prompts as that seed splits them (or
    `split_seed`)."""
    rows = read_prompts(pair.config.prompts.file)
    groups = group_prompts(rows, lambda texts: pair.models.embedder.embed(texts))
    prompts = split_prompts(
        rows,
        groups,
        validation_share=pair.config.prompts.validation_share,
        seed=seed if split_seed is None else split_seed,
    )
    return TextPool(pair.models, prompts, seed, pair.vectors)


def measure_screen(pair: Pair, pool: TextPool) -> Figures:
    """AUC with which the discovery prompts that carry a planted behaviour rank above the others, by
    the number of short texts per prompt and side: by the screen's own probability of a change
    (`screen`), by its two measures, with what its group says of a prompt (`pooled`: the chance of
    parting; `shift`: towards or away from one token), by the prompt's own chance (`parting`), and
    by KL plus its reverse (`kl`)."""
    bank = pool.in_split("discovery")
    carriers = find_carriers(pair, bank)
    divergence = pair.config.divergence.model_copy(update={"texts_per_prompt": max(N_SHORT)})
    texts, scores = screen(pool, pair.config.model_copy(update={"divergence": divergence}))
    found: dict[str, float | None] = {}
    for n_short in N_SHORT:
        kept = scores["text_key"].isin(texts["text_key"][texts["sample"] < n_short])
        estimates = estimate_divergence(scores[kept], match_pairs(texts[:0]), bank)
        evidence = add_divergence(no_evidence(len(bank)), estimates)
        own, groups = estimate_parting(evidence), group_codes(bank)
        shift = Parting(estimates["shift"].to_numpy(), estimates["shift_se"].to_numpy())
        screened = screen_prompts(
            evidence, min_effect=pair.config.validation.min_effect, groups=groups
        )
        rankings = {
            "screen": screened.probability,
            "shift": pool_groups(shift, groups).estimate,
            "pooled": pool_groups(own, groups).estimate,
            "parting": own.estimate,
            "kl": evidence.divergence,
        }
        for name, ranking in rankings.items():
            values = np.nan_to_num(ranking)
            area = auc(values[~carriers], values[carriers])
            found[f"{name}_{n_short}"] = area if math.isfinite(area) else None
    return {
        "auc": found,
        "n_carriers": int(carriers.sum()),
        "n_prompts": len(bank),
        "n_dropped": int((~screened.kept).sum()),
        "n_carriers_dropped": int((carriers & ~screened.kept).sum()),
        "risk": screened.report.risk,
    }


def find_carriers(pair: Pair, bank: Sequence[Prompt]) -> NDArray[np.bool_]:
    """The prompts `(n_prompts,)` that carry a planted behaviour of their topic: by count of 200
    texts each, its rates differ by at least half of what they do on the topic as a whole.
    Behaviours of all topics do not count; on other topics a behaviour is not looked for, since
    counts alone would find some."""
    behaviours: dict[str, list[Behaviour]] = {}
    for behaviour in pair.truth:
        if behaviour.group is not None:
            behaviours.setdefault(behaviour.group, []).append(behaviour)
    concerned = [prompt for prompt in bank if pair.topics[prompt.prompt] in behaviours]
    pool = TextPool(pair.models, bank, _COUNT_SEED)
    texts = pool.decode(
        pair.config, "discovery", concerned, {prompt.key: N_COUNTED for prompt in concerned}
    )
    carrying = set()
    for prompt in concerned:
        mine = texts[texts["prompt_key"] == prompt.key]
        for behaviour in behaviours[str(pair.topics[prompt.prompt])]:
            shares = _shares(mine, behaviour)
            planted = behaviour.rate_intervention - behaviour.rate_base
            if (shares[1] - shares[0]) / planted >= CARRIES:
                carrying.add(prompt.key)
    return np.array([prompt.key in carrying for prompt in bank], dtype=np.bool_)


def _shares(texts: pd.DataFrame, behaviour: Behaviour) -> list[float]:
    return [
        float(shows_behaviour(texts["text"][texts["side"] == side].tolist(), behaviour).mean())
        for side in ("base", "intervention")
    ]


def recount_findings(
    pair: Pair, audits: Sequence[Figures], results: Any, key: str, n_fresh: int
) -> list[Figures]:
    """Every distinct confirmed finding that is about no planted behaviour, counted on texts
    decoded anew (`heldout_scores.recount`), once for all that are not in `results` yet."""
    claims: dict[str, Figures] = {}
    for row in audits:
        for found in row["unplanted"]:
            named = [found[name] for name in ("criterion", "direction", "scope")]
            own = content_key("recount/2", key, n_fresh, named)
            claims.setdefault(own, {"id": own, **found})
    missing = [claim for own, claim in claims.items() if own not in results.rows]
    columns = ["prompt_key", "prompt", "group", "split"]
    prompts = [
        (p.key, p.prompt, p.group, p.split) for p in open_pool(pair, _COUNT_SEED).prompts
    ] if missing else []  # fmt: skip
    run = SimpleNamespace(
        prompts=pd.DataFrame(prompts, columns=columns),
        config=pair.config.model_dump(mode="json", by_alias=True),
    )
    for row in recount(missing, run, Path(), n_fresh):
        claim = {k: v for k, v in claims[row["id"]].items() if k != "id"}
        counted = {k: v for k, v in row.items() if k != "id"}
        results.add(row["id"], {"kind": "recount", "pair": pair.name, **claim, **counted})
    return [results.rows[own] for own in claims]


def compare_clusterings(pair: Pair, audits: Sequence[Figures], out: Path) -> Figures:
    """Per variant whose centroids were kept: the mean agreement (ARI) of its segment labels with
    those of exhaustive runs of *other* seeds, on common texts that no audit decoded; the same
    between exhaustive runs, and the ratio; silhouettes likewise. Empty with fewer than two
    exhaustive runs."""
    kept = [row for row in audits if (out / "centroids" / f"{row['key']}.npy").exists()]
    exhaustive = [row for row in kept if row["variant"].startswith("uniform-20000")]
    if len({row["seed"] for row in exhaustive}) < 2:
        return {}
    rows = _held_out_vectors(pair)
    labels = {
        row["key"]: assign(rows, np.load(out / "centroids" / f"{row['key']}.npy")).labels
        for row in kept
    }
    quality = {
        key: measure_quality(rows, found, seed=0).silhouette for key, found in labels.items()
    }
    found: Figures = {}
    for name in dict.fromkeys(row["variant"] for row in kept):
        coupling = name.rpartition("-")[2]
        like = [row for row in exhaustive if row["variant"].endswith(f"-{coupling}")]
        mine = [row for row in kept if row["variant"] == name]
        ari, reference = (_mean_agreement(part, like, labels) for part in (mine, like))
        if ari is None or reference is None:
            continue
        silhouettes = [
            float(np.mean([quality[row["key"]] or 0.0 for row in part])) for part in (mine, like)
        ]
        found[name] = {
            "ari": ari, "ari_exhaustive": reference, "ari_share": ari / reference,
            "silhouette": silhouettes[0], "silhouette_exhaustive": silhouettes[1],
            "silhouette_share": silhouettes[0] / silhouettes[1] if silhouettes[1] > 0 else None,
        }  # fmt: skip
    return found


def _mean_agreement(
    mine: Sequence[Figures], others: Sequence[Figures], labels: Mapping[str, NDArray[np.int32]]
) -> float | None:
    found = [
        label_agreement(labels[one["key"]], labels[other["key"]])
        for one, other in product(mine, others)
        if one["seed"] != other["seed"]
    ]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _held_out_vectors(pair: Pair) -> NDArray[np.float32]:
    """The vectors of the distinct segments of 2,000 texts per side, evenly over all prompts."""
    pool = open_pool(pair, _COUNT_SEED + 1)
    each = math.ceil(_N_HELD_OUT / len(pool.prompts))
    texts = pool.decode(
        pair.config, "discovery", pool.prompts, {prompt.key: each for prompt in pool.prompts}
    )
    segments, vectors = pool.embed(texts)
    _, first = np.unique(segments["segment_key"].to_numpy(dtype=str), return_index=True)
    return vectors[first]
