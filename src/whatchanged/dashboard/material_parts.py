"""The parts about what was sampled: the clusters, the map, and the prompts with their pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.rows import Rows, key_bytes
from whatchanged.dashboard.text_parts import SIDES

POINTS_PER_PART = 100_000
PROMPTS_PER_PART = 500
MAX_OCCURRENCES = 20_000
NO_CLUSTER = 65_535

_CLUSTER_FIGURES = (
    "n_base", "n_intervention", "share_base", "share_intervention", "difference", "ci_low",
    "ci_high", "cohesion", "silhouette", "lineage_share",
)  # fmt: skip


def group_segments(segments: pd.DataFrame, rows: Rows) -> dict[int, pd.DataFrame]:
    """The segments of each cluster by label, ascending, with the `row` of the text that holds each;
    those nearest to the centre first. Noise (-1) comes first where there is any."""
    known = segments.assign(row=segments["text_key"].map(rows.by_key))
    known = known[known["row"].notna()].astype({"row": np.int64})
    known = known.sort_values(["margin", "row", "position"])
    return {int(str(label)): group for label, group in known.groupby("label")}


def encode_clusters(
    clusters: pd.DataFrame, rows: Rows, labels: Sequence[int],
    findings: Sequence[Mapping[str, Any]],
) -> bytes:  # fmt: skip
    """Every cluster of the last round, with its history over the rounds.

    A text cluster has the rows of its texts, a segment cluster the number of its part.
    """
    last = clusters["round"].max() if len(clusters) else 0
    parts = {label: i for i, label in enumerate(labels)}
    named: dict[str, list[str]] = {}
    for finding in findings:
        if (name := finding.get("cluster")) is not None:
            named.setdefault(str(name), []).append(str(finding["id"]))
    history = {
        place: _own_past(group.sort_values("round"))
        for place, group in clusters.groupby(["level", "label"], sort=False)
    }
    found = []
    for row in clusters[clusters["round"] == last].to_dict("records"):
        level, label = str(row["level"]), int(row["label"])
        past = history[level, label]
        found.append(
            {
                "id": str(row["cluster"]),
                "level": level,
                "label": label,
                "exemplar": _known(row.get("exemplar")),
                **{name: _known(row.get(name)) for name in _CLUSTER_FIGURES},
                "rows": list(rows.clusters.get(label, (0, 0))) if level == "text" else None,
                "part": parts.get(label) if level == "segment" else None,
                "findings": named.get(str(row["cluster"]), []),
                "history": {
                    name: [_known(value) for value in past[name]]
                    for name in ("round", "difference", "ci_low", "ci_high")
                },
                "ids": [str(name) for name in past["cluster"]],
            }
        )
    return encode_part({"round": int(last), "clusters": found}, {})


def _own_past(rounds: pd.DataFrame) -> pd.DataFrame:
    """The rounds of one label since it began to go by that label: where a cluster has ended, its
    number is free for another."""
    began = np.flatnonzero((rounds["lineage"] != rounds["label"]).to_numpy())
    return rounds.iloc[began[-1] :] if len(began) else rounds


def encode_segment_cluster(own: pd.DataFrame, rows: Rows) -> bytes:
    """The sentences of one segment cluster (a group of `group_segments`), most frequent first, and
    the texts that hold them."""
    side = (rows.texts["side"].to_numpy()[own["row"].to_numpy()] == SIDES[1]).astype(bool)
    codes, keys = pd.factorize(own["segment_key"])
    n = np.bincount(codes, minlength=len(keys))
    n_intervention = np.bincount(codes, weights=side, minlength=len(keys)).astype(np.int64)
    order = np.argsort(-n, kind="stable")
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys))
    first = own.drop_duplicates("segment_key")["segment"].to_numpy(dtype=object)
    shown = own.iloc[:MAX_OCCURRENCES]
    columns = {
        "n_base": (n - n_intervention)[order].astype(np.uint32),
        "n_intervention": n_intervention[order].astype(np.uint32),
        "at_sentence": rank[codes[: len(shown)]].astype(np.uint32),
        "at_row": shown["row"].to_numpy(dtype=np.uint32),
    }
    values = {"sentences": list(first[order]), "n_left_out": len(own) - len(shown)}
    return encode_part(values, columns)


def place_points(placed: pd.DataFrame, rows: Rows) -> dict[str, NDArray[Any]]:
    """The map as columns, all points; x and y fill the range of 16 bits, y pointing up."""
    row = placed["text_key"].map(rows.by_key)
    xy = placed[["x", "y"]].to_numpy(dtype=np.float64)
    keep = row.notna().to_numpy() & np.isfinite(xy).all(axis=1)
    row, xy = row[keep].to_numpy(dtype=np.int64), xy[keep]
    texts = rows.texts.iloc[row]
    n_tokens = np.maximum(texts["n_tokens"].to_numpy(dtype=float), 1)
    nats = (texts["logprob_intervention"] - texts["logprob_base"]).to_numpy(dtype=float) / n_tokens
    label = texts["label"].to_numpy(dtype=np.int64)
    # One scale for both axes: a map that is stretched lies about distances.
    low = xy.min(axis=0, initial=np.inf)
    span = float((xy - low).max(initial=0.0)) or 1.0
    unit = np.round((xy - low) / span * 65_535)
    return {
        "x": unit[:, 0].astype(np.uint16),
        "y": unit[:, 1].astype(np.uint16),
        "row": row.astype(np.uint32),
        "side": (texts["side"] == SIDES[1]).to_numpy(dtype=np.uint8),
        "label": np.where(label < 0, NO_CLUSTER, label).astype(np.uint16),
        "round": np.minimum(texts["round"].to_numpy(), 255).astype(np.uint8),
        "nats": np.round(np.clip(np.nan_to_num(nats), -32, 32) * 1000).astype(np.int16),
    }


def encode_points(points: Mapping[str, NDArray[Any]], part: int) -> bytes:
    """One slice of the map's points."""
    inside = slice(part * POINTS_PER_PART, (part + 1) * POINTS_PER_PART)
    return encode_part({}, {name: column[inside] for name, column in points.items()})


class PromptTable:
    """The prompts in order of their divergence, each with the rows of its texts and its pairs."""

    def __init__(self, prompts: pd.DataFrame, divergence: pd.DataFrame, pairs: pd.DataFrame,
                 rows: Rows) -> None:  # fmt: skip
        merged = prompts.drop_duplicates("prompt_key")
        if len(divergence):
            merged = merged.merge(
                divergence.drop_duplicates("prompt_key"), on="prompt_key", how="left"
            )
        by = [name for name in ("parting", "kl_base") if name in merged]
        merged = merged.sort_values(
            [*by, "prompt_key"], ascending=[False] * len(by) + [True], na_position="last"
        )
        self.table = merged.reset_index(drop=True)
        self.numbers = {str(key): i for i, key in enumerate(self.table["prompt_key"])}
        number = rows.texts["prompt_key"].map(self.numbers)
        self._rows = _grouped(number, np.arange(len(rows.texts)), len(self.table))
        self._sides = (rows.texts["side"] == SIDES[1]).to_numpy(dtype=np.uint8)
        self._pairs = _pair_rows(pairs, self.numbers, rows)

    @property
    def n_parts(self) -> int:
        return -(-len(self.table) // PROMPTS_PER_PART)

    def encode_keys(self) -> bytes:
        """The keys of all prompts, in their order."""
        return encode_part({}, {"key": key_bytes(list(self.table["prompt_key"]))})

    def encode(self, part: int) -> bytes:
        """One slice of the prompts."""
        start = part * PROMPTS_PER_PART
        own = self.table.iloc[start : start + PROMPTS_PER_PART]
        texts = self._rows[start : start + PROMPTS_PER_PART]
        pairs = self._pairs[
            (self._pairs["prompt"] >= start) & (self._pairs["prompt"] < start + len(own))
        ]
        row = np.concatenate([*texts, np.zeros(0, dtype=np.int64)])
        columns = {
            "text_start": np.cumsum([0, *map(len, texts)]).astype(np.uint32),
            "text_row": row.astype(np.uint32),
            "text_side": self._sides[row.astype(np.int64)],
            "pair_prompt": (pairs["prompt"] - start).to_numpy(dtype=np.uint32),
            "pair_base": pairs["base"].to_numpy(dtype=np.uint32),
            "pair_intervention": pairs["intervention"].to_numpy(dtype=np.uint32),
            "pair_first": pairs["first"].to_numpy(dtype=np.int32),
        }
        names = [name for name in own if name != "prompt_key"]
        records = own[names].astype(object).where(own[names].notna(), None).to_dict("records")
        return encode_part({"start": start, "prompts": records}, columns)


def _pair_rows(pairs: pd.DataFrame, numbers: Mapping[str, int], rows: Rows) -> pd.DataFrame:
    """The coupled pairs as numbers: prompt, rows of both texts, first token that differs (-1)."""
    if not len(pairs):
        return pd.DataFrame({n: pd.Series(dtype="int64") for n in
                             ("prompt", "base", "intervention", "first")})  # fmt: skip
    found = pd.DataFrame(
        {
            "prompt": pairs["prompt_key"].map(numbers),
            "base": pairs["text_key_base"].map(rows.by_key),
            "intervention": pairs["text_key_intervention"].map(rows.by_key),
            "first": pairs["first_difference"],
        }
    )
    return found.dropna().astype(np.int64).sort_values(["prompt", "base"], kind="stable")


def _grouped(
    group: pd.Series[Any], values: NDArray[np.int64], n_groups: int
) -> list[NDArray[np.int64]]:
    known = group.notna().to_numpy()
    places, values = group[known].to_numpy(dtype=np.int64), values[known]
    order = np.argsort(places, kind="stable")
    cuts = np.searchsorted(places[order], np.arange(n_groups + 1))
    return [values[order[cuts[i] : cuts[i + 1]]] for i in range(n_groups)]


def _known(value: Any) -> Any:
    """The value, or None where a table holds nothing."""
    return None if value is None or value is pd.NA or value != value else value
