"""Reading from an activation store of millions of texts, for `benchmarks.activation_store`.

The store is made of 65,536 texts that went through the writer, and of copies of their segments
under the numbers of later texts. The examples of every unit are spread over the copies at random.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.activation_workload import Spec, Workload, groups_of
from whatchanged.activations.poles import POLES
from whatchanged.store import codec
from whatchanged.store.activation_files import StoredFile, read_manifest
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.text_batch import TextBatch

N_WRITTEN = 65_536
N_QUERIES = 40


def measure_reading(n_texts: int) -> dict[str, Any]:
    """Milliseconds of a query for the top 20 texts of a cluster, warm and cold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        write_store(folder, min(n_texts, N_WRITTEN))
        repeat_store(folder, max(1, round(n_texts / N_WRITTEN)))
        return time_queries(folder)


def write_store(folder: Path, n_texts: int) -> None:
    spec = Spec(200, 0.1)
    workload = Workload(spec)
    base = [workload.next() for _ in range(16)]
    storage = BatchProcessingStorage.create(folder, groups_of(workload.clustering, spec.agg))
    rng = np.random.default_rng(0)
    starts, sides = np.arange(spec.batch + 1) * spec.seq, np.zeros(spec.batch, bool)
    for turn in range(n_texts // spec.batch):
        batch = base[turn % len(base)]
        texts = TextBatch(
            tuple(rng.bytes(32).hex() for _ in range(spec.batch)), sides, starts,
            batch.token_ids.reshape(-1),
        )  # fmt: skip
        scale = np.float32(rng.lognormal(0, 0.3))
        storage.add_batch(batch.comp.numpy() * scale, batch.alive, texts)
    storage.finalize()


def repeat_store(folder: Path, n_copies: int) -> None:
    """Make the store `n_copies` times as long."""
    manifest = read_manifest(folder)
    assert manifest is not None
    n_texts, segments = manifest.n_texts, list(manifest.segments)
    for copy in range(1, n_copies):
        for file in segments:
            data = bytearray((folder / file.name).read_bytes())
            n_header = int.from_bytes(data[:8], "little")
            header = codec.json_value(bytes(data[8 : 8 + n_header]))
            low, high = (8 + n_header + at for at in header["numbers"]["data_offsets"])
            np.frombuffer(data, np.uint32, (high - low) // 4, low)[:] += np.uint32(copy * n_texts)
            name = f"events-copy-{copy}-{file.name}"
            (folder / name).write_bytes(data)
            first, last = (number + copy * n_texts for number in (file.first, file.last))
            manifest.segments.append(StoredFile(name, len(data), "", first, last))
    (summaries,) = manifest.summaries
    arrays = codec.arrays_value((folder / summaries.name).read_bytes())
    rng = np.random.default_rng(0)
    for table in (f"{pole}.{name}.texts" for pole in POLES for name in ("top", "sample")):
        there = arrays[table] >= 0
        arrays[table] = arrays[table] + there * n_texts * rng.integers(0, n_copies, there.shape)
    data = codec.arrays_bytes(arrays)
    manifest.summaries = [replace(summaries, name="summaries-copy.safetensors", n_bytes=len(data))]
    (folder / "summaries-copy.safetensors").write_bytes(data)
    manifest.n_texts *= n_copies
    manifest.write(folder)
    os.sync()


def time_queries(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    start = time.perf_counter()
    store = ActivationStore(folder)
    opened = time.perf_counter()
    assert store.summaries is not None
    loaded = time.perf_counter()
    # Each cluster is active in a tenth of the 16 batches that repeat: some in none.
    known = [c for c in store.groups.clusters if len(store.top(c)) == 20]
    clusters = [known[c] for c in rng.integers(0, len(known), N_QUERIES)]
    times = {"warm": [query(store, cluster) for cluster in clusters], "cold": []}
    for cluster in clusters:
        # Pages that are mapped stay in memory: the maps go first.
        summaries = store.summaries
        del store
        drop_cached(folder)
        store = ActivationStore(folder)
        store.__dict__["summaries"] = summaries
        times["cold"].append(query(store, cluster))
    return {
        "n_texts": store.n_texts, "gb": store.n_bytes / 1e9,
        "open_ms": 1e3 * (opened - start), "summaries_ms": 1e3 * (loaded - opened),
        **{
            f"{state}_{name}": 1e3 * float(figure)
            for state, took in times.items()
            for elapsed, cpu in [np.array(took).T]
            for name, figure in (
                ("ms", np.median(elapsed)), ("min_ms", elapsed.min()), ("max_ms", elapsed.max()),
                ("cpu_ms", np.median(cpu)),
            )
        },
    }  # fmt: skip


def query(store: ActivationStore, cluster: str) -> tuple[float, float]:
    """Seconds of one query and of the processor, its answer looked at."""
    start, start_cpu = time.perf_counter(), time.process_time()
    examples = store.top(cluster, 20)
    seconds = time.perf_counter() - start, time.process_time() - start_cpu
    assert len(examples) == 20
    for example in examples:
        assert abs(example.activations.max() / example.value - 1) < 2e-3
    return seconds


def drop_cached(folder: Path) -> None:
    """Ask the system to forget what it holds of these files."""
    for path in folder.glob("events-*"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
