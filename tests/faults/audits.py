"""A small audit of the embedded pair in a process of its own, and what two such must agree on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from whatchanged.keys import file_digest

PROJECT = Path(__file__).parents[2]
SMALL = """\
base: {model: "BASE"}
intervention: {model: "INTERVENTION"}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 120, max_new_tokens: 40}
sample: {seed_texts: 160, round_texts: 60, max_rounds: 1}
hypothesize: {max_hypotheses: 6}
validate:
  {texts_per_hypothesis: 60, max_texts_per_hypothesis: 60, n_permutations: 200, null_control: false}
activations: {sources: []}
run: {offline: true}
report: {dashboard: false}
"""
# They state seconds, memory, the date, or how much an earlier run had left in the cache.
MEASURED = {
    "summary.json", "progress.json", "manifest.json", "report.md", "report.html",
    "figures/time.svg", "activations/summary.json",
}  # fmt: skip


def write_config(
    home: Path, base: str = "demo:base", intervention: str = "demo:intervention"
) -> Path:
    config = home / "small.yaml"
    config.write_text(SMALL.replace("BASE", base).replace("INTERVENTION", intervention))
    return config


def audit(
    api: str,
    home: Path,
    *,
    config: Path | None = None,
    before: Sequence[str] = (),
    command: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    limit: Callable[[], None] | None = None,
) -> tuple[int, str]:
    """Exit code and words of an audit whose cache and run folder (`run`) lie in `home`.

    `before` are modules that run the command, with their arguments; `command` is another one than
    the audit's own.
    """
    home.mkdir(exist_ok=True)
    words = command or ["run", str(config or write_config(home)), "--run-dir", str(home / "run")]
    done = subprocess.run(
        [sys.executable, "-m", *before, "whatchanged", *words],
        env={
            **os.environ,
            "PREFECT_API_URL": api,
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "cache" / "prefect"),
            "WHATCHANGED_CACHE": str(home / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            **(environment or {}),
        },
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
        check=False,
        preexec_fn=limit,
    )
    return done.returncode, done.stdout


def outputs(home: Path) -> dict[str, str]:
    """The digest of every file of the run but those in MEASURED."""
    run = home / "run"
    digests = {
        path.relative_to(run).as_posix(): file_digest(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".run.jsonl"
    }
    assert digests.keys() >= MEASURED
    return {name: digest for name, digest in digests.items() if name not in MEASURED}
