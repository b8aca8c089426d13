"""How stages are cached and retried, with a real Prefect server and tasks of the test's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whatchanged.errors import InputError, TransientError
from whatchanged.keys import content_key
from whatchanged.store.artifacts import ArtifactStore

pytestmark = pytest.mark.flows


def test_an_output_is_computed_once_and_again_when_it_is_gone(
    prefect_api: str, tmp_path: Path
) -> None:
    from prefect import flow, task

    from tasks.caching import CACHED, Manifest, part_key, remember, start

    store = ArtifactStore(tmp_path)
    key = content_key("test/1", str(tmp_path))
    computed: list[str] = []

    @task(name="stage", **CACHED)
    def stage(key: str) -> Manifest:
        computed.append(key)
        store.put_json(part_key(key, "a"), [1, 2])
        store.put_json(part_key(key, "b"), [3])
        return remember(store, Manifest(key=key, parts=("a", "b"), n=3))

    @flow
    def chain() -> Manifest:
        return start(store, stage, key, "stage").result()

    assert [chain().cached, chain().cached] == [False, True]
    assert len(computed) == 1
    store.path(part_key(key, "b")).unlink()
    assert chain().cached is False
    assert chain().cached is True
    assert len(computed) == 2
    assert store.get_json(part_key(key, "b")) == [3]


def test_results_are_kept_as_json_and_never_as_pickle(prefect_api: str, tmp_path: Path) -> None:
    from prefect import flow
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

    from tasks.caching import CACHED, Manifest, remember, start

    store = ArtifactStore(tmp_path)
    key = content_key("json/1", str(tmp_path))

    def stage(key: str) -> Manifest:
        store.put_json(key, {})
        return remember(store, Manifest(key=key, counts={"n_tokens": 7}))

    @flow
    def chain() -> Manifest:
        from prefect import task

        return start(store, task(name="kept", **CACHED)(stage), key, "kept").result()

    chain()
    record = json.loads((PREFECT_LOCAL_STORAGE_PATH.value() / f"kept-{key}").read_text())
    assert record["metadata"]["serializer"]["type"] == "json"
    assert "n_tokens" in record["result"]


def test_only_a_stage_that_computes_on_a_gpu_asks_for_its_slot(
    prefect_api: str, tmp_path: Path
) -> None:
    from prefect import flow, task
    from prefect.runtime import task_run

    from tasks.caching import CACHED, Manifest, remember, start

    store = ArtifactStore(tmp_path)
    tags: dict[str, list[str]] = {}

    @task(name="tagged", **CACHED)
    def stage(key: str) -> Manifest:
        tags[key] = list(task_run.tags)
        store.put_json(key, {})
        return remember(store, Manifest(key=key))

    @flow
    def chain() -> None:
        for on_gpu, name in ((True, "on a GPU"), (False, "elsewhere")):
            key = content_key("tags/1", str(tmp_path), name)
            start(store, stage, key, name, on_gpu=on_gpu).result()

    chain()
    assert sorted(tags.values()) == [[], ["gpu"]]


@pytest.mark.parametrize(
    ("error", "n_attempts"), [(TransientError("429"), 3), (InputError("bad prompt"), 1)]
)
def test_only_what_may_pass_is_tried_again(
    prefect_api: str, error: Exception, n_attempts: int
) -> None:
    from prefect import flow, task

    from tasks.caching import RETRIED

    attempts: list[int] = []

    @task(**{**RETRIED, "retries": 2, "retry_delay_seconds": 0.01})
    def stage() -> None:
        attempts.append(1)
        raise error

    @flow
    def chain() -> None:
        stage()

    with pytest.raises(type(error)):
        chain()
    assert len(attempts) == n_attempts


def test_where_one_chunk_fails_again_and_again_the_others_are_kept(
    prefect_api: str, tmp_path: Path
) -> None:
    from prefect import flow, task

    from tasks.caching import CACHED, Manifest, remember, start
    from tasks.showing import follow
    from whatchanged.progress import StageBar

    store = ArtifactStore(tmp_path)
    keys = [content_key("chunk/1", str(tmp_path), number) for number in range(20)]
    computed: list[str] = []
    is_down = True

    @task(name="chunk", **CACHED, retries=1, retry_delay_seconds=0)
    def chunk(key: str) -> Manifest:
        computed.append(key)
        if is_down and key == keys[7]:
            raise TransientError("no memory left")
        store.put_json(key, [])
        return remember(store, Manifest(key=key, n=1))

    @flow
    def chain() -> list[str]:
        started = [start(store, chunk, key, f"chunk {i}") for i, key in enumerate(keys)]
        with StageBar("chunks") as bar:
            return [manifest.key for manifest in follow(started, "chunks", "texts", bar)]

    said = r"1 of 20 tasks of chunks .*, the first 'chunk 7' \(no memory left\): run again"
    with pytest.raises(TransientError, match=said):
        chain()
    assert sorted(computed) == sorted([*keys, keys[7]])
    assert [store.has(key) for key in keys] == [key != keys[7] for key in keys]
    computed.clear()
    is_down = False
    assert chain() == keys
    assert computed == [keys[7]]


def test_a_run_whose_cache_is_on_a_network_file_system_is_told_so(
    prefect_api: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect import flow, get_run_logger

    import tasks.job
    from tests.flows.conftest import SMALL

    config = tmp_path / "small.yaml"
    config.write_text(SMALL)

    @flow
    def opened() -> None:
        # Prefect's own handler writes to the stream that was standard error when it was made.
        logger = get_run_logger().logger
        logger.addHandler(caplog.handler)
        tasks.job.open_job(str(config), [], str(tmp_path / "run"))
        logger.removeHandler(caplog.handler)

    said = []
    mounts = f"disk / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n"
    monkeypatch.setattr(tasks.job, "read_mounts", lambda: mounts)
    for folder in (tmp_path, tmp_path.parent):
        monkeypatch.setenv("WHATCHANGED_CACHE", str(folder / "cache"))
        caplog.clear()
        opened()
        said.append("use it from one machine at a time" in caplog.text)
    assert said == [True, False]
