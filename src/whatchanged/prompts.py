"""The prompts of a bank, grouped, and split by prompt before anything is decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from whatchanged.errors import InputError
from whatchanged.keys import content_key
from whatchanged.prompt_bank import PromptRow as PromptRow
from whatchanged.prompt_bank import read_prompts as read_prompts
from whatchanged.records import Prompt, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPTS_PER_GROUP = 10
MAX_GROUPS = 30


def split_prompts(
    rows: Sequence[PromptRow], groups: Sequence[str], *, validation_share: float, seed: int
) -> tuple[Prompt, ...]:
    """Every row with its key, its group and its split, in the order given.

    The split is drawn within each group: `validation_share` of its prompts, rounded, but at least
    one on each side where the group has two or more. A prompt's split depends on the seed and on
    its own group, never on file order. The prompt of a group of one goes to discovery; where all
    groups are of one, the split is drawn over all prompts.

    Raises InputError where no prompt is left for validation or for discovery.
    """
    keyed = [
        (content_key("prompt/1", row.prompt), row.prompt, group)
        for row, group in zip(rows, groups, strict=True)
    ]
    members: dict[str, list[str]] = defaultdict(list)
    for key, _, group in keyed:
        members[group].append(key)
    validation: set[str] = set()
    for group, keys in members.items():
        ranked = sorted(keys, key=lambda key: content_key("split/1", seed, group, key))
        n_validation = round(len(ranked) * validation_share)
        n_validation = min(max(n_validation, 1), len(ranked) - 1)
        validation |= set(ranked[:n_validation])
    if not validation and len(keyed) > 1:
        ranked = sorted((key for key, _, _ in keyed), key=lambda k: content_key("split/1", seed, k))
        wanted = round(len(ranked) * validation_share)
        validation = set(ranked[: min(max(wanted, 1), len(ranked) - 1)])
    if not validation:
        raise InputError(
            f"expected at least 2 distinct prompts, found {len(keyed)}: "
            "findings are tested on prompts that discovery never saw, so add prompts"
        )
    return tuple(
        Prompt(key, prompt, group, _split_name(key in validation)) for key, prompt, group in keyed
    )


def _split_name(is_validation: bool) -> Split:
    return "validation" if is_validation else "discovery"


def group_prompts(
    rows: Sequence[PromptRow], embed: Callable[[Sequence[str]], NDArray[np.float32]]
) -> tuple[str, ...]:
    """A group per row: the user's own, or, where no row names one, clusters of similar prompts.

    A difference may live in one kind of prompt only, so a bank without groups gets some: k-means
    on the prompts' embeddings, about `PROMPTS_PER_GROUP` prompts each, every group named by its
    most central prompt. Prompts are no outcome, so this leaks nothing into the test. A bank of
    fewer than two groups' worth is one group. Where only some rows name a group, the others form
    the group "(no group)".
    """
    if any(row.group is not None for row in rows):
        return tuple(row.group if row.group is not None else "(no group)" for row in rows)
    n_groups = min(len(rows) // PROMPTS_PER_GROUP, MAX_GROUPS)
    if n_groups < 2:
        return ("all prompts",) * len(rows)
    import numpy as np

    from whatchanged.cluster import fit_clusters

    vectors = embed([row.prompt for row in rows])
    fit = fit_clusters(
        vectors,
        weights=None,
        is_intervention=None,
        method="minibatch_kmeans",
        n_clusters=n_groups,
        min_cluster_size=2,
        seed=0,
    )
    names = {}
    for label in set(fit.labels.tolist()):
        members = np.flatnonzero(fit.labels == label)
        central = members[np.argmax(vectors[members] @ fit.centroids[label])]
        names[label] = f"like “{_shortened(rows[central].prompt)}”"
    return tuple(names[label] for label in fit.labels.tolist())


def _shortened(prompt: str, limit: int = 60) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def groups_in_both_splits(prompts: Sequence[Prompt]) -> dict[str, str]:
    """The group of each prompt key, for the groups that have prompts in both splits.

    A hypothesis about any other group could not be tested on unseen prompts. A bank of one group
    has none: its group is all prompts.
    """
    splits: dict[str, set[Split]] = defaultdict(set)
    for prompt in prompts:
        splits[prompt.group].add(prompt.split)
    if len(splits) == 1:
        return {}
    return {prompt.key: prompt.group for prompt in prompts if len(splits[prompt.group]) == 2}
