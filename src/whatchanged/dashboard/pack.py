"""The web pack: a finished run as named parts that a page loads one by one.

Names are `manifest`, `verdict`, `run`, `judges`, `clusters`, `prompt_keys`, and in numbered series
`hypothesis/0`, `texts/0`, `keys/0`, `segments/0`, `points/0`, `prompts/0`. What a later stage added
to a run comes as well where it is there: `activations` and `component/0`. `manifest.sections` gives
for each such kind null, or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from whatchanged.dashboard.activation_parts import (
    NOT_COLLECTED,
    STAGE,
    ActivationParts,
    Collected,
    read_collected,
)
from whatchanged.dashboard.columns import encode_part
from whatchanged.dashboard.judged_parts import Verdicts, encode_hypothesis, encode_judges
from whatchanged.dashboard.material_parts import (
    POINTS_PER_PART,
    PROMPTS_PER_PART,
    PromptTable,
    encode_clusters,
    encode_points,
    encode_segment_cluster,
    group_segments,
    place_points,
)
from whatchanged.dashboard.parts import PACK_VERSION, Parts, encode_about
from whatchanged.dashboard.rows import (
    EVIDENCE_FIELDS,
    Rows,
    count_buckets,
    keep_words,
    order_texts,
)
from whatchanged.dashboard.text_parts import Judgements, Split, encode_key_bucket, encode_shard
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.pages.document import Line
from whatchanged.pages.headline import explain_nothing, name_models, write_headline
from whatchanged.report import RunTables

_NO_SAES = "They are compared in a run of their own: whatchanged compare-saes CONFIG."
_COMPARISON = "saes/saes.parquet"


class PackedRun(RunTables, Protocol):
    """A finished run as the pack reads it: `whatchanged.load` gives one."""

    @property
    def divergence(self) -> pd.DataFrame: ...
    @property
    def pairs(self) -> pd.DataFrame: ...


class Pack(Parts):
    """A run's parts, each made when it is asked for; the same run gives the same bytes.

    `name` is the run's, `created_utc` when it was finished. `load_pieces` gives the function that
    cuts texts at their tokens, or the reason why there is none, `load_activations` what was
    collected inside the models, or why nothing was; both are called once, late. With
    `texts_per_cluster`, only the words of the quoted texts, of the components' examples and of that
    many texts per cluster are in the pack; every number stays that of the whole run.
    """

    def __init__(
        self,
        run: PackedRun,
        *,
        name: str,
        created_utc: str | None = None,
        load_pieces: Callable[[], Split | str] = lambda: "it was not asked for",
        load_activations: Callable[[], Collected | str] = lambda: NOT_COLLECTED,
        texts_per_cluster: int | None = None,
    ) -> None:
        self._run, self._name, self._created_utc = run, name, created_utc
        self._load_pieces, self._per_cluster = load_pieces, texts_per_cluster
        self._load_activations = load_activations

    @cached_property
    def rows(self) -> Rows:
        """Where every text stands."""
        return order_texts(self._run.texts, self._run.findings)

    @cached_property
    def _kept(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        kept = keep_words(self.rows, self._per_cluster)
        if self._per_cluster is not None and isinstance(self._activations, ActivationParts):
            kept[self._activations.example_rows()] = True
        return kept

    @cached_property
    def _writers(self) -> dict[str, Callable[[], bytes]]:
        run, rows = self._run, self.rows
        writers: dict[str, Callable[[], bytes]] = {
            "verdict": self._verdict,
            "run": lambda: encode_about(run),
            "judges": lambda: encode_judges(self._verdicts, run.config, run.summary),
            "clusters": lambda: encode_clusters(
                run.clusters, rows, self._segment_labels, run.findings
            ),
            "prompt_keys": lambda: self._prompts.encode_keys(),
        }
        series: dict[str, tuple[int, Callable[[int], bytes]]] = {
            "hypothesis": (len(run.findings), self._hypothesis),
            "texts": (rows.n_shards, self._shard),
            "keys": (count_buckets(len(rows.texts)), partial(encode_key_bucket, rows)),
            "segments": (len(self._segment_labels), self._segment_cluster),
            "points": (self._n_point_parts, lambda part: encode_points(self._points, part)),
            "prompts": (self._prompts.n_parts, lambda part: self._prompts.encode(part)),
        }
        if isinstance(found := self._activations, ActivationParts):
            writers[STAGE] = found.encode
            series["component"] = (
                len(found.units), lambda part: found.encode_unit(part, self._split)
            )  # fmt: skip
        for kind, (n_parts, write) in series.items():
            writers |= {f"{kind}/{i}": partial(write, i) for i in range(n_parts)}
        return writers

    def _manifest(self) -> bytes:
        run, rows = self._run, self.rows
        base, intervention = name_models(run.config)
        pieces, inside = self._pieces, self._activations
        values = {
            "version": PACK_VERSION,
            "run": self._name,
            "created_utc": self._created_utc,
            "models": [base, intervention],
            "n_texts": len(rows.texts),
            "n_kept": int(self._kept.sum()),
            "shards": [int(start) for start in rows.starts],
            "n_key_buckets": count_buckets(len(rows.texts)),
            "n_findings": len(run.findings),
            "n_points": len(self._points["row"]),
            "n_point_parts": self._n_point_parts,
            "n_prompts": len(self._prompts.table),
            "n_prompt_parts": self._prompts.n_parts,
            "prompts_per_part": PROMPTS_PER_PART,
            "has_pairs": len(run.pairs) > 0,
            "no_pieces": pieces if isinstance(pieces, str) else None,
            "sections": {STAGE: inside if isinstance(inside, str) else None, "saes": _NO_SAES},
        }
        return encode_part(values, {})

    def _verdict(self) -> bytes:
        """The findings without their texts, and the report's first lines."""
        run, headline = self._run, write_headline(self._run)
        nothing = explain_nothing(run)
        values = {
            "headline": headline.verdict,
            "lead": _spans(headline.lead),
            "null": _spans(headline.null),
            "warnings": [_spans(warning) for warning in headline.warnings],
            "nothing": None if nothing is None else _spans(nothing),
            "findings": [_without_texts(finding) for finding in run.findings],
            "null_findings": [_without_texts(finding) for finding in run.null_findings or ()],
            "summary": dict(run.summary),
            "validate": dict(run.config.get("validate") or {}),
        }
        return encode_part(values, {})

    def _hypothesis(self, i: int) -> bytes:
        return encode_hypothesis(self._run.findings[i], self._verdicts, self.rows)

    def _shard(self, i: int) -> bytes:
        return encode_shard(
            self.rows,
            i,
            prompts=self._prompts.numbers,
            judgements=self._judgements,
            split=self._split,
            kept=self._kept,
        )

    def _segment_cluster(self, i: int) -> bytes:
        return encode_segment_cluster(self._segments[self._segment_labels[i]], self.rows)

    @cached_property
    def _verdicts(self) -> Verdicts:
        return Verdicts(self._run.verdicts, self._run.findings, self.rows, self._run.config)

    @cached_property
    def _judgements(self) -> Judgements:
        return self._verdicts.judgements()

    @cached_property
    def _segments(self) -> Mapping[int, pd.DataFrame]:
        return group_segments(self._run.segments, self.rows)

    @property
    def _segment_labels(self) -> list[int]:
        return list(self._segments)

    @cached_property
    def _points(self) -> Mapping[str, np.ndarray[Any, Any]]:
        return place_points(self._run.map, self.rows)

    @property
    def _n_point_parts(self) -> int:
        return -(-len(self._points["row"]) // POINTS_PER_PART)

    @cached_property
    def _prompts(self) -> PromptTable:
        return PromptTable(self._run.prompts, self._run.divergence, self._run.pairs, self.rows)

    @cached_property
    def _pieces(self) -> Split | str:
        return self._load_pieces()

    @property
    def _split(self) -> Split | None:
        return None if isinstance(self._pieces, str) else self._pieces

    @cached_property
    def _activations(self) -> ActivationParts | str:
        found = self._load_activations()
        if isinstance(found, str):
            return found
        return ActivationParts(found, self.rows, [str(one["id"]) for one in self._run.findings])


def pack_run(run: Any, *, texts_per_cluster: int | None = None) -> Parts:
    """The pack of a run that `whatchanged.load` gave: an audit, or a comparison of SAEs."""
    name, created_utc = run.path.resolve().name, run.manifest.get("created_utc")
    if _COMPARISON not in run.manifest["files"]:
        return _pack_audit(run, name, created_utc, texts_per_cluster)
    from whatchanged.dashboard.sae_parts import SaePack

    return SaePack(run, name=name, created_utc=created_utc)


def _pack_audit(
    run: Any, name: str, created_utc: str | None, texts_per_cluster: int | None
) -> Pack:
    """The pack of an audit; tokens are cut with the base's tokenizer."""

    def load_pieces() -> Split | str:
        from whatchanged.models.token_pieces import load_token_pieces

        base = ModelConfig.model_validate(run.config["base"])
        if base.is_recorded:
            return "the base is recorded texts, without a tokenizer to cut them"
        if base.is_remote(DecodeConfig.model_validate(run.config.get("decode", {}))):
            return "the base is behind an API, which shows no tokens"
        pieces = load_token_pieces(base)
        return pieces if isinstance(pieces, str) else pieces.split

    return Pack(
        run,
        name=name,
        created_utc=created_utc,
        load_pieces=load_pieces,
        load_activations=lambda: read_collected(run),
        texts_per_cluster=texts_per_cluster,
    )


def _without_texts(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in finding.items() if name not in EVIDENCE_FIELDS}


def _spans(line: Line) -> list[list[str]]:
    return [[span.text, span.style] for span in line]
