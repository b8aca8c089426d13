"""The activation store against the three historical ways: time, memory, bytes, reading.

    python -m benchmarks.activation_store [--quick] [--json] [--only store,pipeline,memory,reading]

Everything runs on one thread. The ways take turns on the same batches; a ratio is the median over
batches, once of elapsed time and once of the processor's time, which other programs on the machine
disturb less. "read" is one sum over the block of component activations. The store is written to a
temporary folder, synced to disk whenever a segment is full.

    store     what it takes to store a batch, exact float32 and half precision
    pipeline  component block in, dashboard figures out; the historical ones with their gathering of
              cluster activations, and the statistics after the last batch
    memory    growth of the resident set, in a process of its own; bytes on disk
    reading   the top 20 texts of a cluster with all activations, page cache warm and dropped

`store_factory` and `pipeline_factory` fit any harness that hands over batches as
`benchmarks.activation_workload` does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.activation_reading import measure_reading
from benchmarks.activation_references import ReferenceStore, describe, total_per_cluster
from benchmarks.activation_workload import Batch, Spec, Workload, groups_of
from whatchanged.store.activation_reader import ActivationStore, Example
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.text_batch import TextBatch

Figures = dict[str, Any]
METHODS = ("original", "current", "optimized")
SETTINGS = {"W1": (200, 0.1), "W2": (200, 1.0), "W3": (1000, 0.5)}
# Targets: at least, or at most where the name says so.
TARGETS = {
    "original": (27, 49, 47), "optimized": (5.7, 14, 11), "at most x read": (4, 4, 4),
}  # fmt: skip


class Candidate:
    """The store behind the interface of a harness: add, close, and what was found."""

    def __init__(self, clustering: Any, spec: Any, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        groups = groups_of(clustering, getattr(spec, "agg", "sum"))
        self._names = groups.clusters
        self.path = Path(self._folder.name) / "store"
        self._storage = BatchProcessingStorage.create(self.path, groups, **options)
        self._shown: dict[int, list[Example]] = {}

    def add(self, batch: Any) -> None:
        texts = TextBatch(
            tuple(_key(text) for text in batch.texts),
            np.zeros(batch.batch, bool),
            np.arange(batch.batch + 1) * batch.seq,
            batch.token_ids.reshape(-1),
        )
        self._storage.add_batch(batch.comp.cpu().numpy(), batch.alive, texts)

    def close(self) -> None:
        self.store = self._storage.finalize()

    def top(self, cluster: int, k: int) -> list[tuple[int, float]]:
        self._shown[cluster] = self.store.top(self._names[cluster], k)
        return [(example.number, example.value) for example in self._shown[cluster]]

    def window(self, cluster: int, rank: int) -> Any:
        return self._shown[cluster][rank].activations

    def coactivation(self) -> Any:
        return self.store.summaries.cluster_pairs.counts.sum(axis=0)


def _key(text: Any) -> str:
    # Another harness may cut its hashes short.
    from whatchanged.keys import bytes_digest

    known: str = text.text_hash
    return known if len(known) == 64 else bytes_digest(text.full_text.encode())


def store_factory(clustering: Any, spec: Any) -> Candidate:
    """The store alone, exact."""
    return Candidate(clustering, spec, precision="float32", summarize=False)


def half_factory(clustering: Any, spec: Any) -> Candidate:
    """The store alone, half precision."""
    return Candidate(clustering, spec, precision="float16", summarize=False)


def pipeline_factory(clustering: Any, spec: Any) -> Candidate:
    """The store with its summaries: everything that a dashboard shows."""
    return Candidate(clustering, spec)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Elapsed seconds and seconds of the processor."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def measure_store(spec: Spec, n_batches: int) -> Figures:
    """Time per batch of every way, in turns, after one batch that is not counted."""
    workload = Workload(spec)
    base = [workload.next() for _ in range(3)]
    ours = {
        "float32": store_factory(workload.clustering, spec),
        "float16": half_factory(workload.clustering, spec),
    }
    adds: dict[str, Callable[[Batch], object]] = {
        name: getattr(ReferenceStore(workload.clustering), f"add_{name}") for name in METHODS
    }
    adds["read"] = lambda batch: batch.comp.numpy().sum()
    adds |= {name: candidate.add for name, candidate in ours.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in adds}
    names, kept = list(adds), []
    gc.collect()
    for turn in range(n_batches + 1):
        batch = workload.again(base[turn % len(base)])
        # See `activation_references`: an address must not be used twice.
        kept.append(batch)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            took = timed(lambda name=name, batch=batch: adds[name](batch))  # type: ignore[misc]
            if turn:
                times[name].append(took)
    figures = {name: _figures(times, name) for name in adds}
    for name, candidate in ours.items():
        took = timed(candidate.close)[0]
        figures[name] |= {"close_ms": 1e3 * took, **_bytes(candidate.store)}
    return {"block_mb": base[0].comp.numel() * 4 / 1e6, "ways": figures}


def _figures(times: dict[str, list[tuple[float, float]]], name: str) -> Figures:
    elapsed, cpu = np.array(times[name]).T
    figures = {
        "ms_median": 1e3 * float(np.median(elapsed)),
        "ms_mean": 1e3 * float(elapsed.mean()),
        "ms_min": 1e3 * float(elapsed.min()),
    }
    for reference in (*METHODS, "read"):
        other, other_cpu = np.array(times[reference]).T
        figures[f"x_{reference}"] = float(np.median(other / elapsed))
        figures[f"x_{reference}_cpu"] = float(np.median(other_cpu / np.maximum(cpu, 1e-6)))
    return figures


def _bytes(store: ActivationStore) -> Figures:
    """Bytes per non-zero: of the events alone, and of everything on disk but the summaries."""
    events, everything = 0, 0
    for segment in store._segments:
        everything += segment.n_bytes
        for name, column in segment.columns.items():
            is_text = name in ("keys", "tokens", "n_tokens", "numbers", "is_intervention")
            events += 0 if is_text else column.nbytes
    return {
        "bytes_per_event": events / store.n_events,
        "all_bytes_per_event": everything / store.n_events,
    }


def measure_pipeline(spec: Spec, n_batches: int, n_more: int) -> Figures:
    """Milliseconds per batch from component block to dashboard figures; ours with its warm-up, and
    in its steady state: medians of the batches after the 60th."""
    workload = Workload(spec)
    base = [workload.next() for _ in range(4)]
    ours = pipeline_factory(workload.clustering, spec)
    stores = {name: ReferenceStore(workload.clustering) for name in METHODS[1:]}
    spent = {name: np.zeros(2) for name in stores}
    took: list[tuple[float, float]] = []
    kept = []
    for turn in range(n_batches):
        batch = workload.again(base[turn % len(base)])
        kept.append(batch)
        gather = timed(lambda batch=batch: total_per_cluster(batch, workload.clustering))  # type: ignore[misc]
        for name, store in stores.items():
            add = getattr(store, f"add_{name}")
            spent[name] += np.add(gather, timed(lambda add=add, batch=batch: add(batch)))  # type: ignore[misc]
        took.append(timed(lambda batch=batch: ours.add(batch)))  # type: ignore[misc]
    for name, store in stores.items():
        spent[name] += timed(lambda store=store: describe(store))  # type: ignore[misc]
        spent[name] /= n_batches
    del stores, kept
    gc.collect()
    for turn in range(n_more):
        batch = workload.again(base[turn % len(base)])
        took.append(timed(lambda batch=batch: ours.add(batch)))  # type: ignore[misc]
    close = np.array(timed(ours.close))
    warm = np.array(took[:n_batches]).mean(axis=0) + close / len(took)
    steady = np.median(np.array(took[60:]), axis=0) if len(took) > 60 else np.full(2, np.nan)
    figures: Figures = {
        "warm_ms": 1e3 * warm[0], "steady_ms": 1e3 * steady[0], "close_ms": 1e3 * close[0]
    }  # fmt: skip
    for name, seconds in spent.items():
        figures[f"{name}_ms"] = 1e3 * seconds[0]
        for state, mine in (("warm", warm), ("steady", steady)):
            figures[f"{state}_x_{name}"] = seconds[0] / mine[0]
            figures[f"{state}_x_{name}_cpu"] = seconds[1] / mine[1]
    return figures


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_memory(spec: Spec, n_batches: int, kind: str) -> Figures:
    """Growth of this process while it stores batches; the batches are there from the start."""
    workload = Workload(spec)
    base = [workload.next() for _ in range(4)]
    scaled = [batch.comp.clone() for batch in base]
    factory = {"store": store_factory, "pipeline": pipeline_factory}[kind]
    ours, resident = factory(workload.clustering, spec), []
    rng = np.random.default_rng(0)
    gc.collect()
    for turn in range(n_batches):
        batch = base[turn % len(base)]
        torch.mul(scaled[turn % len(base)], float(rng.lognormal(0, 0.3)), out=batch.comp)
        batch.texts = workload.texts_of(batch.token_ids)
        ours.add(batch)
        resident.append(resident_mb())
    ours.close()
    at_1000 = 1000 // spec.batch
    late = np.array(resident[20:])
    return {
        "n_texts": n_batches * spec.batch,
        "mb_per_batch_after_20": float(np.polyfit(np.arange(len(late)), late, 1)[0]),
        "mb_from_1000_texts": resident[-1] - resident[at_1000],
        "most_mb_from_1000_texts": max(resident[at_1000:]) - resident[at_1000],
        "resident_mb": resident[-1],
        **_bytes(ours.store),
    }


def child(*arguments: str) -> Figures:
    """The figures of a measurement in a process of its own. One arena: what several threads'
    heaps would add says nothing about the store."""
    command = [sys.executable, "-m", "benchmarks.activation_store", *arguments]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_all(quick: bool, parts: Sequence[str]) -> Figures:
    result: Figures = {"benchmark": "activation_store", "quick": quick, "n_threads": 1}
    for name, (n_clusters, active) in SETTINGS.items():
        spec = Spec(n_clusters, active)
        if "store" in parts:
            n = {"W1": 30, "W2": 12, "W3": 4}[name] * (1 if quick else 2)
            result[f"store {name}"] = print_store(name, measure_store(spec, n))
        if "pipeline" in parts and name != "W3":
            n, more = (40, 60) if name == "W1" else (24, 66)
            result[f"pipeline {name}"] = print_pipeline(name, measure_pipeline(spec, n, more))
    if "memory" in parts:
        for name, kind in (("W1", "pipeline"), ("W2", "store"), ("W2", "pipeline")):
            n = (1000 if name == "W1" else 100) if quick else 3125
            figures = child("--memory", kind, "--setting", name, "--batches", str(n))
            result[f"memory {name} {kind}"] = print_memory(name, kind, figures)
    if "reading" in parts:
        n_texts = 200_000 if quick else 2_000_000
        result["reading"] = print_reading(measure_reading(n_texts))
    return result


def print_store(name: str, figures: Figures) -> Figures:
    at = list(SETTINGS).index(name)
    n_clusters, active = SETTINGS[name]
    print(
        f"\nstore {name}: {n_clusters} clusters, {active:.0%} active, {figures['block_mb']:.1f} MB"
    )
    print(
        f"{'':<11}{'ms':>8}{'mean':>8}{'min':>8}"
        + "".join(f"{'x ' + m:>22}" for m in (*METHODS, "read"))
    )
    for way, row in figures["ways"].items():
        ratios = [f"{row[f'x_{m}']:.2f} ({row[f'x_{m}_cpu']:.2f})" for m in (*METHODS, "read")]
        times = "".join(f"{row[key]:>8.2f}" for key in ("ms_median", "ms_mean", "ms_min"))
        print(f"{way:<11}{times}" + "".join(f"{ratio:>22}" for ratio in ratios))
    exact, half = figures["ways"]["float32"], figures["ways"]["float16"]
    met = {
        "original": exact["x_original"] >= TARGETS["original"][at],
        "optimized": exact["x_optimized"] >= TARGETS["optimized"][at],
        "read": 1 / exact["x_read"] <= TARGETS["at most x read"][at],
        "bytes": exact["bytes_per_event"] <= 7.2 and half["bytes_per_event"] <= 5.2,
    }
    wanted = (
        f"{TARGETS['original'][at]} x original, {TARGETS['optimized'][at]} x optimized, 4 reads"
    )
    print(f"target: {wanted}; a store takes {1 / exact['x_read']:.1f} reads; met: {met}")
    print(
        f"bytes per non-zero: {exact['bytes_per_event']:.2f} exact, {half['bytes_per_event']:.2f}"
        f" half; with keys and tokens {exact['all_bytes_per_event']:.2f}"
        f" and {half['all_bytes_per_event']:.2f}"
    )
    return figures | {"met": met}


def print_pipeline(name: str, figures: Figures) -> Figures:
    print(f"\npipeline {name}: ms per batch (in brackets: ratios of processor time)")
    for state, wanted in (("warm", 10), ("steady", 20)):
        ratios = ", ".join(
            f"{figures[f'{state}_x_{m}']:.1f} ({figures[f'{state}_x_{m}_cpu']:.1f}) x {m}"
            for m in METHODS[1:]
        )
        aim = f"; target {wanted} x current" if name == "W2" else ""
        print(f"{state:<7}{figures[f'{state}_ms']:>8.1f}   {ratios}{aim}")
    print(f"current{figures['current_ms']:>8.1f}   optimized {figures['optimized_ms']:.1f}")
    return figures


def print_memory(name: str, kind: str, figures: Figures) -> Figures:
    print(
        f"\nmemory {name} {kind}, {figures['n_texts']:,} texts:"
        f" {figures['mb_per_batch_after_20']:.4f} MB per batch after 20 (target 0.05),"
        f" {figures['mb_from_1000_texts']:+.1f} MB since text 1,000, at most"
        f" {figures['most_mb_from_1000_texts']:+.1f} (target 10); all: {figures['resident_mb']:.0f}"
    )
    return figures


def print_reading(figures: Figures) -> Figures:
    print(
        f"\nreading from {figures['n_texts']:,} texts, {figures['gb']:.2f} GB: top 20 of a cluster"
    )
    for state, wanted in (("warm", 2), ("cold", 10)):
        print(
            f"{state}: {figures[f'{state}_ms']:.2f} ms median, {figures[f'{state}_min_ms']:.2f}"
            f" least, {figures[f'{state}_max_ms']:.2f} most; of the processor"
            f" {figures[f'{state}_cpu_ms']:.2f} (target {wanted})"
        )
    print(f"open {figures['open_ms']:.0f} ms, summaries {figures['summaries_ms']:.0f} ms, once")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activation_store")
    parser.add_argument("--quick", action="store_true", help="fewer batches, 200,000 texts")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--only", default="store,pipeline,memory,reading", help="parts")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.memory:
        spec = Spec(*SETTINGS[options.setting])
        print(json.dumps(measure_memory(spec, options.batches, options.memory)))
        return
    result = measure_all(options.quick, options.only.split(","))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
