"""Which texts of a run the models read again, and what is compared on them.

A finding is about its fresh texts, of which those that its judges scored are read; a text cluster
is about discovery texts. Reading all would cost as much as the audit, so that both get a share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whatchanged.judge import hits_from_scores
from whatchanged.records import NOISE
from whatchanged.verdicts import final_scores

READ_COLUMNS = ("text_key", "prompt_key", "prompt", "side", "split", "label", "token_ids")

ComparisonKind: TypeAlias = Literal["finding", "cluster", "run"]
Contrast: TypeAlias = Literal["texts", "sides"]

_FRESH_SHARE = 1 / 2
_FEWEST_TEXTS = 20
_QUOTED = ("supporting", "contradicting")


@dataclass(frozen=True, eq=False)
class TextContrast:
    """Two kinds of texts to tell apart: `rows` numbers texts of the reading, `is_supporting` says
    which are of the first kind.

    `contrast` "texts": those that show the finding (or lie in the cluster) against the others;
    "sides": those of the intervention against those of the base. `name` is the finding's id or the
    cluster's, empty for the whole run.
    """

    kind: ComparisonKind
    name: str
    contrast: Contrast
    rows: NDArray[np.int64]
    is_supporting: NDArray[np.bool_]

    def stated(self) -> tuple[str, str, str, bytes, bytes]:
        """All of it, for a key."""
        return (
            self.kind, self.name, self.contrast,
            self.rows.astype("<i8").tobytes(), self.is_supporting.tobytes(),
        )  # fmt: skip


def choose_texts(
    texts: pd.DataFrame,
    findings: Sequence[Mapping[str, Any]],
    verdicts: pd.DataFrame,
    compared: Sequence[int],
    *,
    max_texts: int,
    seed: int,
) -> pd.DataFrame:
    """Up to `max_texts` texts of a run (`READ_COLUMNS`), in the order of the run.

    Half go to the judged fresh texts of confirmed findings, in equal parts, the quoted ones first,
    then as many that show the finding as others; the rest to discovery texts, one of a `compared`
    cluster (by label) for each of another, in equal parts over clusters and sides. A part that one
    kind cannot fill goes to the other. A text without tokens is left out, and so is a prompt on
    which every text of a side failed: that side's model cannot read it.
    """
    failed = texts["finish"] == "failed"
    is_hopeless = failed.groupby([texts["prompt_key"], texts["side"]]).transform("all")
    hopeless = texts.loc[is_hopeless, "prompt_key"]
    readable = texts[~texts["prompt_key"].isin(hopeless) & (texts["token_ids"].map(len) > 0)]
    readable = readable[readable["finish"] != "failed"].drop_duplicates("text_key")
    rng = np.random.default_rng(seed)
    drawn = readable.assign(draw=rng.permutation(len(readable)))
    fresh = _rank_fresh(drawn, findings, verdicts)
    seen = _rank_discovery(drawn, compared)
    n_seen = min(len(seen), max(max_texts - len(fresh), max_texts - int(max_texts * _FRESH_SHARE)))
    wanted = {*fresh[: max_texts - n_seen], *seen[:n_seen]}
    return readable.loc[readable["text_key"].isin(wanted), list(READ_COLUMNS)].reset_index(
        drop=True
    )


def find_contrasts(
    reading: pd.DataFrame,
    findings: Sequence[Mapping[str, Any]],
    verdicts: pd.DataFrame,
    cluster_ids: Mapping[int, str],
) -> list[TextContrast]:
    """What can be compared on the texts that were read: every confirmed finding, every cluster in
    `cluster_ids` (by label), and the whole run. A contrast with one kind of texts only is left out.
    """
    is_intervention = (reading["side"] == "intervention").to_numpy()
    rows = {key: row for row, key in enumerate(reading["text_key"])}
    found = []
    scored = final_scores(verdicts).dropna()
    for finding in _confirmed(findings):
        own = scored[(scored["hypothesis_id"] == finding["id"]) & scored["text_key"].isin(rows)]
        chosen = own["text_key"].map(rows).to_numpy(dtype=np.int64)
        name, shows = str(finding["id"]), hits_from_scores(own["score"].to_numpy(float))
        found += [
            TextContrast("finding", name, "texts", chosen, shows),
            TextContrast("finding", name, "sides", chosen, is_intervention[chosen]),
        ]
    labels = reading["label"].to_numpy()
    discovery = np.flatnonzero((reading["split"] == "discovery").to_numpy() & (labels != NOISE))
    for label, name in cluster_ids.items():
        inside = labels[discovery] == label
        members = discovery[inside]
        found += [
            TextContrast("cluster", name, "texts", discovery, inside),
            TextContrast("cluster", name, "sides", members, is_intervention[members]),
        ]
    found.append(TextContrast("run", "", "sides", np.arange(len(reading)), is_intervention))
    return [one for one in found if one.is_supporting.any() and not one.is_supporting.all()]


def _confirmed(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [finding for finding in findings if finding["status"] == "confirmed"]


def _rank_fresh(
    drawn: pd.DataFrame, findings: Sequence[Mapping[str, Any]], verdicts: pd.DataFrame
) -> list[str]:
    """The keys of judged texts, best first: the findings in turn, each its quoted texts first, then
    one that shows it and one that does not in turn."""
    scored = final_scores(verdicts).dropna().merge(drawn[["text_key", "draw"]], on="text_key")
    ranked = []
    for number, finding in enumerate(_confirmed(findings)):
        own = scored[scored["hypothesis_id"] == finding["id"]].copy()
        quoted = [key for kind in _QUOTED for key in finding.get(kind) or ()]
        own["is_plain"] = ~own["text_key"].isin(quoted)
        own["shows"] = hits_from_scores(own["score"].to_numpy(float))
        own = own.sort_values(["is_plain", "draw"])
        own["turn"] = own.groupby(["is_plain", "shows"]).cumcount()
        own = own.sort_values(["is_plain", "turn", "shows"], ascending=[True, True, False])
        ranked.append(own.assign(rank=np.arange(len(own)), finding=number))
    if not ranked:
        return []
    order = pd.concat(ranked).sort_values(["rank", "finding"])
    return list(dict.fromkeys(order["text_key"]))


def _rank_discovery(drawn: pd.DataFrame, compared: Sequence[int]) -> list[str]:
    """The keys of clustered texts: compared and other clusters in turn, and among those clusters
    and sides in turn."""
    seen = drawn[(drawn["split"] == "discovery") & (drawn["label"] != NOISE)].sort_values("draw")
    seen = seen.assign(
        turn=seen.groupby(["label", "side"]).cumcount(), other=~seen["label"].isin(compared)
    ).sort_values(["turn", "draw"])
    place = seen.groupby("other").cumcount()
    return list(seen.assign(place=place).sort_values(["place", "other"])["text_key"])


def choose_clusters(clusters: pd.DataFrame, n: int) -> dict[int, str]:
    """The `n` text clusters of the last round whose shares differ most between the sides: label
    and id. One of fewer than 20 texts is not chosen: a handful is told apart by nothing."""
    last = clusters[(clusters["level"] == "text") & (clusters["round"] == clusters["round"].max())]
    last = last[last["n_base"] + last["n_intervention"] >= _FEWEST_TEXTS]
    order = np.argsort(-last["difference"].abs().to_numpy(), kind="stable")[:n]
    chosen = last.iloc[np.sort(order)]
    return dict(zip(chosen["label"].astype(int), chosen["cluster"].astype(str), strict=True))


def pick_balanced(
    contrast: TextContrast, prompt_keys: Sequence[str], n: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Up to `n` texts of a contrast, of either kind in turn, from prompts that have both: their
    rows in ascending order, and which are supporting. `prompt_keys` are of all texts read."""
    table = pd.DataFrame(
        {
            "row": contrast.rows,
            "prompt": [prompt_keys[row] for row in contrast.rows],
            "shows": contrast.is_supporting,
        }
    )
    mixed = table.groupby("prompt")["shows"].transform("nunique") == 2
    drawn = table[mixed].sample(frac=1, random_state=seed)
    turn = drawn.groupby("shows").cumcount()
    chosen = drawn.assign(turn=turn).sort_values("turn", kind="stable")[:n].sort_values("row")
    return chosen["row"].to_numpy(dtype=np.int64), chosen["shows"].to_numpy(dtype=bool)
