"""What an audit of a held-out pair found, against what the pair was counted to do.

Beside `whatchanged.truth.match_behaviours`, a second and independent association is counted: the
texts that meet a finding's criterion must show the behaviour clearly more often than the others.
For a behaviour that was missed, the same association says which stage lost it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import whatchanged
from whatchanged.models.lexical_judge import score_words
from whatchanged.records import Prompt
from whatchanged.truth import (
    Behaviour,
    match_behaviours,
    parse_ground_truth,
    unmatched_confirmed,
)

BoolArray = NDArray[np.bool_]
Figures = dict[str, Any]

SIGNIFICANCE = 0.01
MIN_LIFT = 0.3
_FRESH_SEED = 1_000_003
_N_CONFIRMING = 1_000


def score_run(folder: Path, n_fresh: int) -> Figures:
    """The figures of the run `folder/run`: behaviours found and missed, and other findings.

    For findings that match no behaviour, `n_fresh` more texts are decoded per side, and more for
    their scopes.
    """
    run = whatchanged.load(folder / "run")
    truth = parse_ground_truth(json.loads((folder / "ground_truth.json").read_text()))
    texts = with_groups(run.texts, run.prompts)
    matches = match_behaviours(run.findings, run.texts, truth)
    fresh_texts = texts[texts["split"] == "validation"]
    rows = []
    for match in matches:
        behaviour, found = match.behaviour, match.finding_ids
        by_association = findings_about(behaviour, run.findings, fresh_texts, ("confirmed",))
        is_clear = bool(found and by_association)
        why = None if is_clear else explain_miss(behaviour, run, texts)
        rows.append(
            {**asdict(behaviour), "found": bool(found), "findings": list(found),
             "by_association": by_association, "why": why}
        )  # fmt: skip
    others = set(unmatched_confirmed(run.findings, matches))
    recounted = recount([f for f in run.findings if f["id"] in others], run, folder, n_fresh)
    return {
        "n_prompts": len(run.prompts),
        "n_groups": int(run.prompts["group"].nunique()),
        "n_planted": len(rows),
        "n_found": sum(row["found"] for row in rows),
        "n_found_by_association": sum(bool(row["by_association"]) for row in rows),
        "behaviours": rows,
        "n_hypotheses": run.summary["n_hypotheses"],
        "n_confirmed": run.summary["n_confirmed"],
        "null_control": run.summary["null_control"],
        "others": recounted,
        "n_others_real": sum(row["is_real"] for row in recounted),
        "texts_decoded": {
            stream: count["n_decoded"] + count["n_cached"]
            for stream, count in run.summary["decode"].items()
        },
        "seconds": run.summary["seconds"],
        "stop_reason": run.summary["stop_reason"],
    }


def with_groups(texts: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The texts that did not fail, each with its prompt's group."""
    joined = texts.merge(prompts[["prompt_key", "group"]], on="prompt_key")
    return joined[joined["finish"] != "failed"].reset_index(drop=True)


def is_about(meets: BoolArray, shows: BoolArray) -> bool:
    """Whether texts that meet a criterion show a behaviour: at least half of them do, and a share
    that exceeds that of the other texts by `MIN_LIFT`. False where no text meets the criterion."""
    if not meets.any():
        return False
    share = float(shows[meets].mean())
    others = float(shows[~meets].mean()) if not meets.all() else 0.0
    return share >= 0.5 and share - others >= MIN_LIFT


def shows_behaviour(texts: Sequence[str], behaviour: Behaviour) -> BoolArray:
    """Which replies show the behaviour, `(n_texts,)`."""
    pattern = re.compile(behaviour.regex)
    return np.array([pattern.search(text) is not None for text in texts], dtype=np.bool_)


def meets_criterion(texts: Sequence[str], criterion: str) -> BoolArray:
    """Which replies meet a criterion for the lexical judge, `(n_texts,)`."""
    return np.array([score_words(criterion, text) >= 0.5 for text in texts], dtype=np.bool_)


def direction_of(behaviour: Behaviour) -> str:
    """Whether the intervention shows the behaviour more or less often."""
    return "more" if behaviour.rate_intervention > behaviour.rate_base else "less"


def findings_about(
    behaviour: Behaviour,
    findings: Sequence[Mapping[str, Any]],
    texts: pd.DataFrame,
    statuses: Sequence[str],
) -> list[str]:
    """Ids of the findings of these statuses that are about a behaviour, counted on `texts`."""
    found = []
    for finding in findings:
        if finding["status"] in statuses and finding["direction"] == direction_of(behaviour):
            replies = in_scope(texts, finding["scope"])["text"].tolist()
            meets = meets_criterion(replies, finding["criterion"])
            if is_about(meets, shows_behaviour(replies, behaviour)):
                found.append(str(finding["id"]))
    return found


def in_scope(texts: pd.DataFrame, scope: str | None) -> pd.DataFrame:
    """The texts of a prompt group; all of them where the scope is None."""
    return texts if scope is None else texts[texts["group"] == scope]


def explain_miss(behaviour: Behaviour, run: Any, texts: pd.DataFrame) -> str:
    """The stage that lost a behaviour, with the counts that it could have seen."""
    fresh = texts[texts["split"] == "validation"]
    seen = _counts_seen(behaviour, texts[texts["split"] == "discovery"])
    tested = findings_about(behaviour, run.findings, fresh, ("inconclusive", "rejected"))
    if tested:
        finding = next(f for f in run.findings if f["id"] == tested[0])
        return (
            f"not confirmed: {finding['id']} {finding['status']}, "
            f"{finding['share_base']:.3f} -> {finding['share_intervention']:.3f} of "
            f"{finding['n_texts']} texts, adjusted p {finding['p_adjusted']:.2g} ({seen})"
        )
    if others := findings_about(behaviour, run.findings, fresh, ("confirmed",)):
        return f"confirmed as {others[0]}, but its supporting texts do not match ({seen})"
    if proposed := proposals_about(behaviour, run):
        return f"merged away or cut: {proposed[0]} ({seen})"
    return f"not proposed ({seen})"


def _counts_seen(behaviour: Behaviour, discovery: pd.DataFrame) -> str:
    """In discovery: how many texts of each side show the behaviour, in the group that has it most,
    and in all."""
    shows = discovery.assign(shows=shows_behaviour(discovery["text"].tolist(), behaviour))
    table = shows.groupby(["group", "side"])["shows"].agg(["sum", "count"]).unstack(fill_value=0)
    gap = (table["sum"]["intervention"] - table["sum"]["base"]).abs()
    where = table.loc[gap.idxmax()]
    total = shows.groupby("side")["shows"].agg(["sum", "count"])
    told = [f"{total['sum'][s]}/{total['count'][s]}" for s in ("base", "intervention")]
    most = [f"{where['sum'][s]}/{where['count'][s]}" for s in ("base", "intervention")]
    return f"discovery {' -> '.join(told)}, in {gap.idxmax()!r} {' -> '.join(most)}"


def proposals_about(behaviour: Behaviour, run: Any) -> list[str]:
    """Proposals on the run's discovery texts that are about a behaviour, strongest first.

    The contrasts are built and proposed from again, as `hypothesize` did, without its merging.
    """
    from whatchanged.config import AuditConfig
    from whatchanged.hypothesize import build_contrasts
    from whatchanged.models.loading import load_proposer
    from whatchanged.prompts import groups_in_both_splits

    prompts = [Prompt(*row) for row in run.prompts.itertuples(index=False)]
    discovery = run.texts[run.texts["split"] == "discovery"].reset_index(drop=True)
    contrasts = build_contrasts(discovery, run.segments, groups_in_both_splits(prompts))
    config = AuditConfig.model_validate(run.config)
    proposer = load_proposer(config)
    found = []
    for contrast in contrasts:
        shows = shows_behaviour((*contrast.base, *contrast.intervention), behaviour)
        for proposal in proposer.propose(contrast, config.hypothesize.max_hypotheses):
            meets = np.concatenate([proposal.in_base, proposal.in_intervention])
            if proposal.direction == direction_of(behaviour) and is_about(meets, shows):
                where = contrast.scope or "all prompts"
                found.append((proposal.strength, f"z={proposal.strength:.1f} {where}: "
                              f"{proposal.criterion}"))  # fmt: skip
    return [told for _, told in sorted(found, reverse=True)]


def recount(
    findings: Sequence[Mapping[str, Any]], run: Any, folder: Path, n_fresh: int
) -> list[Figures]:
    """Each finding counted on pairs of texts decoded anew, with the same noise on both sides:
    `is_real` where the difference has the claimed sign and McNemar's exact test (two-sided) is
    significant at 1 %. No findings decode nothing."""
    if not findings:
        return []
    scopes = {finding["scope"] for finding in findings}
    base, intervention = (
        decode_fresh(run, side, scopes, n_fresh) for side in ("base", "intervention")
    )
    decoded = base["is_decoded"] & intervention["is_decoded"]
    rows = []
    for finding in findings:
        counted = decoded & base["is_even"] if finding["scope"] is None else decoded
        replies = [
            in_scope(side[counted], finding["scope"])["text"] for side in (base, intervention)
        ]
        hits = [meets_criterion(texts.tolist(), finding["criterion"]) for texts in replies]
        p_value = paired_p_value(*hits)
        gap = int(hits[1].sum()) - int(hits[0].sum())
        claimed = gap > 0 if finding["direction"] == "more" else gap < 0
        rows.append(
            {
                "id": finding["id"],
                "statement": finding["statement"],
                "hits_base": int(hits[0].sum()),
                "n_base": len(hits[0]),
                "hits_intervention": int(hits[1].sum()),
                "n_intervention": len(hits[1]),
                "p_value": p_value,
                "is_real": bool(claimed and p_value < SIGNIFICANCE),
            }
        )
    return rows


def paired_p_value(in_base: NDArray[np.bool_], in_intervention: NDArray[np.bool_]) -> float:
    """McNemar's exact test, two-sided, on masks `(n_pairs,)`; 1 where no pair differs."""
    from scipy.stats import binomtest

    only = int((in_intervention & ~in_base).sum()), int((in_base & ~in_intervention).sum())
    return float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0


def decode_fresh(run: Any, side: str, scopes: set[str | None], n_texts: int) -> pd.DataFrame:
    """Texts `text, group, is_even, is_decoded` of one side that no stage has seen, in one order for
    both sides: `n_texts` evenly over all prompts (`is_even`), and 1,000 (or `n_texts`, if less) in
    all within each group of `scopes`."""
    from whatchanged.decode import plan_requests
    from whatchanged.model_config import DecodeConfig, ModelConfig
    from whatchanged.models.loading import describe_decoder, load_decoder

    prompts = [Prompt(*row) for row in run.prompts.itertuples(index=False)]
    model, decode = ModelConfig(**run.config[side]), DecodeConfig(**run.config["decode"])
    size = {group: sum(p.group == group for p in prompts) for group in scopes if group is not None}
    everywhere = math.ceil(n_texts / len(prompts))
    counts = {
        prompt.key: max(
            everywhere,
            math.ceil(min(n_texts, _N_CONFIRMING) / size[prompt.group])
            if prompt.group in size
            else 0,
        )
        for prompt in prompts
    }
    format_ = run.config["prompts"]["format"]
    requests = plan_requests(
        prompts, counts, {},
        decoder_identity=describe_decoder(model, decode, format_),
        seed=_FRESH_SEED,
        stream="base",
        purpose="validation",
    )  # fmt: skip
    completions = load_decoder(model, decode, format_, run.config["run"]["device"]).decode(requests)
    group_of = {prompt.key: prompt.group for prompt in prompts}
    return pd.DataFrame(
        {
            "text": [completion.text for completion in completions],
            "group": [group_of[request.prompt_key] for request in requests],
            "is_even": [request.index < everywhere for request in requests],
            "is_decoded": [completion.finish != "failed" for completion in completions],
        }
    )
