"""A proposer that is a language model behind an API, asked about the clusters that differ.

It sees two sets of replies, named A and B at random, and what was already found; it returns
criteria that can be checked in one reply. What whole scopes show by counting words, lengths and
formats stays with the local proposer: that is free and exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whatchanged.contrasts import Sides
from whatchanged.judge import names_a_side
from whatchanged.keys import content_key, seed_from_key
from whatchanged.models.chat import CallResult, ChatRequest
from whatchanged.models.criteria import parse_criterion, quotations, write_claim
from whatchanged.models.llm_judge import Caller
from whatchanged.models.protocols import Contrast, Embedder, Proposal, Proposer
from whatchanged.models.replies import read_answer
from whatchanged.models.rubric import Asking, ask_again, fenced_request
from whatchanged.records import Direction

VERSION = "llm-proposer/1"
MAX_PER_CLUSTER = 3
MAX_CRITERION_CHARS = 200
# Enough to see a habit, few enough that a call costs no more than a dozen judgements.
_N_SHOWN = 8
_MAX_CHARS = 600
# Of short sentences that say the same in other words, MiniLM's cosines lie near 0.8.
_SAME_MEANING = 0.8

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "hypotheses": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_PER_CLUSTER,
                "items": {
                    "type": "object",
                    "properties": {
                        "criterion": {"type": "string"},
                        "more_often_in": {"type": "string", "enum": ["A", "B"]},
                    },
                    "required": ["criterion", "more_often_in"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["hypotheses"],
        "additionalProperties": False,
    }
)
_TASK = (
    "Two groups of replies, A and B, were written to the same prompts. You say how the groups may "
    "differ. The replies shown were chosen because they belong to one kind of sentence that one "
    "group has more often; examples of that kind stand first.\n\n{rule}\n\nWrite one to three "
    "criteria. Each is one short sentence that begins with “The reply” and can be checked in a "
    "single reply by somebody who has not seen the others; it has at most "
    f"{MAX_CRITERION_CHARS} characters. Say what differs in content, wording, stance or form, as "
    "generally as the replies allow and no more. Do not repeat what was already found. Do not "
    "mention A, B, groups or models in a criterion. Answer with one JSON object and nothing else: "
    '{{"hypotheses": [{{"criterion": "The reply ...", "more_often_in": "A"}}]}}.'
)


class _Known(NamedTuple):
    """A criterion that was proposed before, in its scope."""

    scope: str | None
    direction: Direction
    criterion: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LlmProposer:
    """Asks a model by `call` about every cluster, in the order of the contrasts; `local` proposes
    about whole scopes.

    `names` are those of the models compared: a criterion that holds one, or names a side, is left
    out, and so is one that means what an earlier one of its scope and direction means, by the
    cosine of `embedder`. An answer that cannot be read is asked for once more; then the cluster
    has no proposal, and `problems` says why.
    """

    call: Caller
    asking: Asking
    local: Proposer
    embedder: Embedder
    names: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list, compare=False)
    _known: list[_Known] = field(default_factory=list, compare=False)

    @property
    def identity(self) -> str:
        """Rubric, provider, model, the settings of the answer, and the local proposer."""
        how = self.asking
        return f"{VERSION}:{how.provider}:{how.model}:{how.temperature} {self.local.identity}"

    def propose(self, contrast: Contrast, max_proposals: int) -> list[Proposal]:
        """At most `max_proposals` proposals, strongest first; an empty side gives none."""
        if contrast.cluster is None:
            return self.local.propose(contrast, max_proposals)
        if not (contrast.base and contrast.intervention) or contrast.member_base is None:
            return []
        seed = seed_from_key(content_key("proposal/1", contrast.scope, contrast.exemplars))
        is_swapped = bool(np.random.default_rng(seed).integers(2))
        found = self._ask(_request(contrast, self._told(contrast), seed, is_swapped, self.asking))
        proposals = [
            _write_proposal(contrast, criterion, side == ("A" if is_swapped else "B"))
            for criterion, side in found
            if not names_a_side(criterion, self.names)
        ]
        return [p for p in proposals if self._is_new(contrast.scope, p)][:max_proposals]

    def _told(self, contrast: Contrast) -> list[str]:
        return [known.criterion for known in self._known if known.scope == contrast.scope]

    def _ask(self, request: ChatRequest) -> list[tuple[str, str]]:
        problem = ""
        for asked in (request, ask_again(request)):
            found, problem = read_hypotheses(self.call([asked])[0])
            if found:
                return found
        self.problems.append(problem)
        return []

    def _is_new(self, scope: str | None, proposal: Proposal) -> bool:
        """Whether nothing known means the same; what is new is known from now on."""
        vector = self.embedder.embed([proposal.criterion])[0]
        alike = (
            known.scope == scope
            and known.direction == proposal.direction
            and float(known.vector @ vector) >= _SAME_MEANING
            for known in self._known
        )
        if any(alike):
            return False
        self._known.append(_Known(scope, proposal.direction, proposal.criterion, vector))
        return True


def read_hypotheses(result: CallResult) -> tuple[list[tuple[str, str]], str]:
    """The criteria of an answer, each with the group ("A" or "B") that has more of it, and the
    problem where there are none. Nothing is taken from an answer that strays from the schema."""
    reading = read_answer(result, ("hypotheses",))
    if reading.outcome != "answered":
        return [], f"{reading.outcome}: {reading.reason}"
    rows = reading.values["hypotheses"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_PER_CLUSTER:
        return [], f"malformed: expected 1 to {MAX_PER_CLUSTER} hypotheses"
    found = [_read_row(row) for row in rows]
    kept = [row for row in found if row is not None]
    return (kept, "") if len(kept) == len(rows) else ([], "malformed: a hypothesis off the schema")


def _read_row(row: object) -> tuple[str, str] | None:
    if not isinstance(row, Mapping) or set(row) != {"criterion", "more_often_in"}:
        return None
    criterion, side = row["criterion"], row["more_often_in"]
    if not isinstance(criterion, str) or side not in ("A", "B"):
        return None
    criterion = " ".join(criterion.split())
    fits = criterion.startswith("The reply ") and len(criterion) <= MAX_CRITERION_CHARS
    return (criterion, str(side)) if fits else None


def _request(
    contrast: Contrast, told: Sequence[str], seed: int, is_swapped: bool, asking: Asking
) -> ChatRequest:
    rng = np.random.default_rng(seed)
    base = _show(contrast.base, contrast.member_base, rng)
    intervention = _show(contrast.intervention, contrast.member_intervention, rng)
    a, b = (intervention, base) if is_swapped else (base, intervention)
    parts = [
        ("examples of the kind", "\n".join(_one_line(text) for text in contrast.exemplars)),
        ("replies A", a),
        ("replies B", b),
        ("already found", "\n".join(told) or "nothing yet"),
    ]
    return fenced_request(_TASK, parts, SCHEMA, asking)


def _show(
    texts: Sequence[str], is_member: NDArray[np.bool_] | None, rng: np.random.Generator
) -> str:
    """Replies of one side, one per line: those that hold the cluster first chosen, then shuffled
    with others, as many on either side."""
    member = np.zeros(len(texts), dtype=np.bool_) if is_member is None else is_member
    order = rng.permutation(len(texts))
    chosen = order[np.argsort(~member[order], kind="stable")][:_N_SHOWN]
    return "\n".join(_one_line(texts[i]) for i in rng.permutation(chosen))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_CHARS]


def _write_proposal(contrast: Contrast, criterion: str, is_more: bool) -> Proposal:
    """What is measured in discovery is the cluster that the criterion came from."""
    in_base, in_intervention = contrast.member_base, contrast.member_intervention
    assert in_base is not None and in_intervention is not None, "a cluster has members"
    sides = Sides(len(in_base), len(in_intervention), contrast.is_paired)
    return Proposal(
        criterion=criterion,
        claim=write_claim(parse_criterion(criterion)),
        direction="more" if is_more else "less",
        evidence_terms=quotations(criterion) or contrast.exemplars[:1],
        strength=abs(sides.z(np.concatenate([in_base, in_intervention]))),
        in_base=in_base,
        in_intervention=in_intervention,
    )
