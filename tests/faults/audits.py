"""A small audit of the embedded pair in a process of its own, and what two such must agree on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.nursery import Child, Nursery
from whatchanged.keys import file_digest

PROJECT = Path(__file__).parents[2]
SMALL = """\
base: {model: "BASE"}
intervention: {model: "INTERVENTION"}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 50, max_new_tokens: 40}
divergence: {texts_per_prompt: 1}
cluster: {n_clusters: 12, n_segment_clusters: 40}
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


def environment_of(api: str) -> dict[str, str]:
    """What an audit of the tests has in its environment whatever its home is."""
    return {"PREFECT_API_URL": api, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def words_of(home: Path, config: Path | None = None) -> list[str]:
    """The command of an audit whose run folder (`run`) lies in `home`."""
    home.mkdir(exist_ok=True)
    return ["run", str(config or write_config(home)), "--run-dir", str(home / "run")]


def audit(
    api: str,
    home: Path,
    *,
    config: Path | None = None,
    before: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Exit code and words of an audit in a process of its own; its cache and run lie in `home`.

    `before` are modules that run the command, with their arguments.
    """
    done = subprocess.run(
        [sys.executable, "-m", *before, "whatchanged", *words_of(home, config)],
        env={
            **os.environ,
            **environment_of(api),
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "cache" / "prefect"),
            "WHATCHANGED_CACHE": str(home / "cache"),
            **(environment or {}),
        },
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    return done.returncode, done.stdout


def fork_audit(
    warm: Nursery, home: Path, *command: str, n_bytes: int | None = None, **environment: str
) -> Child:
    """The same, or another command, forked from a nursery of `tests.faults.whole_audit`; it may
    write files of up to `n_bytes`."""
    limit = "" if n_bytes is None else str(n_bytes)
    words = command or words_of(home)
    return warm.start(
        str(home), limit, *words, WHATCHANGED_CACHE=str(home / "cache"), **environment
    )


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
