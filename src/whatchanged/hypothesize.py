"""From discovery texts to hypotheses: contrasts, proposals, and one claim per distinct change.

Nothing here decides whether a claim is true: it is tested later, on fresh texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.contrasts import choose_diverse, discovery_threshold, log_odds_z, strength_left
from whatchanged.models.criteria import is_readable, kind_of, preference
from whatchanged.models.protocols import Contrast, Proposal, Proposer
from whatchanged.records import NOISE, Hypothesis

BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]

# Proposals whose texts agree to this share (Jaccard) are one behaviour.
_SAME_TEXTS = 0.7
# A difference belongs to a few prompt groups when they hold this much of it, and each shows it
# this many times more clearly than all prompts together.
_NEARLY_ALL = 0.75
_STANDS_OUT = 2.0
_FEW_GROUPS = 3
# What is left of a proposal's z-score, given the chosen ones, for it to be worth a test of its own.
_MIN_STRENGTH_LEFT = 2.5
_N_EXEMPLARS = 8
_MAX_EVIDENCE_TERMS = 8


def build_contrasts(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    groups: Mapping[str, str],
    *,
    min_texts: int = 20,
    max_clusters: int = 100,
    min_difference: float = 0.005,
    expected_false: float = 3.0,
) -> list[Contrast]:
    """The contrasts to propose from: all prompts, each prompt group, each differing cluster.

    `texts` and `segments` are the discovery rows (`TEXT_COLUMNS`, `SEGMENT_COLUMNS`); `groups` maps
    a prompt key to its group, and prompts without one belong to "all prompts" only. Failed texts
    are left out, and so are the texts by which one side has more than the other on a prompt. Groups
    need `min_texts` per side. A cluster of segments comes with the scope in which its share of
    texts stands out most, the strongest `max_clusters` of those beyond what chance would show
    (`expected_false` over all clusters and scopes). No texts on a side give no contrasts.
    """
    paired = _pair_sides(texts)
    base, intervention = _Side.of(paired, "base", groups), _Side.of(paired, "intervention", groups)
    if not base.texts:
        return []
    scopes = [None, *_usable_groups(base, min_texts)]
    whole = [_restrict(base, intervention, scope) for scope in scopes]
    clusters = _differing_clusters(
        paired, segments, base, intervention, scopes, min_difference, expected_false
    )
    return [*whole, *(_cluster_contrast(found, whole) for found in clusters[:max_clusters])]


def propose_all(
    contrasts: Sequence[Contrast],
    proposer: Proposer,
    max_hypotheses: int,
    *,
    max_per_group: int = 8,
) -> list[Hypothesis]:
    """At most `max_hypotheses` hypotheses about distinct behaviours, strongest first.

    A behaviour found on all prompts and in prompt groups is kept in the groups if nearly all of the
    difference lies in at most three of them, else on all prompts. Within a scope, proposals that
    nearly the same texts meet are one. Of the rest, those that do not follow from chosen ones are
    kept. Opposite directions are never merged. Ids count from h001; equal input gives equal output.
    """
    candidates = _collect(contrasts, proposer, max_hypotheses, max_per_group)
    candidates = _merge_duplicates(_settle_scopes(candidates))
    chosen = choose_diverse(
        [_preferred_strength(c) for c in candidates],
        max_hypotheses,
        lambda one, other: _strength_given(candidates[one], candidates[other]),
        _MIN_STRENGTH_LEFT,
    )
    kept = sorted((candidates[i] for i in chosen), key=_rank)
    return [_write_hypothesis(number, candidate) for number, candidate in enumerate(kept, start=1)]


@dataclass(frozen=True, slots=True)
class _Side:
    """The texts of one side, ordered by prompt, with their row in the table and their group."""

    texts: tuple[str, ...]
    rows: IntArray
    groups: NDArray[np.object_]

    @classmethod
    def of(cls, paired: pd.DataFrame, side: str, groups: Mapping[str, str]) -> _Side:
        rows = np.flatnonzero((paired["side"] == side).to_numpy())
        here = paired.iloc[rows]
        names = np.array([groups.get(key) for key in here["prompt_key"]], dtype=object)
        return cls(tuple(here["text"]), rows, names)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A segment cluster, the place of its scope, its members per side and its exemplars."""

    label: int
    scope: int
    member_base: BoolArray
    member_intervention: BoolArray
    exemplars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A proposal in its contrast. Distinct texts of all contrasts are numbered: `base` and
    `intervention` are the numbers of the contrast's texts, and `meets (n_distinct,)` says which
    meet the criterion, False outside the contrast."""

    proposal: Proposal
    scope: str | None
    cluster: str | None
    base: IntArray
    intervention: IntArray
    meets: BoolArray


def _pair_sides(texts: pd.DataFrame) -> pd.DataFrame:
    """The texts that did not fail, as many per prompt on one side as on the other, by prompt."""
    decoded = texts[texts["finish"] != "failed"].sort_values(["prompt_key", "round", "text_key"])
    place = decoded.groupby(["prompt_key", "side"]).cumcount()
    counts = decoded.groupby(["prompt_key", "side"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=["base", "intervention"], fill_value=0)
    allowed = decoded["prompt_key"].map(counts.min(axis=1))
    return decoded[place < allowed].reset_index(drop=True)


def _usable_groups(base: _Side, min_texts: int) -> list[str]:
    """Groups with enough texts; a group that holds every text is "all prompts" again."""
    sizes = Counter(name for name in base.groups if name)
    return [name for name, n in sorted(sizes.items()) if min_texts <= n < len(base.texts)]


def _restrict(base: _Side, intervention: _Side, scope: str | None) -> Contrast:
    return Contrast(scope, None, _within(base, scope), _within(intervention, scope))


def _within(side: _Side, scope: str | None) -> tuple[str, ...]:
    if scope is None:
        return side.texts
    return tuple(side.texts[i] for i in np.flatnonzero(side.groups == scope))


def _differing_clusters(
    paired: pd.DataFrame,
    segments: pd.DataFrame,
    base: _Side,
    intervention: _Side,
    scopes: Sequence[str | None],
    min_difference: float,
    expected_false: float,
) -> list[_Cluster]:
    """The clusters whose share of texts differs beyond chance, strongest first, each in the scope
    where it stands out most."""
    row_of = pd.Series(np.arange(len(paired)), index=paired["text_key"])
    held = segments[(segments["label"] != NOISE) & segments["text_key"].isin(row_of.index)]
    held = held.assign(row=row_of.loc[held["text_key"]].to_numpy())
    labels = np.unique(held["label"].to_numpy())
    if len(labels) == 0:
        return []
    pairs = held[["label", "row"]].drop_duplicates()
    member = np.zeros((len(labels), len(paired)), dtype=np.bool_)
    member[np.searchsorted(labels, pairs["label"].to_numpy()), pairs["row"].to_numpy()] = True
    in_base, in_intervention = member[:, base.rows], member[:, intervention.rows]
    z, effect, n_held = _share_differences(in_base, in_intervention, base, intervention, scopes)
    threshold = discovery_threshold(int((n_held >= 6).sum()), expected_false)
    strength = np.where(np.abs(effect) >= min_difference, np.abs(z), 0.0)
    best = strength.argmax(axis=1)
    found = []
    for index in np.argsort(-strength.max(axis=1), kind="stable"):
        scope = int(best[index])
        if strength[index, scope] < threshold:
            break
        here_b, here_i = _in_scope(base, scopes[scope]), _in_scope(intervention, scopes[scope])
        richer = (intervention, base) if z[index, scope] > 0 else (base, intervention)
        rows = [s.rows[_in_scope(s, scopes[scope])] for s in richer]
        exemplars = _exemplars(held[held["label"] == labels[index]], rows[0], rows[1])
        members = in_base[index, here_b], in_intervention[index, here_i]
        found.append(_Cluster(int(labels[index]), scope, *members, exemplars))
    return found


def _share_differences(
    in_base: BoolArray,
    in_intervention: BoolArray,
    base: _Side,
    intervention: _Side,
    scopes: Sequence[str | None],
) -> tuple[NDArray[np.float64], NDArray[np.float64], IntArray]:
    """z-score, share difference and number of member texts, each `(n_clusters, n_scopes)`."""
    scope_b = np.stack([_in_scope(base, scope) for scope in scopes], axis=1).astype(np.float32)
    scope_i = np.stack([_in_scope(intervention, s) for s in scopes], axis=1).astype(np.float32)
    hits_b, hits_i = (
        in_base.astype(np.float32) @ scope_b,
        in_intervention.astype(np.float32) @ scope_i,
    )
    n_b, n_i = scope_b.sum(axis=0), scope_i.sum(axis=0)
    z = log_odds_z(hits_b, n_b, hits_i, n_i)
    return z, np.asarray(hits_i / n_i - hits_b / n_b), (hits_b + hits_i).astype(np.int64)


def _in_scope(side: _Side, scope: str | None) -> BoolArray:
    if scope is None:
        return np.ones(len(side.texts), dtype=np.bool_)
    return np.asarray(side.groups == scope, dtype=np.bool_)


def _exemplars(held: pd.DataFrame, richer: IntArray, poorer: IntArray) -> tuple[str, ...]:
    """The cluster's segments that best show its difference: those that the richer side has more
    often come first, and of equals the ones nearest to the cluster's centre (smallest margin)."""
    in_richer = held["row"].isin(richer)
    excess = (in_richer.astype(int) - held["row"].isin(poorer).astype(int)).groupby(held["segment"])
    margin = held.groupby("segment")["margin"].min().fillna(np.inf)
    ranked = pd.DataFrame({"excess": -excess.sum(), "margin": margin}).reset_index()
    ranked = ranked[ranked["segment"].isin(held["segment"][in_richer])]
    ranked = ranked.sort_values(["excess", "margin", "segment"])
    return tuple(str(segment) for segment in ranked["segment"].head(_N_EXEMPLARS))


def _cluster_contrast(cluster: _Cluster, whole: Sequence[Contrast]) -> Contrast:
    return replace(
        whole[cluster.scope],
        cluster=str(cluster.label),
        exemplars=cluster.exemplars,
        member_base=cluster.member_base,
        member_intervention=cluster.member_intervention,
    )


def _collect(
    contrasts: Sequence[Contrast], proposer: Proposer, max_hypotheses: int, max_per_group: int
) -> list[_Candidate]:
    number_of: dict[str, int] = {}
    for contrast in contrasts:
        for text in (*contrast.base, *contrast.intervention):
            number_of.setdefault(text, len(number_of))
    numbered: dict[tuple[str, ...], IntArray] = {}

    def number(texts: tuple[str, ...]) -> IntArray:
        if texts not in numbered:
            numbered[texts] = np.array([number_of[text] for text in texts], dtype=np.int64)
        return numbered[texts]

    candidates = []
    for contrast in contrasts:
        base, intervention = number(contrast.base), number(contrast.intervention)
        limit = max_hypotheses if contrast.scope is None else max_per_group
        for proposal in proposer.propose(contrast, limit):
            meets = np.zeros(len(number_of), dtype=np.bool_)
            meets[base[proposal.in_base]] = True
            meets[intervention[proposal.in_intervention]] = True
            candidates.append(
                _Candidate(proposal, contrast.scope, contrast.cluster, base, intervention, meets)
            )
    return candidates


def _settle_scopes(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates without those that say in the wrong scope what another one says.

    Only like is compared with like: refusals on some prompts may be all the short replies there,
    and yet "shorter on all prompts" does not say that they are refusals.
    """
    dropped: set[int] = set()
    narrow = [i for i, c in enumerate(candidates) if c.scope is not None]
    for i, wide in enumerate(candidates):
        if wide.scope is not None:
            continue
        kind = kind_of(wide.proposal.criterion)
        alike = [
            j
            for j in narrow
            if kind_of(candidates[j].proposal.criterion) == kind
            and _same_behaviour(candidates[j], wide)
        ]
        effect = _excess(wide, wide) / len(wide.base)
        outstanding: dict[str | None, float] = {}
        for j in alike:
            excess = _excess(wide, candidates[j])
            if excess / len(candidates[j].base) >= _STANDS_OUT * effect:
                outstanding[candidates[j].scope] = excess
            else:
                dropped.add(j)
        most = sorted(outstanding.values())[-_FEW_GROUPS:]
        if sum(most) >= _NEARLY_ALL * _excess(wide, wide):
            dropped.add(i)
    return [c for i, c in enumerate(candidates) if i not in dropped]


def _merge_duplicates(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """One candidate per behaviour and scope: the strongest, by preference a phrase. It
    takes over the cluster and the evidence of those merged into it."""
    kept: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-_preferred_strength(c), *_rank(c))):
        place = next(
            (
                i
                for i, other in enumerate(kept)
                if other.scope == candidate.scope and _same_behaviour(candidate, other)
            ),
            None,
        )
        if place is None:
            kept.append(candidate)
        else:
            kept[place] = _absorb(kept[place], candidate)
    return kept


def _absorb(kept: _Candidate, merged: _Candidate) -> _Candidate:
    terms = dict.fromkeys((*kept.proposal.evidence_terms, *merged.proposal.evidence_terms))
    proposal = replace(kept.proposal, evidence_terms=tuple(terms)[:_MAX_EVIDENCE_TERMS])
    return replace(kept, proposal=proposal, cluster=kept.cluster or merged.cluster)


def _same_behaviour(one: _Candidate, other: _Candidate) -> bool:
    """Whether nearly the same texts of the first one's scope meet both, in one direction."""
    if one.proposal.direction != other.proposal.direction:
        return False
    numbers = np.concatenate([one.base, one.intervention])
    first, second = one.meets[numbers], other.meets[numbers]
    both, either = int((first & second).sum()), int((first | second).sum())
    return both >= _SAME_TEXTS * either


def _excess(of: _Candidate, within: _Candidate) -> float:
    """How many more texts of the side that has more meet a criterion, in another one's scope."""
    more = int(of.meets[within.intervention].sum()) - int(of.meets[within.base].sum())
    return more if of.proposal.direction == "more" else -more


def _strength_given(one: _Candidate, other: _Candidate) -> float:
    return strength_left(
        one.proposal.in_base,
        one.proposal.in_intervention,
        other.meets[one.base],
        other.meets[one.intervention],
        keep_mirrored=is_readable(one.proposal.criterion),
    )


def _preferred_strength(candidate: _Candidate) -> float:
    return candidate.proposal.strength * preference(candidate.proposal.criterion)


def _rank(candidate: _Candidate) -> tuple[float, str, str]:
    return -candidate.proposal.strength, candidate.proposal.criterion, candidate.scope or ""


def _write_hypothesis(number: int, candidate: _Candidate) -> Hypothesis:
    proposal = candidate.proposal
    share_base, share_intervention = (
        float(proposal.in_base.mean()), float(proposal.in_intervention.mean())
    )  # fmt: skip
    where = "On all prompts" if candidate.scope is None else f"On prompts about {candidate.scope}"
    return Hypothesis(
        id=f"h{number:03d}",
        statement=(
            f"{where}, replies of the intervention {proposal.direction} often {proposal.claim} "
            f"({_percent(share_base)} of base texts, {_percent(share_intervention)} of "
            "intervention texts in discovery)."
        ),
        criterion=proposal.criterion,
        direction=proposal.direction,
        scope=candidate.scope,
        cluster=candidate.cluster,
        evidence_terms=proposal.evidence_terms,
        share_base=share_base,
        share_intervention=share_intervention,
        strength=proposal.strength,
    )


def _percent(share: float) -> str:
    tenths = 0 < share < 0.0095 or 0.9905 < share < 1
    return f"{share * 100:.1f} %" if tenths else f"{share * 100:.0f} %"
