"""The command line in a process that has imported all that an audit of the embedded pair needs."""

from __future__ import annotations

import resource
from pathlib import Path

from whatchanged.environment import prepare_environment
from whatchanged.store.artifacts import cache_root

prepare_environment(cache_root())

import hdbscan  # noqa: E402, F401
import openai  # noqa: E402, F401
import sentence_transformers  # noqa: E402, F401
import statsmodels.stats.proportion  # noqa: E402, F401
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402, F401

import flows.audit  # noqa: E402
import flows.collect_activations  # noqa: E402, F401
import whatchanged.cli.run  # noqa: E402, F401
from whatchanged.cli import main as run_command  # noqa: E402


def main(home: str, n_bytes: str, *words: str) -> int:
    """The exit code of a command, with Prefect's records in the cache below `home`, and files of up
    to `n_bytes` where that is not empty."""
    if n_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), resource.RLIM_INFINITY))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: Path(home) / "cache" / "prefect"}):
        return run_command(list(words))
