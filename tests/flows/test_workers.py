"""Chunks decoded by other processes: the same texts as in this one, whoever dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.flows.conftest import SMALL, Finished
from tests.flows.test_audit import findings_of, run
from whatchanged.errors import ArtifactMissingError, ConfigError, MissingDependencyError
from whatchanged.models.ray_cluster import check_ray
from whatchanged.models.weights import resolve_model
from whatchanged.run_config import RunConfig

pytestmark = pytest.mark.flows

SHORT = (
    SMALL.replace("chunk_texts: 300", "chunk_texts: 20")
    + "divergence: {texts_per_prompt: 1, max_new_tokens: 16}\n"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two workers on this machine, which was there before the run."""
    pytest.importorskip("prefect_ray", reason="the extra `ray` is not installed")
    # Ray's workers give way to every other process of the machine, unless they are told not to; it
    # gives itself half a minute to start.
    os.environ |= {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield started
    started.shutdown()


@pytest.fixture
def far_worker(cache: Path) -> Iterator[str]:
    """The address of a Ray cluster whose only workers see another disk at the path of the cache."""
    pytest.importorskip("prefect_ray", reason="the extra `ray` is not installed")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    alone = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to give a process mounts of its own")
    os.environ |= {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
    head = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    command = (
        'mount -t tmpfs none "$1" && exec "$2" -m ray.scripts.scripts start --block '
        '--address="$3" --num-cpus=2'
    )
    node = subprocess.Popen([*alone, command, "sh", cache, sys.executable, head.address])
    yield str(head.address)
    node.terminate()
    node.wait(60)
    head.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def config(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Path:
    """The small audit, with a cache without a text."""
    assert prefect_api
    monkeypatch.setenv("WHATCHANGED_CACHE", str(cache))
    path = tmp_path / "small.yaml"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="module")
def threads(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The texts of the screen, decoded in this process."""
    home = tmp_path_factory.mktemp("threads")
    path = home / "small.yaml"
    path.write_text(SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHATCHANGED_CACHE", str(home / "cache"))
        return decode_screen(path)


def decode_screen(
    config: Path, *overrides: str, prepare: Callable[[Any], None] = lambda _job: None
) -> pd.DataFrame:
    """The texts of the screen of an audit; `prepare` gets its job before the workers start."""
    from prefect import flow

    from tasks.decode import decode, load_texts
    from tasks.job import open_job
    from tasks.prompts import split
    from tasks.sample import allot_screen

    @flow(name="screen")
    def screen() -> list[Any]:
        job = open_job(str(config), list(overrides), str(config.parent / "run"))
        prompts = split(job)
        allocation = allot_screen(job, prompts)
        prepare(job)
        with job.workers:
            texts = decode(job, job.pair, prompts, allocation, "screen", 0)
        return [load_texts(job.store, texts)]

    (found,) = screen()
    assert isinstance(found, pd.DataFrame)
    return found


def children(pid: int) -> list[tuple[int, str]]:
    """The child processes of a process, with what they call themselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid:
                name = (folder / "cmdline").read_bytes().decode(errors="replace")
                found.append((int(folder.name), name))
        except (OSError, IndexError, ValueError):
            continue
    return found


@contextmanager
def killing_one(find: Callable[[], list[int]]) -> Iterator[list[int]]:
    """Kills one of the processes that `find` gives, once; which one."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not killed and not ended.is_set():
            for pid in find()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        ended.set()
        watcher.join()


def on_ray(cluster: Any) -> tuple[str, str]:
    return "run.runner=ray", f"run.ray_address={cluster.address}"


def test_two_ray_workers_decode_the_same_texts_as_threads(
    cluster: Any, config: Path, threads: pd.DataFrame
) -> None:
    pd.testing.assert_frame_equal(
        decode_screen(config, *on_ray(cluster)), threads, check_exact=True
    )


def test_a_ray_worker_that_is_killed_while_it_decodes_loses_no_text(
    cluster: Any, config: Path, threads: pd.DataFrame
) -> None:
    raylet = cluster.head_node.all_processes["raylet"][0].process.pid

    def decoding() -> list[int]:
        return [pid for pid, name in children(raylet) if name.startswith("ray::decode")]

    with killing_one(decoding) as killed:
        texts = decode_screen(config, *on_ray(cluster))
    assert len(killed) == 1
    pd.testing.assert_frame_equal(texts, threads, check_exact=True)


def test_a_process_that_is_killed_while_it_decodes_loses_no_text(
    config: Path, threads: pd.DataFrame
) -> None:
    def working() -> list[int]:
        return [pid for pid, name in children(os.getpid()) if "spawn_main" in name]

    with killing_one(working) as killed:
        texts = decode_screen(config, "run.runner=processes", "run.workers=2")
    assert len(killed) == 1
    pd.testing.assert_frame_equal(texts, threads, check_exact=True)


def embed_screen(config: Path, *overrides: str) -> tuple[pd.DataFrame, Any]:
    """The segments of the screen of an audit, and their vectors, with a cache of its own."""
    from prefect import flow

    from tasks.decode import decode
    from tasks.embed import embed, load_segments
    from tasks.job import open_job
    from tasks.prompts import split
    from tasks.sample import allot_screen

    @flow(name="screen")
    def screen() -> Any:
        job = open_job(str(config), list(overrides), str(config.parent / "run"))
        prompts = split(job)
        with job.workers:
            texts = decode(job, job.pair, prompts, allot_screen(job, prompts), "screen", 0)
            embedded = embed(job, job.pair, texts, "screen", 0)
            assert embedded.counts["n_embedded"] > 0
            return [load_segments(job, [embedded])]

    (found,) = screen()
    return found


def test_workers_embed_the_same_vectors_as_this_process(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, vectors = embed_screen(config)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "elsewhere"))
    elsewhere, others = embed_screen(config, "run.runner=processes", "run.workers=2")
    pd.testing.assert_frame_equal(here, elsewhere, check_exact=True)
    assert np.array_equal(vectors, others)


def test_a_machine_without_the_cache_takes_the_texts_from_the_shared_store(
    config: Path, threads: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"run.store=file://{tmp_path}/shared"
    first = decode_screen(config, store, "run.runner=processes", "run.workers=2")
    pd.testing.assert_frame_equal(first, threads, check_exact=True)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "another"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("tasks.decode.load_decoder", refuse)
    pd.testing.assert_frame_equal(decode_screen(config, store), threads, check_exact=True)
    with pytest.raises(Exception, match="decoded again"):
        monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "third"))
        decode_screen(config)


def test_a_worker_with_a_disk_of_its_own_needs_the_shared_store(
    far_worker: str, config: Path, threads: pd.DataFrame, tmp_path: Path
) -> None:
    ray = ("run.runner=ray", f"run.ray_address={far_worker}")
    with pytest.raises(ArtifactMissingError):
        decode_screen(config, *ray)
    texts = decode_screen(config, *ray, f"run.store=file://{tmp_path}/shared")
    pd.testing.assert_frame_equal(texts, threads, check_exact=True)


def test_a_worker_without_the_model_says_so_and_what_to_do(config: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(resolve_model("demo:base").path, model)

    def lose_the_model(job: Any) -> None:
        # This process has named the model; a worker will look for it.
        job.identity(job.config.base, job.decode_settings("screen"))
        assert job.pair.is_coupled
        shutil.move(model, tmp_path / "elsewhere")

    overrides = ("run.runner=processes", "run.workers=1", f"base.model={model}")
    with pytest.raises(MissingDependencyError) as caught:
        decode_screen(config, *overrides, prepare=lose_the_model)
    assert "put the model where every worker finds it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.long
def test_an_audit_on_ray_finds_the_same_as_with_threads(
    cluster: Any, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "first"
    summary = run(finished.config, folder, run__runner="ray", run__ray_address=cluster.address)
    assert summary["decode"] == finished.summary["decode"]
    for name in ("texts", "segments", "verdicts", "prompts", "divergence", "pairs"):
        found, expected = (
            (place / f"{name}.parquet").read_bytes() for place in (folder, finished.folder)
        )
        assert found == expected, name
    assert findings_of(folder) == findings_of(finished.folder)


def test_what_travels_to_a_worker_has_no_workers_of_its_own() -> None:
    import copy

    from tasks.workers import Workers

    assert not copy.copy(Workers(RunConfig(runner="ray", ray_address="a:1"))).run.is_spread


def test_a_ray_address_that_nobody_answers_is_one_sentence_and_code_5() -> None:
    pytest.importorskip("prefect_ray", reason="the extra `ray` is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MissingDependencyError) as caught:
            check_ray(address)
    assert f"expected a Ray cluster at {address}, found none that answers" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_ray_address_without_a_port_is_refused() -> None:
    pytest.importorskip("prefect_ray", reason="the extra `ray` is not installed")
    with pytest.raises(ConfigError, match="expected host:port or ray://host:port"):
        check_ray("somewhere")
