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
