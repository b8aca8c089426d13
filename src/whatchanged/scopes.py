"""Which discovery texts are compared with which: everything, each prompt group, each cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.contrasts import discovery_threshold, log_odds_z
from whatchanged.models.protocols import Contrast
from whatchanged.paired import mcnemar_z
from whatchanged.records import NOISE

BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]

_N_EXEMPLARS = 8


def build_contrasts(
    texts: pd.DataFrame,
    segments: pd.DataFrame,
    groups: Mapping[str, str],
    *,
    min_texts: int = 20,
    max_clusters: int = 100,
    min_difference: float = 0.005,
    expected_false: float = 3.0,
    is_paired: bool = False,
) -> list[Contrast]:
    """The contrasts to propose from: all prompts, each prompt group, each differing cluster.

    `texts` and `segments` are the discovery rows (`TEXT_COLUMNS`, `SEGMENT_COLUMNS`); `groups` maps
    a prompt key to its group, and prompts without one belong to "all prompts" only. Failed texts
    are left out, and so are the texts by which one side has more than the other on a prompt. With
    `is_paired`, each sample of a prompt was decoded with the same noise on both sides; samples that
    failed on one are left out. Groups need `min_texts` per side. A cluster of segments comes with
    the scope in which its share of texts stands out most, the strongest `max_clusters` of those
    beyond what chance would show (`expected_false` over all clusters and scopes). No texts on a
    side give no contrasts.
    """
    paired = _match_samples(texts) if is_paired else _equal_counts(texts)
    base, intervention = _Side.of(paired, "base", groups), _Side.of(paired, "intervention", groups)
    if not base.texts:
        return []
    scopes = [None, *_usable_groups(base, min_texts)]
    whole = [
        Contrast(
            scope,
            None,
            _within(base, scope),
            _within(intervention, scope),
            is_paired=is_paired,
            weights=base.weights[_in_scope(base, scope)],
        )
        for scope in scopes
    ]
    clusters = _differing_clusters(
        paired, segments, base, intervention, scopes, is_paired, min_difference, expected_false
    )
    return [*whole, *(_cluster_contrast(found, whole) for found in clusters[:max_clusters])]


@dataclass(frozen=True, slots=True)
class _Side:
    """The texts of one side, ordered by prompt, with their row in the table, their group, and one
    divided by the number of texts of their prompt."""

    texts: tuple[str, ...]
    rows: IntArray
    groups: NDArray[np.object_]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, paired: pd.DataFrame, side: str, groups: Mapping[str, str]) -> _Side:
        rows = np.flatnonzero((paired["side"] == side).to_numpy())
        here = paired.iloc[rows]
        names = np.array([groups.get(key) for key in here["prompt_key"]], dtype=object)
        n_texts = here.groupby("prompt_key")["text_key"].transform("size")
        return cls(tuple(here["text"]), rows, names, 1 / n_texts.to_numpy(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A segment cluster, the place of its scope, its members per side and its exemplars."""

    label: int
    scope: int
    member_base: BoolArray
    member_intervention: BoolArray
    exemplars: tuple[str, ...]


def _match_samples(texts: pd.DataFrame) -> pd.DataFrame:
    """The texts whose counterpart, the same sample on the other side, did not fail either."""
    decoded = texts[texts["finish"] != "failed"].sort_values(["prompt_key", "sample"])
    n_sides = decoded.groupby(["prompt_key", "sample"])["side"].transform("size")
    return decoded[n_sides == 2].reset_index(drop=True)


def _equal_counts(texts: pd.DataFrame) -> pd.DataFrame:
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


def _within(side: _Side, scope: str | None) -> tuple[str, ...]:
    return tuple(side.texts[i] for i in np.flatnonzero(_in_scope(side, scope)))


def _differing_clusters(
    paired: pd.DataFrame,
    segments: pd.DataFrame,
    base: _Side,
    intervention: _Side,
    scopes: Sequence[str | None],
    is_paired: bool,
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
    z, effect, n_held = _share_differences(
        in_base, in_intervention, base, intervention, scopes, is_paired
    )
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
    is_paired: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64], IntArray]:
    """z-score, share difference and number of member texts, each `(n_clusters, n_scopes)`."""
    scope_b = np.stack([_in_scope(base, scope) for scope in scopes], axis=1).astype(np.float32)
    scope_i = np.stack([_in_scope(intervention, s) for s in scopes], axis=1).astype(np.float32)
    hits_b, hits_i = (
        in_base.astype(np.float32) @ scope_b,
        in_intervention.astype(np.float32) @ scope_i,
    )
    n_b, n_i = scope_b.sum(axis=0), scope_i.sum(axis=0)
    if is_paired:
        n_both = (in_base & in_intervention).astype(np.float32) @ scope_b
        z = mcnemar_z(hits_b - n_both, hits_i - n_both)
    else:
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
