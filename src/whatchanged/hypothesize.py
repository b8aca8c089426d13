"""From discovery texts to hypotheses: contrasts, proposals, and one claim per distinct change.

Nothing here decides whether a claim is true: it is tested later, on fresh texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.contrasts import choose_diverse, strength_left
from whatchanged.models.criteria import (
    are_free_words,
    can_explain,
    is_readable,
    kind_of,
    may_mirror,
    preference,
)
from whatchanged.models.protocols import Contrast, Proposal, Proposer
from whatchanged.records import Hypothesis
from whatchanged.scopes import build_contrasts

__all__ = ["build_contrasts", "propose_all"]

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
_MIN_STRENGTH_LEFT = 2.0
_MAX_EVIDENCE_TERMS = 8


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
    texts = _Texts.of(contrasts)
    candidates = _collect(contrasts, texts, proposer, max_hypotheses, max_per_group)
    candidates = _merge_duplicates(_settle_scopes(candidates))
    chosen = choose_diverse(
        [_preferred_strength(c) for c in candidates],
        max_hypotheses,
        lambda one, other: _strength_given(candidates[one], candidates[other]),
        _MIN_STRENGTH_LEFT,
        # Grammar alone ("my") often joins several changes, and would explain them all away.
        is_last=[not is_readable(c.proposal.criterion) for c in candidates],
    )
    kept = [_name_cluster(candidates[i], contrasts, texts) for i in chosen]
    kept.sort(key=_rank)
    return [_write_hypothesis(number, candidate) for number, candidate in enumerate(kept, start=1)]


@dataclass(frozen=True, slots=True)
class _Texts:
    """The distinct texts of all contrasts, numbered."""

    numbers: Mapping[str, int]
    known: dict[tuple[str, ...], IntArray]

    @classmethod
    def of(cls, contrasts: Sequence[Contrast]) -> _Texts:
        every = (text for c in contrasts for text in (*c.base, *c.intervention))
        return cls({text: number for number, text in enumerate(dict.fromkeys(every))}, {})

    def number(self, texts: tuple[str, ...]) -> IntArray:
        """The numbers of the texts, remembered: many contrasts share theirs."""
        if texts not in self.known:
            self.known[texts] = np.array([self.numbers[text] for text in texts], dtype=np.int64)
        return self.known[texts]

    def mark(self, contrast: Contrast, in_base: BoolArray, in_intervention: BoolArray) -> BoolArray:
        """Which distinct texts are marked in a contrast, `(n_distinct,)`."""
        marked = np.zeros(len(self.numbers), dtype=np.bool_)
        marked[self.number(contrast.base)[in_base]] = True
        marked[self.number(contrast.intervention)[in_intervention]] = True
        return marked


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
    is_paired: bool
    weights: NDArray[np.float64] | None

    def share(self, held: BoolArray) -> float:
        """The share of a side's texts, `(n,)` of the contrast, reweighted to the prompts."""
        return float(np.average(held, weights=self.weights))


def _collect(
    contrasts: Sequence[Contrast],
    texts: _Texts,
    proposer: Proposer,
    max_hypotheses: int,
    max_per_group: int,
) -> list[_Candidate]:
    candidates = []
    for contrast in contrasts:
        base, intervention = texts.number(contrast.base), texts.number(contrast.intervention)
        limit = max_hypotheses if contrast.scope is None else max_per_group
        for proposal in proposer.propose(contrast, limit):
            meets = texts.mark(contrast, proposal.in_base, proposal.in_intervention)
            candidates.append(
                _Candidate(
                    proposal, contrast.scope, contrast.cluster, base, intervention, meets,
                    contrast.is_paired, contrast.weights,
                )
            )  # fmt: skip
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
    first, second = one.proposal, other.proposal
    return (
        first.direction == second.direction
        and not are_free_words(first.criterion, second.criterion)
        and _same_texts(one, other.meets)
    )


def _same_texts(candidate: _Candidate, meets: BoolArray) -> bool:
    numbers = np.concatenate([candidate.base, candidate.intervention])
    first, second = candidate.meets[numbers], meets[numbers]
    both, either = int((first & second).sum()), int((first | second).sum())
    return both >= _SAME_TEXTS * either


def _name_cluster(
    candidate: _Candidate, contrasts: Sequence[Contrast], texts: _Texts
) -> _Candidate:
    """The candidate with the cluster of its scope that has nearly its texts, if there is one."""
    for contrast in contrasts if candidate.cluster is None else ():
        members = contrast.member_base, contrast.member_intervention
        if contrast.cluster is None or contrast.scope != candidate.scope:
            continue
        if members[0] is not None and members[1] is not None:
            marked = texts.mark(contrast, members[0], members[1])
            if _same_texts(candidate, marked):
                return replace(candidate, cluster=contrast.cluster)
    return candidate


def _excess(of: _Candidate, within: _Candidate) -> float:
    """How many more texts of the side that has more meet a criterion, in another one's scope."""
    more = int(of.meets[within.intervention].sum()) - int(of.meets[within.base].sum())
    return more if of.proposal.direction == "more" else -more


def _strength_given(one: _Candidate, other: _Candidate) -> float:
    first, second = one.proposal, other.proposal
    if not can_explain(second.criterion, second.direction, first.criterion, first.direction):
        return float("inf")
    return strength_left(
        one.proposal.in_base,
        one.proposal.in_intervention,
        other.meets[one.base],
        other.meets[one.intervention],
        is_paired=one.is_paired,
        keep_mirrored=may_mirror(first.criterion, second.criterion),
    )


def _preferred_strength(candidate: _Candidate) -> float:
    return candidate.proposal.strength * preference(candidate.proposal.criterion)


def _rank(candidate: _Candidate) -> tuple[float, str, str]:
    return -candidate.proposal.strength, candidate.proposal.criterion, candidate.scope or ""


def _write_hypothesis(number: int, candidate: _Candidate) -> Hypothesis:
    proposal = candidate.proposal
    share_base = candidate.share(proposal.in_base)
    share_intervention = candidate.share(proposal.in_intervention)
    where = _describe_scope(candidate.scope)
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
        share_discordant=_share_discordant(candidate),
        strength=proposal.strength,
    )


def _share_discordant(candidate: _Candidate) -> float | None:
    if not candidate.is_paired:
        return None
    return candidate.share(candidate.proposal.in_base != candidate.proposal.in_intervention)


def _describe_scope(scope: str | None) -> str:
    if scope is None:
        return "On all prompts"
    # Inferred groups are named by a prompt: like “...” (prompts.group_prompts).
    return f"On prompts {scope}" if scope.startswith("like “") else f"On prompts about {scope}"


def _percent(share: float) -> str:
    tenths = 0 < share < 0.0095 or 0.9905 < share < 1
    return f"{share * 100:.1f} %" if tenths else f"{share * 100:.0f} %"
