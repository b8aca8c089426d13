"""Memory and time of an audit of 200,000 recorded texts with local judges.

    python -m benchmarks.recorded [--quick] [--json]

The texts are those of `demo:recorded.parquet`, their sentences put together anew within prompt and
side, so that there are many texts of few distinct sentences: what is measured is the audit, not the
encoder. The audit runs in a process of its own under a temporary Prefect server; another process
loads torch and the sentence encoder and embeds one text. The difference of their peak resident sets
is what the audit takes beyond the models (aim: at most 2 GiB). --quick takes a tenth of the texts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from whatchanged.demo import demo_path
from whatchanged.embed import split_segments

N_TEXTS, N_QUICK = 200_000, 20_000
_AUDIT = "from flows.audit import audit; audit({config!r}, run_dir={folder!r})"
_MODELS = """
from whatchanged.config import EmbedConfig
from whatchanged.models.loading import load_embedder
import flows.audit
load_embedder(EmbedConfig(), "cpu").embed(["a text"])
"""
_PEAK = """
import resource, sys
print("peak_kib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
_MIB_PER_KIB = 1 / 1024


def invent_texts(n_texts: int) -> pd.DataFrame:
    """`n_texts` rows like those of `demo:recorded.parquet`, as many of each prompt and side."""
    rng = random.Random(0)
    recorded = pd.read_parquet(demo_path("recorded.parquet"))
    groups = recorded.groupby(["side", "prompt", "group"], sort=True)["text"]
    n_each = round(n_texts / len(groups))
    rows = []
    for (side, prompt, group), texts in groups:
        replies = [split_segments(text) for text in texts]
        for _ in range(n_each):
            begun, ended = rng.choice(replies), rng.choice(replies)
            middle = rng.randint(0, len(begun))
            text = " ".join([*begun[:middle], *ended[middle:]])
            rows.append({"prompt": prompt, "group": group, "side": side, "text": text})
    return pd.DataFrame(rows)


def run_apart(code: str, folder: Path) -> tuple[float, float]:
    """Peak resident set in MiB and seconds of a process that runs the code. Raises RuntimeError
    with its last words where it fails."""
    environment = os.environ | {
        "WHATCHANGED_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE", "PREFECT_HOME": str(folder / "prefect"),
    }  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + _PEAK], env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("peak_kib ")]
    return int(line.split()[1]) * _MIB_PER_KIB, seconds


def measure(n_texts: int) -> dict[str, Any]:
    """The figures of one audit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = invent_texts(n_texts)
        texts.to_parquet(folder / "texts.parquet", index=False)
        config = folder / "recorded.yaml"
        config.write_text(
            "base: {texts: texts.parquet}\nintervention: {texts: texts.parquet}\n"
            f"sample: {{max_texts: {n_texts}}}\ndecode: {{chunk_texts: 5000}}\n"
        )
        models_mib, _ = run_apart(_MODELS, folder)
        code = _AUDIT.format(config=str(config), folder=str(folder / "run"))
        audit_mib, seconds = run_apart(code, folder)
        summary = json.loads((folder / "run" / "summary.json").read_text())
    return {
        "n_texts": len(texts),
        "n_distinct_texts": int(texts["text"].nunique()),
        "n_taken": {side: one["n_decoded"] for side, one in summary["decode"].items()},
        "models_mib": models_mib,
        "audit_mib": audit_mib,
        "beyond_mib": audit_mib - models_mib,
        "wall_s": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help=f"{N_QUICK:,} texts")
    parser.add_argument("--json", action="store_true", help="the figures as the last line")
    args = parser.parse_args()
    found = measure(N_QUICK if args.quick else N_TEXTS)
    print(f"{found['n_texts']:,} texts ({found['n_distinct_texts']:,} distinct): "
          f"{found['audit_mib']:,.0f} MiB, {found['beyond_mib']:,.0f} beyond the models, "
          f"{found['wall_s']:.0f} s")  # fmt: skip
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
