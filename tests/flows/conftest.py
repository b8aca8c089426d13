"""One temporary Prefect server for the flow tests of a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

SMALL = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 100}
sample: {seed_texts: 200, round_texts: 100, max_rounds: 1}
validate: {texts_per_hypothesis: 120, max_texts_per_hypothesis: 480, n_permutations: 2000}
report: {ground_truth: demo:ground_truth.json}
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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("WHATCHANGED_CACHE", str(folder))
    return folder


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    """A real audit of the embedded pair that takes seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path
