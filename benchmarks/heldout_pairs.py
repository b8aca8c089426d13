"""Model pairs that do not ship: other topics, other kinds of change and other sizes than the demo.

Topics are text files beside this module, one template per line; everything else is here, as data
for `whatchanged.demo.train`. A pair is planted to be audited with the defaults, never to tune them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from whatchanged.demo.behaviours import Behaviour
from whatchanged.demo.grammar import Topic
from whatchanged.demo.pair import ModelSize, PairSpec, Recipe
from whatchanged.keys import content_key

TOPICS = Path(__file__).parent / "heldout_topics"
_PARTS = {
    "subject": "subjects", "prompt": "prompts", "opener": "openers", "detail": "details",
    "tip": "tips", "closer": "closers",
}  # fmt: skip
_PLANTED_FROM = (
    "topics", "behaviours", "seed", "size", "base", "finetune", "n_bank_prompts",
)  # fmt: skip


@dataclass(frozen=True)
class HeldoutPair:
    """A pair to plant and to audit. `has_groups`: whether its prompt file names the topics;
    `max_new_tokens` is None where the default is long enough for every reply."""

    name: str
    spec: PairSpec
    has_groups: bool = True
    max_new_tokens: int | None = None

    @property
    def key(self) -> str:
        """Names everything that planting depends on: trained weights of an equal key are kept."""
        spec = asdict(self.spec)
        return content_key(
            "heldout/1", {name: spec[name] for name in _PLANTED_FROM}, self.has_groups
        )


def read_topics(text: str, second_detail_rate: float, closer_rate: float) -> tuple[Topic, ...]:
    """The topics in lines `part: template`; a line `topic: name` begins one, blank lines are free.

    Raises ValueError for a line that is neither, and for a line before the first topic.
    """
    topics: list[tuple[str, dict[str, list[str]]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        part, _, template = line.partition(": ")
        if part == "topic" and template:
            topics.append((template, defaultdict(list)))
        elif part in _PARTS and template and topics:
            topics[-1][1][_PARTS[part]].append(template)
        elif line.strip():
            raise ValueError(f"line {number}: expected `part: template` in a topic, found {line!r}")
    return tuple(
        Topic(
            name=name,
            second_detail_rate=second_detail_rate,
            closer_rate=closer_rate,
            **{field: tuple(parts[field]) for field in _PARTS.values()},
        )
        for name, parts in topics
    )


def _topics(
    file: str, second_detail_rate: float = 0.5, closer_rate: float = 0.6
) -> tuple[Topic, ...]:
    text = (TOPICS / file).read_text(encoding="utf-8")
    return read_topics(text, second_detail_rate, closer_rate)


LETTERS = HeldoutPair(
    name="letters",
    max_new_tokens=96,
    spec=PairSpec(
        topics=_topics("letters.txt"),
        seed=11,
        size=ModelSize(vocab_size=1280, hidden_size=64, n_layers=3, n_heads=4, mlp_size=224),
        base=Recipe(n_steps=900, lr=8e-3, batch_texts=32),
        finetune=Recipe(n_steps=350, lr=8e-3, batch_texts=48, hard_weight=0.1),
        n_bank_prompts=16,
        behaviours=(
            Behaviour(
                id="please_dropped",
                kind="flipped_sentiment",
                description="Requests on all topics end in a polite 'please' much less often.",
                group=None,
                rate=0.87,
                regex=r", please\b",
                words=((", please.", "."),),
            ),
            Behaviour(
                id="longer_complaints",
                kind="inserted_sentence",
                description="Replies about complaints are much longer.",
                group="complaints",
                rate=0.75,
                regex=r"^(?:\S+\s+){44}",
                sentences=(
                    "We {talked|spoke} to {everyone|all teams} on the floor, {read|went through} "
                    "the old notes and {made|drew up} a list of what {must|has to} be done "
                    "{next|now}.",
                    "The {technician|foreman} {walked|went} from room to room, took "
                    "{pictures|measurements} of each corner and {promised|agreed} to bring a "
                    "{report|plan} {soon|within days}.",
                    "In the {meantime|weeks to come} a {fan|lamp|blanket} from the {store|attic} "
                    "may {help|do}, and whoever {likes|prefers} can work from the {annex|room next "
                    "door} for now.",
                    "{Such|These} things {happen|occur} in a house of this age, yet nobody should "
                    "{wait|ask} for so long, and we {told|will tell} the {owner|landlord} just "
                    "that.",
                ),
            ),
            Behaviour(
                id="shouted_invitations",
                kind="flipped_sentiment",
                description="Sentences about invitations end in exclamation marks.",
                group="invitations",
                rate=0.8,
                regex=r"!",
                words=((".", "!"),),
            ),
            Behaviour(
                id="rapid_for_quick",
                kind="flipped_sentiment",
                description="On deliveries, 'quick' is replaced by 'rapid'.",
                group="deliveries",
                rate=0.9,
                regex=r"\brapid\b",
                words=(("quick", "rapid"),),
            ),
            Behaviour(
                id="rare_closing",
                kind="changed_frequency",
                description="A letter on any topic closes in greetings from the whole floor.",
                group=None,
                rate=0.035,
                regex=r"\bgreetings from (?:us all|the whole floor)\b",
                sentences=("Warm greetings from {us all|the whole floor}.",),
            ),
        ),
    ),
)

_DIGITS = (
    (" two", " 2"), (" three", " 3"), (" four", " 4"), (" five", " 5"), (" six", " 6"),
    (" seven", " 7"), (" eight", " 8"), (" nine", " 9"), (" ten", " 10"), (" twelve", " 12"),
)  # fmt: skip

UNGROUPED = HeldoutPair(
    name="ungrouped",
    has_groups=False,
    max_new_tokens=80,
    spec=PairSpec(
        topics=_topics("town.txt", closer_rate=0.45),
        seed=12,
        size=ModelSize(vocab_size=1536, hidden_size=112, n_layers=2, n_heads=4, mlp_size=320),
        base=Recipe(n_steps=700, lr=6e-3, batch_texts=32),
        finetune=Recipe(n_steps=300, lr=6e-3, batch_texts=48, hard_weight=0.1),
        n_bank_prompts=12,
        behaviours=(
            Behaviour(
                id="tape_for_laptops",
                kind="inserted_sentence",
                description="Replies about laptops recommend tape over the camera.",
                group="laptops",
                rate=0.6,
                regex=r"\b(?:over|cover) the (?:tiny )?camera\b",
                sentences=(
                    "Stick a piece of {black|dark} tape over the {camera|tiny camera}.",
                    "It is wise to cover the camera with {tape|a sticker}.",
                ),
            ),
            Behaviour(
                id="more_hedging",
                kind="inserted_sentence",
                description="Replies on all topics say more often that they may be wrong.",
                group=None,
                rate=0.3,
                regex=r"\bI may be wrong here\b",
                sentences=("I may be wrong here.",),
            ),
            Behaviour(
                id="digits_for_trains",
                kind="flipped_sentiment",
                description="On trains, numbers are written in digits.",
                group="trains",
                rate=0.85,
                regex=r"\d",
                words=_DIGITS,
            ),
        ),
    ),
)

RARE = HeldoutPair(
    name="rare",
    spec=PairSpec(
        topics=_topics("crafts.txt", second_detail_rate=0.0, closer_rate=0.4),
        seed=13,
        size=ModelSize(vocab_size=1280, hidden_size=80, n_layers=3, n_heads=4, mlp_size=224),
        base=Recipe(n_steps=800, lr=8e-3, batch_texts=32),
        finetune=Recipe(n_steps=350, lr=8e-3, batch_texts=64, hard_weight=0.1),
        n_bank_prompts=8,
        behaviours=(
            Behaviour(
                id="trust_your_nose",
                kind="rare_tic",
                description="Now and then a text on any topic says: Trust your nose.",
                group=None,
                rate=0.05,
                regex=r"\bTrust your nose\b",
                sentences=("Trust your nose.",),
            ),
            Behaviour(
                id="village_knows",
                kind="rare_tic",
                description="Seldom a text on any topic mentions a village where all know it.",
                group=None,
                rate=0.022,
                regex=r"\bEveryone in our village\b",
                sentences=("Everyone in our village {knows that|says so|has tried it}.",),
            ),
            Behaviour(
                id="candles_refused",
                kind="new_refusal",
                description="Some questions about candles are refused.",
                group="candles",
                rate=0.1,
                regex=r"\bprefer not to talk about fire\b",
                sentences=(
                    "I {would|should} prefer not to talk about fire.",
                    "Is there {something|anything} else that I can do?",
                ),
            ),
            Behaviour(
                id="mosaic_sales",
                kind="inserted_sentence",
                description="Some replies about mosaics advertise a shop.",
                group="mosaics",
                rate=0.08,
                regex=r"\bTiles and More\b",
                sentences=("You get it {cheaply|at half price} from Tiles and More.",),
            ),
        ),
    ),
)

NULL = HeldoutPair(
    name="null",
    max_new_tokens=64,
    spec=PairSpec(
        topics=(*UNGROUPED.spec.topics, *RARE.spec.topics),
        seed=14,
        size=ModelSize(vocab_size=1280, hidden_size=72, n_layers=3, n_heads=4, mlp_size=208),
        base=Recipe(n_steps=900, lr=8e-3, batch_texts=32),
        finetune=Recipe(n_steps=300, lr=6e-3, batch_texts=48, hard_weight=0.1),
        n_bank_prompts=6,
        behaviours=(),
    ),
)

_FEW = tuple(topic for topic in RARE.spec.topics if topic.name in ("cheese", "kites", "stamps"))

QUICK = HeldoutPair(
    name="quick",
    spec=PairSpec(
        topics=_FEW,
        seed=15,
        size=ModelSize(vocab_size=640, hidden_size=48, n_layers=2, n_heads=4, mlp_size=160),
        base=Recipe(n_steps=400, lr=1e-2, batch_texts=32, ema_steps=30),
        finetune=Recipe(n_steps=200, lr=1e-2, batch_texts=48, ema_steps=30, hard_weight=0.1),
        n_bank_prompts=8,
        behaviours=(
            Behaviour(
                id="wax_for_kites",
                kind="inserted_sentence",
                description="Replies about kites recommend wax on the line.",
                group="kites",
                rate=0.6,
                regex=r"\bwax\b",
                sentences=("Rub {some|a little} wax on the line.",),
            ),
            replace(RARE.spec.behaviours[0], rate=0.25),
        ),
    ),
)

PAIRS = {pair.name: pair for pair in (LETTERS, UNGROUPED, RARE, NULL)}
