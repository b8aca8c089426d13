"""`whatchanged init`: a starter config and prompt bank."""

from __future__ import annotations

import json
from pathlib import Path

from whatchanged.cli.terminal import say
from whatchanged.errors import InputError
from whatchanged.store import atomic

STARTER_CONFIG = """\
# Cost: not known before the first run; ask `whatchanged plan config.yaml`. Local judges: $0.

# A local folder (as save_pretrained writes it) or a Hugging Face id, for each side.
base: {model: path/to/base-model}
intervention: {model: path/to/finetuned-model}

# One JSON object per line: {"prompt": "...", "group": "optional topic"}. Write prompts like those
# that the models meet in use; a few hundred are better than a few.
prompts: {file: prompts.jsonl, validation_share: 0.5}

decode: {max_new_tokens: 48, temperature: 1.0}

# Texts per side in discovery: a seed sample, then rounds where it is still uncertain.
sample: {strategy: active, seed_texts: 500, round_texts: 250, max_rounds: 6, max_texts: 2000}

# Fresh texts per hypothesis, the accepted share of false discoveries, and the smallest
# difference in shares that is of interest.
validate: {texts_per_hypothesis: 240, alpha: 0.05, min_effect: 0.01, null_control: true}

seed: 0
"""

_STARTER_PROMPTS = {
    "advice": (
        "How do I get better at saying no?",
        "What should I do on my first day in a new job?",
        "Give me a tip for sleeping well.",
    ),
    "explanation": (
        "Explain why the sky is blue.",
        "What is compound interest?",
        "How does a vaccine work?",
    ),
    "story": (
        "Tell me a short story about a lighthouse.",
        "Write the opening of a mystery on a train.",
        "Describe a market at dawn.",
    ),
    "opinion": (
        "Is it better to live in a city or in the country?",
        "Which invention changed daily life the most?",
        "What makes a good teacher?",
    ),
}


def write_starter(folder: Path) -> int:
    """Writes config.yaml and prompts.jsonl into the folder and says what comes next; returns 0.

    Raises InputError where one of them is there already: nothing is written then.
    """
    files = {"config.yaml": STARTER_CONFIG, "prompts.jsonl": _starter_bank()}
    for name in files:
        if (folder / name).exists():
            raise _refusal(folder / name)
    for name, text in files.items():
        if not atomic.publish(folder / name, text.encode()):
            raise _refusal(folder / name)
    say(f"wrote {folder / 'config.yaml'} and {folder / 'prompts.jsonl'}")
    say(f"name your models and prompts there, then: whatchanged plan {folder / 'config.yaml'}")
    return 0


def _starter_bank() -> str:
    rows = (
        {"prompt": prompt, "group": group}
        for group, prompts in _STARTER_PROMPTS.items()
        for prompt in prompts
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def _refusal(path: Path) -> InputError:
    return InputError(
        f"expected no file at {path}, found one: "
        "name another folder, as in `whatchanged init audit`"
    )
