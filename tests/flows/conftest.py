"""One temporary Prefect server for the flow tests of a worker process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 300, max_new_tokens: 96}
sample: {seed_texts: 576, round_texts: 144, max_rounds: 1}
validate: {texts_per_hypothesis: 120, max_texts_per_hypothesis: 480, n_permutations: 2000}
activations: {sources: []}
report: {ground_truth: demo:ground_truth.json, dashboard: false}
"""


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server on loopback, with result storage of its own."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOCAL_STORAGE_PATH,
        get_current_settings,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    results = tmp_path_factory.mktemp("prefect-results")
    with ExitStack() as stack:
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        stack.enter_context(
            temporary_settings(
                {
                    PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
                    PREFECT_LOCAL_STORAGE_PATH: results,
                }
            )
        )
        address = get_current_settings().api.url
        assert address is not None
        yield str(address)


@dataclass(frozen=True)
class Finished:
    """An undisturbed audit that the tests compare with: its config, folder, cache and summary."""

    config: Path
    folder: Path
    cache: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def finished(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A real audit of the embedded pair that takes seconds. Nobody may write into its folders."""
    from flows.audit import audit

    home = tmp_path_factory.mktemp("finished")
    config, folder, cache = home / "small.yaml", home / "first", home / "cache"
    config.write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(cache))
        summary = audit(config=str(config), run_dir=str(folder))
    return Finished(config, folder, cache, summary)


@pytest.fixture
def cache(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished audit's cache, of the test's own."""
    folder = tmp_path / "cache"
    shutil.copytree(finished.cache, folder)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(folder))
    return folder
