"""Contrastive proposals without any API: words, length and format that tell the sides apart.

Every criterion is a yes-or-no question about one text, and its strength is the z-score of one
statistic (`contrasts.log_odds_z`), so that phrases, lengths and formats compete on one scale. What
must be exceeded grows with the number of criteria looked at: two sides that do not differ give
about `expected_false` proposals, whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whatchanged.contrasts import (
    choose_diverse,
    discovery_threshold,
    log_odds_z,
    strength_left,
)
from whatchanged.models.criteria import (
    Criterion,
    HasFeature,
    HasLength,
    HasPhrase,
    HasSentence,
    HasSign,
    is_readable,
    preference,
    write_claim,
    write_criterion,
)
from whatchanged.models.ngrams import (
    END,
    NgramLevel,
    TokenStream,
    count_ngrams,
    extend_run,
    find_run,
    mark_texts,
    read_stream,
)
from whatchanged.models.overlap import overlap_sentences
from whatchanged.models.protocols import Contrast, Proposal
from whatchanged.models.signs import FEATURES, feature_bits, find_signs
from whatchanged.models.wording import has_meaning, read_wording, read_words, surface_of

BoolArray = NDArray[np.bool_]

# With fewer texts than this no criterion can tell the sides apart by more than |z| = 2.3.
_MIN_TEXTS = 6
# Longest quoted phrase, in words: longer ones pin down one prompt's wording.
_MAX_PHRASE = 12
# Runs of words whose texts agree to this share say the same thing.
_SAME_TEXTS = 0.8
# Grammar alone ("of the") must stand out this many times more than words with a meaning.
_GRAMMAR_PENALTY = 1.5
_MAX_CANDIDATES = 400
_CLOSE_SENTENCE = 0.6
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
        return f"local/1 {self.expected_false} {self.min_difference} {self.max_words}"

    def propose(self, contrast: Contrast, max_proposals: int) -> list[Proposal]:
        """At most `max_proposals` proposals, strongest first; an empty side gives none.

        A cluster contrast gives at most one: its best exemplar as a sentence.
        """
        if not contrast.base or not contrast.intervention or max_proposals < 1:
            return []
        if contrast.cluster is not None:
            return self._propose_sentence(contrast)
        sides = _Sides(len(contrast.base), len(contrast.intervention))
        texts = (*contrast.base, *contrast.intervention)
        stream = read_stream(texts)
        marks = _mark_signs(texts)
        lengths = _mark_lengths(texts)
        levels = count_ngrams(
            stream, max_words=self.max_words, min_texts=self._min_texts(len(texts))
        )
        threshold = self._threshold(sides, levels, [*marks.values(), *lengths.values()])
        proposals = [
            *self._propose_phrases(stream, texts, levels, sides, threshold, max_proposals),
            *self._propose_strongest(lengths, sides, threshold),
            *self._propose_marked(marks, sides, threshold),
        ]
        return _choose(proposals, max_proposals, 0.8 * threshold)

    def _min_texts(self, n_texts: int) -> int:
        return max(_MIN_TEXTS, int(self.min_difference * n_texts / 2))

    def _threshold(
        self, sides: _Sides, levels: Sequence[NgramLevel], others: Sequence[BoolArray]
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

    def _propose_phrases(
        self,
        stream: TokenStream,
        texts: Sequence[str],
        levels: Sequence[NgramLevel],
        sides: _Sides,
        threshold: float,
        max_proposals: int,
    ) -> list[Proposal]:
        runs = _find_runs(stream, levels, sides, threshold, self.min_difference)
        proposals: list[Proposal] = []
        remaining = np.ones(len(runs), dtype=np.bool_)
        sets = np.array([run.held for run in runs], dtype=np.bool_)
        sizes = sets.sum(axis=1) if runs else np.zeros(0)
        upward = np.array([run.z > 0 for run in runs], dtype=np.bool_)
        while remaining.any() and len(proposals) < 4 * max_proposals:
            strongest = int(remaining.argmax())
            shared = (sets & sets[strongest]).sum(axis=1)
            same = shared >= _SAME_TEXTS * (sizes + sizes[strongest] - shared)
            same &= remaining & (upward == upward[strongest])
            remaining &= ~same
            group = [runs[i] for i in np.flatnonzero(same)]
            proposals.append(_propose_phrase(stream, texts, group, sides))
        return [p for p in proposals if p.strength >= threshold]

    def _propose_marked(
        self, marks: dict[Criterion, BoolArray], sides: _Sides, threshold: float
    ) -> list[Proposal]:
        """Every criterion whose texts differ enough, in its own direction."""
        return [
            _make_proposal(criterion, held, sides, _terms(criterion))
            for criterion, held in marks.items()
            if abs(sides.z(held)) >= threshold and abs(sides.effect(held)) >= self.min_difference
        ]

    def _propose_strongest(
        self, lengths: dict[Criterion, BoolArray], sides: _Sides, threshold: float
    ) -> list[Proposal]:
        """The one length that the intervention meets more often by the most, if that is enough."""
        best = max(lengths, key=lambda criterion: sides.z(lengths[criterion]), default=None)
        return [] if best is None else self._propose_marked({best: lengths[best]}, sides, threshold)

    def _propose_sentence(self, contrast: Contrast) -> list[Proposal]:
        if not contrast.exemplars:
            return []
        sides = _Sides(len(contrast.base), len(contrast.intervention))
        held = np.concatenate(
            [
                _close(contrast.base, contrast) if contrast.member_base is None
                else contrast.member_base,
                _close(contrast.intervention, contrast) if contrast.member_intervention is None
                else contrast.member_intervention,
            ]
        )  # fmt: skip
        threshold = discovery_threshold(1, min(self.expected_false, 0.05))
        criterion = HasSentence(contrast.exemplars[0])
        if abs(sides.z(held)) < threshold or abs(sides.effect(held)) < self.min_difference:
            return []
        return [_make_proposal(criterion, held, sides, contrast.exemplars[:3])]


@dataclass(frozen=True, slots=True)
class _Sides:
    """The first `n_base` texts are the base's, the others the intervention's."""

    n_base: int
    n_intervention: int

    @property
    def n_texts(self) -> int:
        return self.n_base + self.n_intervention

    @property
    def is_base(self) -> BoolArray:
        return np.arange(self.n_texts) < self.n_base

    def z(self, held: BoolArray) -> float:
        hits = int(held[: self.n_base].sum()), int(held[self.n_base :].sum())
        return float(log_odds_z(hits[0], self.n_base, hits[1], self.n_intervention))

    def effect(self, held: BoolArray) -> float:
        return float(held[self.n_base :].mean() - held[: self.n_base].mean())

    def largest_z(self, n_held: NDArray[np.int64]) -> NDArray[np.float64]:
        """The largest |z| that a criterion met by `n_held` texts can have."""
        base, intervention = (
            np.minimum(n_held, self.n_base),
            np.minimum(n_held, self.n_intervention),
        )
        return np.maximum(
            log_odds_z(n_held - intervention, self.n_base, intervention, self.n_intervention),
            -log_odds_z(base, self.n_base, n_held - base, self.n_intervention),
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of words, which texts hold it `(n_texts,)`, and its z-score."""

    word_ids: NDArray[np.int64]
    words: tuple[str, ...]
    held: BoolArray
    z: float


def _find_runs(
    stream: TokenStream,
    levels: Sequence[NgramLevel],
    sides: _Sides,
    threshold: float,
    min_difference: float,
) -> list[_Run]:
    """The runs beyond the threshold, strongest first, at most `_MAX_CANDIDATES`."""
    runs: list[tuple[float, int, int]] = []
    for index, level in enumerate(levels):
        hits_base = level.count_texts(sides.is_base)
        hits_intervention = np.diff(level.bounds) - hits_base
        z = log_odds_z(hits_base, sides.n_base, hits_intervention, sides.n_intervention)
        effect = hits_intervention / sides.n_intervention - hits_base / sides.n_base
        beyond = (np.abs(z) >= threshold) & (np.abs(effect) >= min_difference)
        runs += [(float(z[g]), index, int(g)) for g in np.flatnonzero(beyond)]
    runs.sort(key=lambda run: (-abs(run[0]), -run[1], run[2]))
    first_starts = [level.first_starts() for level in levels]
    found = []
    for z_score, index, gram in runs[:_MAX_CANDIDATES]:
        level, start = levels[index], int(first_starts[index][gram])
        word_ids = stream.ids[start : start + level.length]
        words = tuple(stream.vocabulary[i] for i in word_ids)
        if has_meaning(words) or abs(z_score) >= _GRAMMAR_PENALTY * threshold:
            held = np.zeros(sides.n_texts, dtype=np.bool_)
            held[level.texts[level.bounds[gram] : level.bounds[gram + 1]]] = True
            found.append(_Run(word_ids, words, held, z_score))
    return found


def _propose_phrase(
    stream: TokenStream, texts: Sequence[str], group: Sequence[_Run], sides: _Sides
) -> Proposal:
    """The most readable of runs with nearly the same texts: the longest phrase around the longest
    run, without the grammar that dangles at its end, unless that weakens the difference."""
    strongest = group[0]
    longest = max(group, key=lambda run: (has_meaning(run.words), len(run.words), abs(run.z)))
    extended = extend_run(stream, longest.word_ids, min_share=0.9, max_words=_MAX_PHRASE)
    tried = (_drop_dangling(stream, extended), extended, longest.word_ids, strongest.word_ids)
    for word_ids in tried:
        starts = find_run(stream, word_ids)
        held = mark_texts(stream, starts)
        if sides.z(held) * np.sign(strongest.z) >= 0.9 * abs(strongest.z):
            break
    words = tuple(stream.vocabulary[i] for i in word_ids)
    more = strongest.z > 0
    written_by = [row for row in stream.rows[starts] if (row >= sides.n_base) == more]
    criterion = HasPhrase(_usual_surface(words, [texts[row] for row in written_by[:25]]))
    others = [" ".join(run.words) for run in group if " ".join(run.words) not in " ".join(words)]
    return _make_proposal(criterion, held, sides, (criterion.phrase, *others[:3]))


def _drop_dangling(stream: TokenStream, word_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    after = find_run(stream, word_ids) + len(word_ids)
    if 2 * int((stream.ids[after] == END).sum()) > len(after):
        return word_ids
    kept = len(word_ids)
    while kept > 1 and not has_meaning((stream.vocabulary[word_ids[kept - 1]],)):
        kept -= 1
    return word_ids[:kept] if has_meaning([stream.vocabulary[i] for i in word_ids]) else word_ids


def _usual_surface(words: tuple[str, ...], texts: Sequence[str]) -> str:
    surfaces = [surface_of(words, text) for text in texts] or [" ".join(words)]
    usual = max(sorted(set(surfaces)), key=surfaces.count)
    return " ".join(usual.split())


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


def _make_proposal(
    criterion: Criterion, held: BoolArray, sides: _Sides, terms: tuple[str, ...]
) -> Proposal:
    z = sides.z(held)
    return Proposal(
        criterion=write_criterion(criterion),
        claim=write_claim(criterion),
        direction="more" if z > 0 else "less",
        evidence_terms=terms,
        strength=abs(z),
        in_base=held[: sides.n_base],
        in_intervention=held[sides.n_base :],
    )


def _terms(criterion: Criterion) -> tuple[str, ...]:
    return (criterion.sign,) if isinstance(criterion, HasSign) else ()


def _close(texts: Sequence[str], contrast: Contrast) -> BoolArray:
    """Which texts hold a sentence whose words are close to an exemplar's."""
    exemplars = [read_words(exemplar) for exemplar in contrast.exemplars]
    return np.array(
        [
            any(
                overlap_sentences(sentence, exemplar) >= _CLOSE_SENTENCE
                for sentence in read_wording(text).sentences
                for exemplar in exemplars
            )
            for text in texts
        ],
        dtype=np.bool_,
    )


def _choose(proposals: Sequence[Proposal], max_proposals: int, floor: float) -> list[Proposal]:
    """The strongest proposals that do not follow from stronger ones, strongest first."""
    strengths = [p.strength * preference(p.criterion) for p in proposals]
    chosen = choose_diverse(strengths, max_proposals, _strength_given(proposals), floor)
    return sorted((proposals[i] for i in chosen), key=lambda p: (-p.strength, p.criterion))


def _strength_given(proposals: Sequence[Proposal]) -> Callable[[int, int], float]:
    """What of a proposal's strength is left given another one."""
    readable = [is_readable(p.criterion) for p in proposals]

    def strength_given(candidate: int, other: int) -> float:
        one, two = proposals[candidate], proposals[other]
        return strength_left(
            one.in_base,
            one.in_intervention,
            two.in_base,
            two.in_intervention,
            keep_mirrored=readable[candidate],
        )

    return strength_given
