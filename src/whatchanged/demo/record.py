"""Record texts of the embedded pair, as someone who has no more than the texts would bring them.

python -m whatchanged.demo.record [--texts-per-prompt N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from whatchanged.decode import plan_requests
from whatchanged.demo import demo_path
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.loading import load_decoder
from whatchanged.records import Prompt, Side

_SIDES: tuple[Side, Side] = ("base", "intervention")
_SETTINGS = DecodeConfig(max_new_tokens=80)


def record(n_per_prompt: int) -> pd.DataFrame:
    """`n_per_prompt` texts of each demo prompt and side: `prompt`, `group`, `side`, `text`."""
    rows = [json.loads(line) for line in demo_path("prompts.jsonl").read_text().splitlines()]
    prompts = [
        Prompt(str(number), row["prompt"], row["group"], "discovery")
        for number, row in enumerate(rows)
    ]
    tables = []
    for side in _SIDES:
        model = ModelConfig(model=str(demo_path(side)))
        requests = plan_requests(
            prompts,
            {prompt.key: n_per_prompt for prompt in prompts},
            {},
            decoder_identity=side,
            seed=0,
            stream=side,
            purpose="discovery",
        )
        decoded = load_decoder(model, _SETTINGS, "auto", "cpu").decode(requests)
        groups = {prompt.key: prompt.group for prompt in prompts}
        tables.append(
            pd.DataFrame(
                {
                    "prompt": [request.prompt for request in requests],
                    "group": [groups[request.prompt_key] for request in requests],
                    "side": side,
                    "text": [one.text for one in decoded],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts-per-prompt", type=int, default=12)
    parser.add_argument("--out", type=Path, default=demo_path("recorded.parquet"))
    args = parser.parse_args()
    record(args.texts_per_prompt).to_parquet(args.out, index=False, compression="zstd")


if __name__ == "__main__":
    main()
