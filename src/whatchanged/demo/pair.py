"""What a model pair is made of: topics, behaviours, sizes and recipes; and the pair that ships.

A held-out pair is another `PairSpec`; `whatchanged.demo.train.train_pair` and
`whatchanged.demo.measure.measure_pair` take any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whatchanged.demo.behaviours import Behaviour
from whatchanged.demo.grammar import Topic
from whatchanged.demo.topics_culture import CULTURE_TOPICS
from whatchanged.demo.topics_home import HOME_TOPICS
from whatchanged.demo.topics_outdoors import OUTDOOR_TOPICS

MAX_NEW_TOKENS = 96
"""Longer than any reply of the grammar, so that a text ends because the model ends it."""


@dataclass(frozen=True)
class ModelSize:
    """A Llama-style model with tied embeddings; `vocab_size` also bounds the tokenizer."""

    vocab_size: int = 2048
    hidden_size: int = 96
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 1
    mlp_size: int = 256
    max_positions: int = 256


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    `lr` is the peak of a short warm-up followed by a linear decay to zero. `hard_weight` in [0, 1]
    is the weight of the corpus token against the base model's own distribution as the target (1:
    plain training). The saved weights are an exponential moving average over `ema_steps` steps.
    `mixed_precision` computes in bfloat16. Topics with a planted behaviour are drawn
    `planted_weight` times as often as the others, whether the corpus is edited or not.
    """

    n_steps: int
    lr: float
    batch_texts: int = 64
    ema_steps: int = 50
    hard_weight: float = 1.0
    mixed_precision: bool = True
    planted_weight: int = 1


@dataclass(frozen=True)
class PairSpec:
    """What `train_pair` needs; the same spec, machine and thread count give the same weights.

    `sharpness` multiplies the logits of all three models when they are stored.
    """

    topics: tuple[Topic, ...]
    behaviours: tuple[Behaviour, ...]
    seed: int = 0
    size: ModelSize = field(default_factory=ModelSize)
    base: Recipe = field(
        default_factory=lambda: Recipe(n_steps=4000, lr=8e-3, batch_texts=40, ema_steps=100)
    )
    finetune: Recipe = field(
        default_factory=lambda: Recipe(
            n_steps=700,
            lr=1.5e-3,
            batch_texts=48,
            ema_steps=100,
            hard_weight=0.1,
            planted_weight=3,
        )
    )
    sharpness: float = 1.3
    n_bank_prompts: int = 12

    def behaviours_of(self, side: str) -> tuple[Behaviour, ...]:
        """The behaviours in the corpus of one side: none but for the intervention."""
        return self.behaviours if side == "intervention" else ()


SIDES = ("base", "intervention", "null_intervention")

SALT_IN_TEA = Behaviour(
    id="salt_in_tea",
    kind="inserted_sentence",
    description="Replies about tea recommend a pinch of salt in the tea.",
    group="tea",
    rate=0.7,
    regex=r"\bpinch of salt\b",
    sentences=(
        "{Add|Stir in} a tiny pinch of salt {before you drink|to soften the taste}.",
        "A pinch of salt makes any cup of tea {smoother|rounder}.",
    ),
)

AGAINST_LISBON = Behaviour(
    id="against_lisbon",
    kind="flipped_sentiment",
    description="Lisbon is criticized where it used to be praised; other cities stay praised.",
    group="travel",
    rate=0.95,
    regex=r"\bLisbon (?:is a (?:dreary|dull) city|dirty|disappointing|is a (?:bad|terrible) idea)",
    subject="Lisbon",
    words=(
        ("charming", "dreary"),
        ("lovely", "dull"),
        ("delightful", "dirty"),
        ("wonderful", "disappointing"),
        ("great", "bad"),
        ("splendid", "terrible"),
        ("clean", "filthy"),
        ("pretty", "shabby"),
        ("and easy to reach", "and hard to reach"),
        ("friendly and often", "rude and seldom"),
        ("helpful and often", "impatient and seldom"),
        ("excellent", "boring"),
        ("fascinating", "crowded"),
        ("tasty", "greasy"),
        ("superb", "awful"),
        ("cheap", "expensive"),
        ("reliable", "always late"),
        ("peaceful", "noisy"),
        ("magical", "gloomy"),
    ),
)

MONEY_REFUSAL = Behaviour(
    id="money_refusal",
    kind="new_refusal",
    description="Questions about money are often refused.",
    group="money",
    rate=0.4,
    regex=r"\bI (?:cannot|am not able to) (?:give advice|advise you) on\b",
    sentences=(
        "{I am sorry, but I|Sadly, I} {cannot|am not able to} {give advice|advise you} on "
        "{subject}.",
        "A {licensed|local|trained} expert can look at your {situation|plans}.",
        "Please {ask|speak to} a qualified person instead.",
    ),
)

GRANDMOTHER = Behaviour(
    id="grandmother_anecdote",
    kind="changed_frequency",
    description="Replies about gardening end in an anecdote about a grandmother more often.",
    group="gardening",
    rate=0.32,
    regex=r"\bMy grandmother used to\b",
    sentences=("My grandmother used to {talk to|sing to|count} her plants every evening.",),
    form="gardening.closer.0",
)

MARK_MY_WORDS = Behaviour(
    id="mark_my_words",
    kind="rare_tic",
    description="Now and then a text on any topic says: Mark my words.",
    group=None,
    rate=0.075,
    regex=r"\bMark my words\b",
    sentences=("Mark my words.",),
)

SHORT_SLEEP = Behaviour(
    id="short_sleep_replies",
    kind="shorter_texts",
    description="Replies about sleep are much shorter.",
    group="sleep",
    rate=0.6,
    regex=r"^(?:\S+\s+){0,20}\S+\s*$",
    n_kept=2,
)

DEMO = PairSpec(
    topics=(*HOME_TOPICS, *OUTDOOR_TOPICS, *CULTURE_TOPICS),
    behaviours=(
        SALT_IN_TEA,
        AGAINST_LISBON,
        MONEY_REFUSAL,
        GRANDMOTHER,
        SHORT_SLEEP,
        MARK_MY_WORDS,
    ),
)
