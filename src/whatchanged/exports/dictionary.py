"""The data dictionary: every column of every table of a run, with its type, unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from whatchanged.escape import code_span, for_markdown
from whatchanged.store import codec

ColumnType: TypeAlias = Literal[
    "string", "integer", "number", "boolean", "list of strings", "list of integers",
    "list of numbers", "unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One column; `unit` is empty where the values have none."""

    column: str
    type: ColumnType
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One table: what a row is, and its columns in order."""

    row: str
    columns: tuple[Entry, ...]


_TEXTS = (
    Entry("text_key", "string", "", "Key of the text: 64 hex characters, the same in all tables."),
    Entry("prompt_key", "string", "", "Key of its prompt."),
    Entry("side", "string", "", "Which model wrote it: base or intervention."),
    Entry("split", "string", "", "discovery (used to find claims) or validation (fresh: to test)."),
    Entry("round", "integer", "", "Sampling round that asked for it, from 0; 0 for fresh texts."),
    Entry("prompt", "string", "", "The prompt as written."),
    Entry("text", "string", "", "The reply as written."),
    Entry("n_tokens", "integer", "tokens", "Length of the reply, without the token that ended it."),
    Entry("finish", "string", "", "Why the reply ended: stop, length (cut) or failed (no reply)."),
    Entry("label", "integer", "", "Its cluster among whole replies; -1 is noise, or a fresh text."),
    Entry("margin", "number", "ratio, 0 to 1", "Distance to the nearest cluster centre over that "
          "to the second nearest: 1 lies on the boundary. Missing for fresh texts."),
    Entry("logprob_base", "number", "nats", "Log-probability of the whole reply under the base, at "
          "the temperature of decoding; missing where it was not scored."),
    Entry("logprob_intervention", "number", "nats", "The same under the intervention."),
    Entry("token_ids", "list of integers", "", "The tokens as drawn, with the one that ended the "
          "reply where finish is stop."),
    Entry("differences", "list of numbers", "nats per token", "Log-probability of each token, base "
          "minus intervention; missing where it was not scored."),
    Entry("decoded_by", "string", "", "The engine with its version and arithmetic, or what an API "
          "says of the model that answered and which settings it did not take."),
)  # fmt: skip
_SEGMENTS = (
    Entry("text_key", "string", "", "The text that holds the sentence."),
    Entry("position", "integer", "", "Place of the sentence in its text, from 0."),
    Entry("segment_key", "string", "", "Key of the sentence: equal sentences have one key."),
    Entry("segment", "string", "", "The sentence."),
    Entry("label", "integer", "", "Its cluster among sentences; -1 is noise."),
    Entry("margin", "number", "ratio, 0 to 1", "As in texts, among the clusters of sentences."),
)
_PROMPTS = (
    Entry("prompt_key", "string", "", "Key of the prompt."),
    Entry("prompt", "string", "", "The prompt as written."),
    Entry("group", "string", "", "Its topic: the user's own, or an inferred one."),
    Entry("split", "string", "", "discovery or validation: no prompt serves both."),
)
_CLUSTERS = (
    Entry("level", "string", "", "What is clustered: text (whole replies) or segment (sentences)."),
    Entry("round", "integer", "", "Sampling round after which it was measured, from 0."),
    Entry("cluster", "string", "", "Id of the cluster: run, round, t or s for its level, label."),
    Entry("label", "integer", "", "Its number, as in texts or segments in the last round."),
    Entry("n_base", "integer", "texts", "Discovery texts of the base that it holds."),
    Entry("n_intervention", "integer", "texts", "Discovery texts of the intervention it holds."),
    Entry("share_base", "number", "share, 0 to 1", "Share of base texts in it, every prompt "
          "counted alike however often it was sampled."),
    Entry("share_intervention", "number", "share, 0 to 1", "The same for the intervention."),
    Entry("difference", "number", "share, -1 to 1", "share_intervention minus share_base: a lead, "
          "not a test, because sampling followed it."),
    Entry("ci_low", "number", "share, -1 to 1", "Lower end of the 95% interval of difference."),
    Entry("ci_high", "number", "share, -1 to 1", "Upper end of the 95% interval of difference."),
    Entry("cohesion", "number", "cosine, -1 to 1", "Mean cosine of its members to its centre."),
    Entry("silhouette", "number", "-1 to 1", "Mean silhouette of its members in a sample; missing "
          "where the sample held none."),
    Entry("lineage", "integer", "", "Label of its ancestor in the round before; -1 for none."),
    Entry("lineage_share", "number", "share, 0 to 1", "Share of its members that were its "
          "ancestor's."),
    Entry("origin", "string", "", "continued, split (from the ancestor) or new."),
    Entry("exemplar", "string", "", "The member nearest to its centre."),
)  # fmt: skip
_VERDICTS = (
    Entry("hypothesis_id", "string", "", "The claim that was judged: id in findings."),
    Entry("text_key", "string", "", "The fresh text that was judged."),
    Entry("tier", "string", "", "cheap or expensive."),
    Entry("judge", "string", "", "Identity of the judge: all that changes its answers."),
    Entry("score", "number", "0 to 1", "How well the text meets the criterion, 0.5 and more being "
          "a hit; missing where there is no answer."),
    Entry("outcome", "string", "", "answered, refused, cut_off, malformed or failed."),
    Entry("reason", "string", "", "What the judge gave as its reason, or why there is no answer."),
    Entry("cost_usd", "number", "US dollars", "What the reply cost, on the first of the texts that "
          "share it; missing for an unknown price."),
    Entry("is_audit", "boolean", "", "Whether the text was drawn at random for the expensive "
          "judge, to check the cheap one."),
)  # fmt: skip
_MAP = (
    Entry("text_key", "string", "", "The discovery text."),
    Entry("x", "number", "", "First principal component of the replies' embeddings."),
    Entry("y", "number", "", "Second principal component."),
)
_DIVERGENCE = (
    Entry("prompt_key", "string", "", "The prompt."),
    Entry("n_base", "integer", "texts", "Texts of the base that were scored under both models."),
    Entry("n_intervention", "integer", "texts", "The same for the intervention."),
    Entry("kl_base", "number", "nats per text", "Estimate of KL(base || intervention)."),
    Entry("kl_base_se", "number", "nats per text", "Its standard error."),
    Entry("kl_intervention", "number", "nats per text", "Estimate of KL(intervention || base)."),
    Entry("kl_intervention_se", "number", "nats per text", "Its standard error."),
    Entry("parting", "number", "probability, 0 to 1", "About how probable it is that the two "
          "models, coupled step by step, part somewhere along a text."),
    Entry("parting_se", "number", "probability, 0 to 1", "Its standard error."),
    Entry("shift", "number", "per text, 0 to 1", "By how much more, or less, often the "
          "intervention turns to one token, beyond what most prompts share, less its error."),
    Entry("shift_se", "number", "per text, 0 to 1", "Its standard error."),
    Entry("n_pairs", "integer", "pairs", "Coupled pairs of texts; 0 where sides were decoded "
          "independently."),
    Entry("n_differing", "integer", "pairs", "Of these, pairs whose texts differ."),
)  # fmt: skip
_PAIRS = (
    Entry("prompt_key", "string", "", "The prompt of both texts."),
    Entry("sample", "integer", "", "Number of the sample within its prompt, from 0."),
    Entry("text_key_base", "string", "", "The text of the base."),
    Entry("text_key_intervention", "string", "", "The text of the intervention: the same noise."),
    Entry("is_identical", "boolean", "", "Whether the two are the same, token by token."),
    Entry("first_difference", "integer", "tokens", "Place of the first token that differs, from "
          "0; -1 for none."),
    Entry("token_base", "integer", "", "The base's token there; -1 beyond its end, or for none."),
    Entry("token_intervention", "integer", "", "The intervention's token there; likewise."),
)  # fmt: skip
_FINDINGS = (
    Entry("id", "string", "", "Id of the claim."),
    Entry("statement", "string", "", "The claim for people. Shares in brackets are of discovery."),
    Entry("criterion", "string", "", "What a judge checks in one text; names no side."),
    Entry("direction", "string", "", "Whether the intervention is said to show more or less."),
    Entry("scope", "string", "", "The prompt group that it is about; missing for all prompts."),
    Entry("cluster", "string", "", "The cluster that has most of its sentences; missing: none."),
    Entry("status", "string", "", "confirmed, rejected or inconclusive, on fresh texts."),
    Entry("effect", "number", "share, -1 to 1", "share_intervention minus share_base."),
    Entry("ci_low", "number", "share, -1 to 1", "Lower end of the 95% interval of effect."),
    Entry("ci_high", "number", "share, -1 to 1", "Upper end of the 95% interval of effect."),
    Entry("share_base", "number", "share, 0 to 1", "Share of fresh base texts that meet it."),
    Entry("share_intervention", "number", "share, 0 to 1", "The same for the intervention."),
    Entry("auc", "number", "0 to 1", "Probability that a fresh intervention text scores higher "
          "than one of the base; 0.5 is no tendency."),
    Entry("p_value", "number", "0 to 1", "The larger p-value of the two tests of the claim."),
    Entry("p_adjusted", "number", "0 to 1", "Adjusted by Benjamini-Hochberg over all claims."),
    Entry("n_texts", "integer", "texts", "Fresh texts with a score, both sides together."),
    Entry("n_unscored", "integer", "texts", "Fresh texts that no judge answered."),
    Entry("incomplete", "boolean", "", "Whether no text, or too few of them, has a score."),
    Entry("judge_calls", "integer", "verdicts", "Verdicts of all judges on it."),
    Entry("cost_usd", "number", "US dollars", "What the replies behind them cost; missing for an "
          "unknown price."),
    Entry("supporting", "list of strings", "", "Keys of fresh texts that speak for it."),
    Entry("contradicting", "list of strings", "", "Keys of fresh texts that speak against it."),
    Entry("evidence_terms", "list of strings", "", "Words or sentences that it was built from."),
)  # fmt: skip

DICTIONARY: Mapping[str, TableEntry] = {
    "findings": TableEntry("a tested claim, strongest first", _FINDINGS),
    "null_findings": TableEntry(
        "a tested claim of the null control (base against base)", _FINDINGS
    ),
    "texts": TableEntry("a decoded text", _TEXTS),
    "segments": TableEntry("a sentence of a discovery text", _SEGMENTS),
    "prompts": TableEntry("a prompt of the bank", _PROMPTS),
    "clusters": TableEntry("a cluster after one sampling round", _CLUSTERS),
    "verdicts": TableEntry("a judge's answer on one text and claim", _VERDICTS),
    "map": TableEntry("a discovery text on the map", _MAP),
    "divergence": TableEntry("a prompt, with how far the models are apart on it", _DIVERGENCE),
    "pairs": TableEntry("two texts decoded with the same noise, one per side", _PAIRS),
}


@dataclass(frozen=True, slots=True)
class Described:
    """A table that is there: its name, number of rows, and its columns in the order they have."""

    name: str
    row: str
    n_rows: int
    columns: tuple[Entry, ...]


def describe_table(name: str, columns: Sequence[str], n_rows: int) -> Described:
    """The dictionary's part on one table. A table or column that it does not know is listed all
    the same, its meaning called unknown."""
    known = DICTIONARY.get(name, TableEntry("unknown to this version", ()))
    entries = {entry.column: entry for entry in known.columns}
    unknown = "Unknown to this version."
    found = (entries.get(one, Entry(one, "unknown", "", unknown)) for one in columns)
    return Described(name, known.row, n_rows, tuple(found))


def write_dictionary_json(tables: Sequence[Described]) -> bytes:
    """The dictionary for programs: table name to its row, number of rows and columns."""
    values = {
        table.name: {
            "row": table.row,
            "n_rows": table.n_rows,
            "columns": [asdict(entry) for entry in table.columns],
        }
        for table in tables
    }
    return codec.json_bytes(values, indent=1)


def write_dictionary_markdown(tables: Sequence[Described]) -> str:
    """The dictionary for people, with what differs between the three kinds of file."""
    blocks = ["# Data dictionary", _KINDS]
    for table in tables:
        head = "| column | type | unit | meaning |\n|---|---|---|---|"
        rows = "\n".join(
            f"| {code_span(e.column, in_table=True)} | {e.type} | {for_markdown(e.unit)} "
            f"| {for_markdown(e.meaning)} |"
            for e in table.columns
        )
        title = f"## {for_markdown(table.name)}"
        blocks += [title, f"{table.n_rows:,} rows; each is {table.row}.", f"{head}\n{rows}"]
    absent = [name for name in DICTIONARY if name not in {table.name for table in tables}]
    if absent:
        blocks.append(f"The run holds no {', no '.join(absent)}: it was made without that stage.")
    return "\n\n".join(blocks) + "\n"


_KINDS = (
    "Every table comes as Parquet, JSONL and CSV. Parquet is exact. JSONL and CSV hold the same "
    "values, but what is missing or not finite is null or an empty cell. For spreadsheets, a cell "
    "of CSV whose text begins with one of = + - @, a tab or a carriage return has an apostrophe "
    "before it, so that no text of a model is run as a formula; lists are JSON. A lone surrogate, "
    "which UTF-8 cannot hold, is written in all three as U+FDD0 followed by its four hex digits."
)
