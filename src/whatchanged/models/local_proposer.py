"""Contrastive proposals without any API: words, length and format that tell the sides apart.

Every criterion is a yes-or-no question about one text, and its strength is the z-score of one
statistic (`contrasts.log_odds_z`), so that phrases, lengths and formats compete on one scale. What
must be exceeded grows with the number of criteria looked at: two sides that do not differ give
about `expected_false` proposals, whatever their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.contrasts import Sides, choose_diverse, discovery_threshold, strength_left
from whatchanged.models.criteria import (
    Criterion,
    HasFeature,
    HasLength,
    HasPhrase,
    HasSentence,
    HasSign,
    can_explain,
    is_readable,
    may_mirror,
    preference,
    write_claim,
    write_criterion,
)
from whatchanged.models.ngrams import NgramLevel, TokenStream, count_ngrams, read_stream
from whatchanged.models.overlap import grade_sentence, overlap_sentences
from whatchanged.models.phrases import Run, find_runs, group_runs, word_phrase
from whatchanged.models.protocols import Contrast, Proposal
from whatchanged.models.signs import FEATURES, feature_bits, find_signs
from whatchanged.models.wording import read_wording, read_words
from whatchanged.records import Direction

BoolArray = NDArray[np.bool_]

# With fewer texts than this no criterion can tell the sides apart by more than |z| = 2.3.
_MIN_TEXTS = 6
_N_EXEMPLARS_TRIED = 3
_LENGTH_QUANTILES = np.arange(0.05, 0.96, 0.05)


@dataclass(frozen=True, slots=True)
class LocalProposer:
    """Proposes phrases of any length, lengths, format features and, for clusters, a sentence.

    `expected_false` is the number of proposals that a contrast without a difference gives on
    average; a difference of shares below `min_difference` is not proposed.
    """

    expected_false: float = 3.0
    min_difference: float = 0.005
    max_words: int = 5

    @property
    def identity(self) -> str:
        """The method's version and its settings."""
        return f"local/4 {self.expected_false} {self.min_difference} {self.max_words}"

    def propose(self, contrast: Contrast, max_proposals: int) -> list[Proposal]:
        """At most `max_proposals` proposals, strongest first; an empty side gives none.

        A cluster contrast gives at most one: the exemplar that tells the sides apart as a sentence.
        """
        if not contrast.base or not contrast.intervention or max_proposals < 1:
            return []
        sides = Sides(len(contrast.base), len(contrast.intervention), contrast.is_paired)
        if contrast.cluster is not None:
            return self._propose_sentence(contrast, sides)
        texts = (*contrast.base, *contrast.intervention)
        stream = read_stream(texts)
        levels = count_ngrams(stream, max_words=self.max_words, min_texts=self._min_texts(sides))
        marks, lengths = _mark_signs(texts), _mark_lengths(texts)
        threshold = self._threshold(sides, levels, [*marks.values(), *lengths.values()])
        runs = find_runs(stream, levels, sides, threshold, self.min_difference)
        candidates = [
            *(_Candidate(group[0].held, group=group) for group in group_runs(runs, 200)),
            *self._differing(_strongest(lengths, sides), sides, threshold),
            *self._differing(marks, sides, threshold),
        ]
        chosen = _choose(candidates, sides, max_proposals, 0.8 * threshold)
        proposals = [_write_proposal(candidate, stream, texts, sides) for candidate in chosen]
        kept = [p for p in proposals if p.strength >= threshold]
        return sorted(kept, key=lambda p: (-p.strength, p.criterion))

    def _min_texts(self, sides: Sides) -> int:
        return max(_MIN_TEXTS, int(self.min_difference * sides.n_texts / 2))

    def _threshold(
        self, sides: Sides, levels: Sequence[NgramLevel], others: Sequence[BoolArray]
    ) -> float:
        """The |z| to exceed, given how many distinct criteria could do so at all (Tarone 1990)."""
        numbers = np.random.default_rng(0).integers(2**63, size=sides.n_texts, dtype=np.uint64)
        digests = [level.digest_texts(numbers) for level in levels]
        n_held = [np.diff(level.bounds) for level in levels]
        _, first = np.unique(np.concatenate([*digests, np.empty(0, np.uint64)]), return_index=True)
        distinct = np.concatenate([*n_held, np.empty(0, np.int64)])[first]
        n_other = np.array([int(other.sum()) for other in others], dtype=np.int64)
        reach = np.sort(sides.largest_z(np.concatenate([distinct, n_other])))[::-1]
        low, high = 0, len(reach)
        while low < high:
            middle = (low + high) // 2
            enough = reach[middle] < discovery_threshold(middle, self.expected_false)
            low, high = (low, middle) if enough else (middle + 1, high)
        return discovery_threshold(low, self.expected_false)

    def _differing(
        self, marks: Mapping[Criterion, BoolArray], sides: Sides, threshold: float
    ) -> list[_Candidate]:
        return [
            _Candidate(held, criterion=criterion)
            for criterion, held in marks.items()
            if abs(sides.z(held)) >= threshold and abs(sides.effect(held)) >= self.min_difference
        ]

    def _propose_sentence(self, contrast: Contrast, sides: Sides) -> list[Proposal]:
        """The first exemplar that carries 0.9 of the members' difference, else the one that carries
        most; none if that is not enough. What counts is what a judge will accept as the exemplar,
        not what else lies in the cluster."""
        texts = (*contrast.base, *contrast.intervention)
        members = np.zeros(len(texts), dtype=np.bool_)
        if contrast.member_base is not None and contrast.member_intervention is not None:
            members = np.concatenate([contrast.member_base, contrast.member_intervention])
        needed = 0.9 * abs(sides.z(members)) if members.any() else np.inf
        proposals: list[Proposal] = []
        for exemplar in contrast.exemplars[:_N_EXEMPLARS_TRIED]:
            held = _mark_close(texts, exemplar)
            if abs(sides.effect(held)) >= self.min_difference:
                terms = contrast.exemplars[:_N_EXEMPLARS_TRIED]
                proposals.append(_make_proposal(HasSentence(exemplar), held, sides, terms))
            if proposals and proposals[-1].strength >= needed:
                break
        best = max(proposals, key=lambda p: p.strength, default=None)
        threshold = discovery_threshold(1, min(self.expected_false, 0.05))
        return [best] if best is not None and best.strength >= threshold else []


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Texts that differ between the sides `(n_texts,)`: they meet a criterion, or they hold a group
    of runs that has yet to be worded."""

    held: BoolArray
    criterion: Criterion | None = None
    group: Sequence[Run] = ()

    @property
    def stand_in(self) -> str:
        """A criterion of the same kind and readability as the one to be written."""
        if self.criterion is not None:
            return write_criterion(self.criterion)
        phrases = [write_criterion(HasPhrase(" ".join(run.words))) for run in self.group]
        return max(phrases, key=preference)


def _choose(
    candidates: Sequence[_Candidate], sides: Sides, max_proposals: int, floor: float
) -> list[_Candidate]:
    """The candidates that do not follow from stronger ones."""
    names = [candidate.stand_in for candidate in candidates]
    z = [sides.z(candidate.held) for candidate in candidates]
    directions: list[Direction] = ["more" if score > 0 else "less" for score in z]
    strengths = [abs(score) * preference(name) for score, name in zip(z, names, strict=True)]

    def strength_given(one: int, other: int) -> float:
        if not can_explain(names[other], directions[other], names[one], directions[one]):
            return float("inf")
        held, by = sides.split(candidates[one].held), sides.split(candidates[other].held)
        keep_mirrored = may_mirror(names[one], names[other])
        return strength_left(*held, *by, is_paired=sides.is_paired, keep_mirrored=keep_mirrored)

    is_last = [not is_readable(name) for name in names]
    chosen = choose_diverse(strengths, max_proposals, strength_given, floor, is_last=is_last)
    return [candidates[i] for i in chosen]


def _strongest(lengths: Mapping[Criterion, BoolArray], sides: Sides) -> dict[Criterion, BoolArray]:
    """The one bound that the intervention meets more often by the most, if there is any."""
    best = max(lengths, key=lambda criterion: sides.z(lengths[criterion]), default=None)
    return {} if best is None else {best: lengths[best]}


def _write_proposal(
    candidate: _Candidate, stream: TokenStream, texts: Sequence[str], sides: Sides
) -> Proposal:
    if candidate.criterion is None:
        phrase = word_phrase(stream, texts, candidate.group, sides)
        terms = (phrase.phrase, *phrase.others)
        return _make_proposal(HasPhrase(phrase.phrase), phrase.held, sides, terms)
    sign = (candidate.criterion.sign,) if isinstance(candidate.criterion, HasSign) else ()
    return _make_proposal(candidate.criterion, candidate.held, sides, sign)


def _mark_signs(texts: Sequence[str]) -> dict[Criterion, BoolArray]:
    """Which texts meet each format criterion that some texts meet and some do not."""
    bits = np.array([feature_bits(text) for text in texts], dtype=np.int64)
    marks: dict[Criterion, BoolArray] = {
        HasFeature(name): (bits >> bit & 1).astype(np.bool_) for bit, name in enumerate(FEATURES)
    }
    signs = [find_signs(text) for text in texts]
    for sign in sorted(frozenset().union(*signs)):
        marks[HasSign(sign)] = np.array([sign in found for found in signs], dtype=np.bool_)
    return {c: held for c, held in marks.items() if held.any() and not held.all()}


def _mark_lengths(texts: Sequence[str]) -> dict[Criterion, BoolArray]:
    """Which texts meet each bound on the number of words, at most and at least, at quantiles."""
    lengths = np.array([len(read_wording(text).words) for text in texts])
    bounds = np.unique(np.quantile(lengths, _LENGTH_QUANTILES).astype(np.int64))
    marks: dict[Criterion, BoolArray] = {}
    for bound in bounds[bounds < lengths.max()]:
        marks[HasLength("at most", int(bound))] = lengths <= bound
        marks[HasLength("at least", int(bound) + 1)] = lengths > bound
    return marks


def _mark_close(texts: Sequence[str], exemplar: str) -> BoolArray:
    """Which texts hold a sentence that the lexical judge takes for the exemplar, `(n_texts,)`."""
    words = read_words(exemplar)
    return np.array(
        [
            any(
                grade_sentence(overlap_sentences(words, sentence)) >= 0.5
                for sentence in read_wording(text).sentences
            )
            for text in texts
        ],
        dtype=np.bool_,
    )


def _make_proposal(
    criterion: Criterion, held: BoolArray, sides: Sides, terms: tuple[str, ...]
) -> Proposal:
    z = sides.z(held)
    in_base, in_intervention = sides.split(held)
    return Proposal(
        criterion=write_criterion(criterion),
        claim=write_claim(criterion),
        direction="more" if z > 0 else "less",
        evidence_terms=terms,
        strength=abs(z),
        in_base=in_base,
        in_intervention=in_intervention,
    )
