"""Which components tell a finding's texts from the others, and the two sides from each other.

Selectivity is not causality. A component that fires on the supporting texts may read what is
written there and have had no part in writing it: where two kinds of text differ in their words, a
direction drawn at random separates them too. Compare with such a control
(`models.weight_delta.random_directions`) before saying that a component belongs to a behaviour.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import UsageError
from whatchanged.keys import content_key
from whatchanged.stats import Interval, auc, benjamini_hochberg, permutation_p_value

Statistic: TypeAlias = Literal["maximum", "reverse_maximum", "firing_rate"]

STATISTICS: tuple[Statistic, ...] = ("maximum", "reverse_maximum", "firing_rate")

_FIRST_DRAWS = 2_000
_WORTH_MORE_DRAWS = 0.01


@dataclass(frozen=True)
class TextSummaries:
    """What each component did in each text: `values (n_texts, n_statistics, n_components)`.

    The statistics are `STATISTICS`: over the text's tokens, the largest activation, the largest of
    the reversed sign (a projection has two poles), and the share of tokens on which it fires.
    `labels` name components, or clusters of them.
    """

    text_keys: tuple[str, ...]
    labels: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Selectivity:
    """How well one statistic of one component separates supporting from other texts.

    All figures but `auc_selection` are of held-out texts. `auc` is the probability that a
    supporting text has the larger value than another text of the same prompt (below 0.5: the
    component falls silent), with its interval; nan where no held-out prompt has both kinds.
    `auc_overall` compares across prompts, so it counts also what the prompts' topics do.
    `auc_selection`, on the texts by which the component was chosen, is too good for that reason.
    """

    label: str
    statistic: Statistic
    auc: float
    ci_low: float
    ci_high: float
    auc_overall: float
    auc_selection: float
    p_value: float
    p_adjusted: float
    n_supporting: int
    n_other: int
    n_prompts: int


@dataclass(frozen=True)
class _Pairs:
    """Per prompt that has texts of both kinds: the pairs that a supporting text wins, ties counting
    half, `(n_prompts, n_columns)`, and how many pairs there are `(n_prompts,)`."""

    won: NDArray[np.float64]
    n_pairs: NDArray[np.float64]

    def auc(self) -> NDArray[np.float64]:
        """The share of pairs won, `(n_columns,)`; nan without a pair."""
        if len(self.n_pairs) == 0:
            return np.full(self.won.shape[1], np.nan)
        share: NDArray[np.float64] = self.won.sum(axis=0) / self.n_pairs.sum()
        return share


def summarize_texts(
    text_keys: Sequence[str],
    labels: Sequence[str],
    activations: NDArray[np.float32],
    text_starts: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    n_skipped: NDArray[np.int64] | None = None,
) -> TextSummaries:
    """The summaries of a batch's texts, from `activations (n_tokens, n_components)`.

    Text i has the rows from `text_starts[i]` to `text_starts[i + 1]`. A component fires where its
    magnitude exceeds its own of the `thresholds (n_components,)`. The first `n_skipped[i]` rows of
    a text are left out: pass the tokens of its prompt, which all texts of the prompt share.

    Raises UsageError for shapes that disagree, and for a text of which nothing is left.
    """
    starts, ends = np.asarray(text_starts[:-1]), np.asarray(text_starts[1:])
    if len(starts) != len(text_keys) or ends[-1:].sum() != len(activations):
        raise UsageError(
            f"expected rows for {len(text_keys)} texts, found {len(starts)} texts of "
            f"{int(ends[-1:].sum())} rows in all, and {len(activations)} rows"
        )
    if activations.shape[1] != len(labels) or thresholds.shape != (len(labels),):
        raise UsageError(
            f"expected a column and a threshold per label, found {len(labels)} labels, "
            f"{activations.shape[1]} columns and thresholds of shape {thresholds.shape}"
        )
    if n_skipped is not None:
        starts = starts + n_skipped
    if (ends <= starts).any():
        key = text_keys[int(np.argmax(ends <= starts))]
        raise UsageError(f"text {key}: expected tokens to summarize, found none: leave it out")
    values = np.zeros((len(starts), len(STATISTICS), len(labels)), dtype=np.float32)
    for text, (start, end) in enumerate(zip(starts, ends, strict=True)):
        rows = activations[start:end]
        values[text, 0] = rows.max(axis=0)
        values[text, 1] = -rows.min(axis=0)
        values[text, 2] = (np.abs(rows) > thresholds).mean(axis=0)
    return TextSummaries(tuple(text_keys), tuple(labels), values)


def join_summaries(parts: Sequence[TextSummaries]) -> TextSummaries:
    """The summaries of all batches together, in this order.

    Raises UsageError for no part, parts with different components, and a text that comes twice.
    """
    if not parts or any(part.labels != parts[0].labels for part in parts):
        raise UsageError("expected summaries of the same components, one part at least")
    keys = tuple(key for part in parts for key in part.text_keys)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"expected every text once, found {twice} twice")
    return TextSummaries(keys, parts[0].labels, np.concatenate([part.values for part in parts]))


def choosing_prompts(
    prompt_keys: Sequence[str], labels: Sequence[int], seed: int
) -> frozenset[str]:
    """The half of the prompts on which components may be chosen before `find_selective` sees them;
    the others stay fresh for its tests.

    A key and a text cluster per text. The half is every second prompt in an order that keys and
    seed decide, counted among those whose texts lie mostly in one cluster: a cluster has few
    prompts, and a coin per prompt would leave some without any to test on.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for key, label in zip(prompt_keys, labels, strict=True):
        counts[key][label] += 1

    def place(key: str) -> tuple[int, str]:
        cluster = min(counts[key], key=lambda label: (-counts[key][label], label))
        return cluster, content_key("choosing prompt", seed, key)

    return frozenset(sorted(counts, key=place)[1::2])


def find_selective(
    texts: TextSummaries,
    prompt_keys: Sequence[str],
    is_supporting: NDArray[np.bool_],
    *,
    seed: int,
    chosen_on: Collection[str] = (),
    n_shown: int = 20,
    n_draws: int = 100_000,
    confidence: float = 0.95,
) -> list[Selectivity]:
    """The `n_shown` components that best separate supporting from other texts, best first.

    `prompt_keys` and `is_supporting` are `(n_texts,)`, in the order of `texts`. Supporting texts
    are those that show a finding, or, to compare the sides, those of the intervention. Texts that
    nobody judged belong to neither kind: leave them out, rather than call them others.

    The prompts are divided at random into halves, which share no prompt. On one half, each
    component gets the statistic, and the best components get chosen, by the AUC within prompts. On
    the other, those are measured and tested: the winner of many is flattered only on the first.
    Where the components of `texts` are themselves chosen from more, by how the kinds differ,
    `chosen_on` are the prompts that this looked at (`choosing_prompts`): none of them is held out,
    and as many others as make half, as far as there are.
    The p-value is two-sided, by permutation within prompts. Benjamini and Hochberg's correction
    counts every component of `texts`, with a p-value of 1 where it was not chosen.

    No component gives none. Where fewer than two prompts have texts of both kinds, nothing can be
    held out: nan with the interval [0, 1] and a p-value of 1.

    Raises UsageError for lengths that disagree, and for texts of one kind only.
    """
    supporting = np.asarray(is_supporting, dtype=bool)
    if not len(texts.text_keys) == len(prompt_keys) == len(supporting):
        raise UsageError(
            f"expected a prompt and a kind per text, found {len(texts.text_keys)} texts, "
            f"{len(prompt_keys)} prompts and {len(supporting)} kinds"
        )
    if supporting.all() or not supporting.any():
        raise UsageError(
            f"expected supporting and other texts, found {int(supporting.sum())} of "
            f"{len(supporting)} supporting"
        )
    _, prompts = np.unique(np.asarray(prompt_keys, dtype=object), return_inverse=True)
    rng = np.random.default_rng(seed)
    is_spent = np.array([key in chosen_on for key in prompt_keys], dtype=bool)
    is_held_out = _held_out(prompts, supporting, is_spent, rng)
    selection, held_out = (
        _Half(texts.values[rows], prompts[rows], supporting[rows])
        for rows in (~is_held_out, is_held_out)
    )
    found = []
    for choice in _choose(selection, n_shown):
        label = texts.labels[choice.column]
        found.append(_measure(held_out, label, choice, n_draws, confidence, rng))
    return _corrected(found, len(texts.labels))


@dataclass(frozen=True)
class _Half:
    """Values `(n_texts, n_statistics, n_components)`, prompts and kinds of half of the texts."""

    values: NDArray[np.float32]
    prompts: NDArray[np.int64]
    is_supporting: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A component and its statistic, with the AUC by which they were chosen."""

    column: int
    statistic: int
    auc: float


def _held_out(
    prompts: NDArray[np.int64],
    is_supporting: NDArray[np.bool_],
    is_spent: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which texts are held out `(n_texts,)`: of half of the prompts, drawn from those that are not
    spent, counted among the prompts with both kinds of texts and among the rest, so that both
    halves have some."""
    n_prompts = int(prompts.max()) + 1
    n_texts = np.bincount(prompts, minlength=n_prompts)
    n_supporting = np.bincount(prompts[is_supporting], minlength=n_prompts)
    is_mixed = (n_supporting > 0) & (n_supporting < n_texts)
    is_free = np.bincount(prompts[is_spent], minlength=n_prompts) == 0
    is_out = np.zeros(n_prompts, dtype=bool)
    for group in (is_mixed, ~is_mixed):
        free = rng.permutation(np.flatnonzero(group & is_free))
        is_out[free[: int(group.sum()) // 2]] = True
    return is_out[prompts]


def _choose(half: _Half, n_shown: int) -> list[_Choice]:
    """The best components, each with its best statistic.

    By distance of the AUC within prompts from one half; many reach 1 on few texts, and among
    equals the AUC over all prompts decides.
    """
    n_texts, _, n_components = half.values.shape
    if n_components == 0:
        return []
    values = half.values.reshape(n_texts, -1)
    within = _count_pairs(values, half.prompts, half.is_supporting).auc()
    # Rounded, or the last bit of a ratio would decide among equals.
    strength = np.round(_distance(within), 12)
    best = np.sort(strength.reshape(-1, n_components).max(axis=0))
    places = np.flatnonzero(strength >= best[-min(n_shown, n_components)])
    everywhere = np.zeros_like(half.prompts)
    overall = _count_pairs(values[:, places], everywhere, half.is_supporting).auc()
    order = places[np.lexsort((-_distance(overall), -strength[places]))]
    _, first = np.unique(order % n_components, return_index=True)
    return [
        _Choice(int(place % n_components), int(place // n_components), float(within[place]))
        for place in order[np.sort(first)][:n_shown]
    ]


def _distance(auc: NDArray[np.float64]) -> NDArray[np.float64]:
    """From one half; 0 for an AUC that is not known."""
    return np.abs(np.nan_to_num(auc, nan=0.5) - 0.5)


def _measure(
    half: _Half,
    label: str,
    choice: _Choice,
    n_draws: int,
    confidence: float,
    rng: np.random.Generator,
) -> Selectivity:
    """The choice on other texts than those by which it was made; p-values not yet corrected."""
    values = half.values[:, choice.statistic, choice.column].astype(np.float64)
    kinds = half.is_supporting
    pairs = _count_pairs(values[:, None], half.prompts, kinds)
    low, high = auc_interval(pairs.won[:, 0], pairs.n_pairs, confidence)
    p_value = _p_value(values, half, n_draws, rng)
    return Selectivity(
        label=label,
        statistic=STATISTICS[choice.statistic],
        auc=float(pairs.auc()[0]),
        ci_low=low,
        ci_high=high,
        auc_overall=auc(values[~kinds], values[kinds]),
        auc_selection=choice.auc,
        p_value=p_value,
        p_adjusted=p_value,
        n_supporting=int(kinds.sum()),
        n_other=int((~kinds).sum()),
        n_prompts=len(pairs.n_pairs),
    )


def _p_value(
    values: NDArray[np.float64], half: _Half, n_draws: int, rng: np.random.Generator
) -> float:
    """Two-sided; with few draws first, which are enough where the p-value is not small.

    A p-value that is small at first is replaced by that of new draws. It is at most any level only
    if the first one is (above `_WORTH_MORE_DRAWS`) or the second one is (below): valid at all.
    """
    p_value = 1.0
    for n in (min(_FIRST_DRAWS, n_draws), n_draws):
        p_value = permutation_p_value(
            values, half.is_supporting, half.prompts, n_draws=n, rng=rng, alternative="two-sided"
        )
        if n == n_draws or p_value > _WORTH_MORE_DRAWS:
            break
    return p_value


def _corrected(found: list[Selectivity], n_components: int) -> list[Selectivity]:
    p_values = np.ones(n_components)
    p_values[: len(found)] = [one.p_value for one in found]
    adjusted = benjamini_hochberg(p_values)
    return [replace(one, p_adjusted=float(p)) for one, p in zip(found, adjusted, strict=False)]


def _count_pairs(
    values: NDArray[np.floating], prompts: NDArray[np.int64], is_supporting: NDArray[np.bool_]
) -> _Pairs:
    """The pairs of a supporting and another text of one prompt, for every column of `values
    (n_texts, n_columns)`: the Mann-Whitney statistic of each prompt."""
    from scipy.stats import rankdata

    won, n_pairs = [], []
    order = np.argsort(prompts, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(prompts[order])) + 1):
        kinds = is_supporting[members]
        n = int(kinds.sum())
        if 0 < n < len(members):
            ranks = rankdata(values[members], axis=0)[kinds].sum(axis=0)
            won.append(ranks - n * (n + 1) / 2)
            n_pairs.append(float(n * (len(members) - n)))
    return _Pairs(np.array(won, dtype=np.float64).reshape(-1, values.shape[1]), np.array(n_pairs))


def auc_interval(
    won: NDArray[np.float64], n_pairs: NDArray[np.float64], confidence: float = 0.95
) -> Interval:
    """An interval for the AUC within prompts, from the pairs won and the pairs of each prompt.

    Texts of one prompt are not independent, prompts are: the AUC is the ratio of two sums over
    prompts, with the variance of a ratio estimator (Cochran 1977, section 6.3) and Student's t
    with as many degrees of freedom as prompts. Two half prompts of prior, one won and one lost,
    enter the variance only, so that perfect separation has no width of 0: with 6 prompts won
    throughout, the 95% interval begins at 0.81. No prompt gives [0, 1].
    """
    from scipy.stats import t

    n_prompts = len(n_pairs)
    if n_prompts == 0:
        return Interval(0.0, 1.0)
    half = float(n_pairs.mean()) / 2
    estimate = float(won.sum() / n_pairs.sum())
    all_won, all_pairs = np.append(won, [half, 0.0]), np.append(n_pairs, [half, half])
    squares = float(((all_won - estimate * all_pairs) ** 2).sum())
    error = np.sqrt((n_prompts + 2) / (n_prompts + 1) * squares) / all_pairs.sum()
    reach = float(t.isf((1 - confidence) / 2, n_prompts) * error)
    return Interval(max(0.0, estimate - reach), min(1.0, estimate + reach))
