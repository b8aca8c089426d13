"""Chunks on several workers: how well these are used, and how many chunks the driver can hand out.

    python -m benchmarks.scaling [--quick] [--json] [--runners ray,processes]

Everything goes the way of an audit's chunks: a Prefect task per chunk, the store, the manifest.

    waiting   chunks that only wait for some seconds, as if another machine's GPU computed them, on
              1 to 8 workers. Efficiency: the seconds that chunks waited, by those that all workers
              had. Workers are started before the clock.
    handing   chunks without any work: how many per second two workers return, and how much of its
              processor each costs the driver, which bounds how many workers it can feed.
    decoding  1,000 texts of the demo pair on as many workers as there are cores, against one worker
              and against this process. The models are loaded before the clock.

A Prefect server runs beside the driver on the same cores, and its work is in every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whatchanged.environment import prepare_environment

Figures = dict[str, Any]
WORKERS = (1, 2, 4, 8)
CHUNK_S = 10.0
AUDIT = """\
base: {model: demo:base}
intervention: {model: demo:intervention}
prompts: {file: demo:prompts.jsonl}
decode: {chunk_texts: 50, max_new_tokens: 96}
sample: {seed_texts: 500}
divergence: {texts_per_prompt: 2, max_new_tokens: 8}
"""


@contextmanager
def cluster_of(runner: str, n_workers: int) -> Iterator[dict[str, Any]]:
    """The `run` block of a config for so many workers; with `ray`, on a new cluster of this machine
    that says it has as many cores."""
    if runner == "threads":
        yield {"runner": runner, "device": "cpu"}
        return
    if runner == "processes":
        yield {"runner": runner, "workers": n_workers, "device": "cpu"}
        return
    # Ray's workers give way to every other process, unless they are told not to.
    os.environ |= {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": n_workers})
    try:
        yield {"runner": runner, "ray_address": str(cluster.address), "device": "cpu"}
    finally:
        cluster.shutdown()


def wait(key: str, root: Path, seconds: float) -> Any:
    """A chunk that waits instead of decoding; else as any chunk."""
    from tasks.caching import Manifest, remember
    from whatchanged.store.artifacts import ArtifactStore

    time.sleep(seconds)
    store = ArtifactStore(root)
    store.put_json(key, seconds)
    return remember(store, Manifest(key=key, n=1, seconds=seconds))


def hand_out(workers: Any, n_chunks: int, seconds: float) -> float:
    """Seconds until `n_chunks` that wait for `seconds` each have come back."""
    from prefect import task

    from tasks.caching import CACHED, RETRIED, start
    from whatchanged.keys import content_key
    from whatchanged.store.artifacts import ArtifactStore, cache_root

    root, begun = cache_root(), time.perf_counter()
    chunk = task(name="wait", **CACHED, **RETRIED)(wait)
    started = [
        start(
            ArtifactStore(root), chunk, content_key("waiting/1", time.time_ns(), i), f"wait {i}",
            workers=workers, root=root, seconds=seconds,
        )
        for i in range(n_chunks)
    ]  # fmt: skip
    for one in started:
        one.result()
    return time.perf_counter() - begun


def hand_out_to(runner: str, n_workers: int, n_chunks: int, seconds: float) -> tuple[float, float]:
    """Seconds, and seconds of this process' processor, until so many workers are done with chunks
    that wait for `seconds` each; each of them has had one before."""
    from prefect import flow

    from tasks.workers import Workers
    from whatchanged.run_config import RunConfig

    @flow(name="scaling")
    def hand_out_all() -> tuple[float, float]:
        with Workers(RunConfig(**run)) as workers:
            hand_out(workers, n_workers, 5.0)
            cpu = time.process_time()
            return hand_out(workers, n_chunks, seconds), time.process_time() - cpu

    with cluster_of(runner, n_workers) as run:
        return hand_out_all()


def measure_waiting(runner: str, n_workers: Sequence[int], n_each: int, seconds: float) -> Figures:
    """Efficiency by number of workers, each of which gets `n_each` chunks."""
    return {
        str(n): n_each * seconds / hand_out_to(runner, n, n * n_each, seconds)[0] for n in n_workers
    }


def measure_handing(runner: str, n_chunks: int) -> Figures:
    """Chunks per second by two workers, since more would only share the cores, and the driver's own
    processor time per chunk."""
    elapsed, cpu = hand_out_to(runner, 2, n_chunks, 0.0)
    return {"per_second": n_chunks / elapsed, "driver_cpu_ms": 1e3 * cpu / n_chunks}


def measure_decoding(runner: str) -> Figures:
    """Seconds with threads, with one worker, and with one per core, each on an empty cache."""
    n_cores = os.cpu_count() or 1
    threads, one, all_ = decode_s("threads", 1), decode_s(runner, 1), decode_s(runner, n_cores)
    return {
        "threads_s": threads, "one_worker_s": one, "all_workers_s": all_, "n_cores": n_cores,
        "of_ideal": one / all_ / n_cores,
    }  # fmt: skip


def decode_s(runner: str, n_workers: int) -> float:
    """Seconds for the texts of a seed round, after a few short ones."""
    from prefect import flow

    from tasks.decode import decode
    from tasks.job import open_job
    from tasks.prompts import split
    from tasks.sample import allot_screen, sample

    @flow(name="scaling")
    def decode_some() -> float:
        job = open_job(str(folder / "audit.yaml"), overrides, str(folder / "run"))
        with job.workers:
            prompts = split(job)
            decode(job, job.pair, prompts, allot_screen(job, prompts), "screen", 0)
            allocation = sample(job, prompts, [], [], None, [])
            begun = time.perf_counter()
            decode(job, job.pair, prompts, allocation, "discovery", 0)
            return time.perf_counter() - begun

    with cluster_of(runner, n_workers) as run, empty_cache() as folder:
        (folder / "audit.yaml").write_text(AUDIT)
        overrides = [f"run.{key}={value}" for key, value in run.items()]
        return decode_some()


@contextmanager
def empty_cache() -> Iterator[Path]:
    """A folder that is the cache, for a while."""
    before = os.environ.get("WHATCHANGED_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WHATCHANGED_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["WHATCHANGED_CACHE"]
            if before is not None:
                os.environ["WHATCHANGED_CACHE"] = before


def print_runner(runner: str, figures: Figures) -> None:
    """The figures of a runner as text."""
    waiting, handing, decoding = (figures[part] for part in ("waiting", "handing", "decoding"))
    print(f"\n{runner}")
    for n, efficiency in waiting.items():
        print(f"  {n:>3} workers, chunks of {figures['chunk_s']} s: efficiency {efficiency:.3f}")
    cpu_ms = handing["driver_cpu_ms"]
    print(
        f"  two workers return {handing['per_second']:.1f} chunks a second; each takes the driver"
        f" {cpu_ms:.0f} ms of its processor, which is full at {1000 / cpu_ms:.0f} a second: 1,000"
        f" workers need chunks of at least {cpu_ms:.0f} s"
    )
    print(
        f"  decoding: this process {decoding['threads_s']:.1f} s, one worker"
        f" {decoding['one_worker_s']:.1f} s, {decoding['n_cores']} workers"
        f" {decoding['all_workers_s']:.1f} s, {decoding['of_ideal']:.2f} of ideal"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and with --json one line of figures."""
    parser = argparse.ArgumentParser(description="How well several workers are used.")
    parser.add_argument("--quick", action="store_true", help="fewer chunks, 1 and 8 workers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runners", default="ray,processes")
    asked = parser.parse_args(arguments)
    n_workers, n_each, n_chunks = ((1, 8), 4, 60) if asked.quick else (WORKERS, 10, 200)
    results: Figures = {}
    with empty_cache() as folder:
        prepare_environment(folder)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            for runner in asked.runners.split(","):
                results[runner] = {
                    "chunk_s": CHUNK_S,
                    "waiting": measure_waiting(runner, n_workers, n_each, CHUNK_S),
                    "handing": measure_handing(runner, n_chunks),
                    "decoding": measure_decoding(runner),
                }
                print_runner(runner, results[runner])
    if asked.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
