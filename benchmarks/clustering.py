"""Streaming clustering at scale: 1,000,000 x 384 vectors in chunks, against scikit-learn's ways.

    python -m benchmarks.clustering [--quick] [--json]

The vectors are unit vectors of groups that overlap, of unequal sizes, in a temporary file; once in
random order, once group after group. Every way runs in a process of its own, on one thread, and
reads the same chunks with plain reads. Columns:

    peak      memory at its highest less that of the bare interpreter, of the way's own process
    seconds   of that process, labels of all rows included, imports not
    ratio     seconds against the plain `partial_fit` loop: medians of turns in one process; ours
              includes the labels of all rows, the loop does not
    groups    adjusted Rand index (ARI) with the true groups, and as a share of the full fit's
    full fit  ARI with the labels of the full fit; the other seed says what the start alone does
    streamed  share of rows whose label, when they passed in training, is their label at the end

"full, from ours" is a full fit that starts at our centroids, and "full fit" in its row is the ARI
with our labels: what streaming alone does. BERTopic's online mode, as its documentation sets it
up, runs where `bertopic` can be imported; it is no dependency.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Figures = dict[str, Any]

D_EMBED = 384
N_GROUPS = 100
CHUNK_ROWS = 10_000
BERTOPIC = "BERTopic online"
ORDERS = ("random order", "group after group")
# Groups differ in 32 directions, within which they overlap: a row is nearer to another group's
# centre than to its own in 3% of the cases. The largest group is about ten times the smallest.
_N_DIRECTIONS = 32
_SPREAD = 1.1
_SIZE_SPREAD = 0.5
_NOISE = 0.3
_WORDS_PER_TEXT = 6


def write_vectors(folder: Path, n: int, order: str) -> None:
    """`vectors.npy (n, 384)` and `groups.npy (n,)`."""
    import numpy as np

    rng = np.random.default_rng(0)
    shares = rng.lognormal(0.0, _SIZE_SPREAD, N_GROUPS)
    axes = np.linalg.qr(rng.standard_normal((D_EMBED, _N_DIRECTIONS)))[0].T.astype(np.float32)
    centres = rng.standard_normal((N_GROUPS, _N_DIRECTIONS), dtype=np.float32)
    groups = rng.choice(N_GROUPS, n, p=shares / shares.sum())
    if order != ORDERS[0]:
        groups.sort()
    noise = np.float32(_SPREAD * _NOISE * np.sqrt(_N_DIRECTIONS / D_EMBED))
    path = folder / "vectors.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (n, D_EMBED))
    for low in range(0, n, CHUNK_ROWS):
        part = groups[low : low + CHUNK_ROWS]
        inner = centres[part] + np.float32(_SPREAD) * rng.standard_normal(
            (len(part), _N_DIRECTIONS), dtype=np.float32
        )
        rows = inner @ axes + noise * rng.standard_normal((len(part), D_EMBED), dtype=np.float32)
        vectors[low : low + len(part)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors.flush()
    np.save(folder / "groups.npy", groups)


def cluster_ours(folder: Path) -> Figures:
    import numpy as np

    from whatchanged.chunks import NpyChunks
    from whatchanged.cluster import fit_clusters

    found = fit_clusters(
        NpyChunks(folder / "vectors.npy", CHUNK_ROWS),
        weights=None,
        is_intervention=None,
        method="minibatch_kmeans",
        n_clusters=N_GROUPS,
        min_cluster_size=15,
        seed=0,
    )
    np.save(folder / "centroids.npy", found.centroids)
    return {"labels": found.labels, "streamed": found.settled, "n_clusters": len(found.centroids)}


def loop_partial_fit(folder: Path) -> Any:
    """The plain loop: the fitted model, and the labels of every chunk as it passed."""
    from sklearn.cluster import MiniBatchKMeans

    from whatchanged.chunks import NpyChunks

    model = MiniBatchKMeans(N_GROUPS, random_state=0)
    labels = []
    chunks = NpyChunks(folder / "vectors.npy", CHUNK_ROWS)
    for index in range(len(chunks)):
        labels.append(model.partial_fit(chunks[index]).labels_)
    return model, labels


def cluster_plain(folder: Path) -> Figures:
    import numpy as np

    from whatchanged.chunks import NpyChunks

    model, streamed = loop_partial_fit(folder)
    chunks = NpyChunks(folder / "vectors.npy", CHUNK_ROWS)
    labels = np.concatenate([model.predict(chunks[index]) for index in range(len(chunks))])
    agreement = float((labels == np.concatenate(streamed)).mean())
    return {"labels": labels, "streamed": agreement, "n_clusters": len(set(labels.tolist()))}


def cluster_full(folder: Path, seed: int = 0, start: str = "k-means++") -> Figures:
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    init = np.load(folder / start) if start.endswith(".npy") else start
    model = MiniBatchKMeans(N_GROUPS, init=init, n_init=1, random_state=seed)
    model.fit(np.load(folder / "vectors.npy"))
    return {"labels": model.labels_, "n_clusters": len(set(model.labels_.tolist()))}


def cluster_bertopic(folder: Path) -> Figures:
    """Online topic modelling as BERTopic's documentation has it, with as many clusters as groups;
    texts are made of their group's words."""
    import numpy as np
    from bertopic import BERTopic  # type: ignore[import-not-found]
    from bertopic.vectorizers import OnlineCountVectorizer  # type: ignore[import-not-found]
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import IncrementalPCA

    from whatchanged.chunks import NpyChunks

    model = BERTopic(
        umap_model=IncrementalPCA(n_components=5),
        hdbscan_model=MiniBatchKMeans(N_GROUPS, random_state=0),
        vectorizer_model=OnlineCountVectorizer(stop_words="english", decay=0.01),
    )
    chunks = NpyChunks(folder / "vectors.npy", CHUNK_ROWS)
    texts = write_texts(np.load(folder / "groups.npy"))
    streamed, labels = [], []
    for index in range(len(chunks)):
        # From 32-bit rows IncrementalPCA makes now 32, now 64 bits, which MiniBatchKMeans refuses.
        vectors, low = chunks[index].astype(np.float64), index * CHUNK_ROWS
        model.partial_fit(texts[low : low + len(vectors)], vectors)
        streamed.append(np.asarray(model.topics_))
    for index in range(len(chunks)):
        vectors, low = chunks[index].astype(np.float64), index * CHUNK_ROWS
        labels.append(np.asarray(model.transform(texts[low : low + len(vectors)], vectors)[0]))
    final = np.concatenate(labels)
    agreement = float((final == np.concatenate(streamed)).mean())
    return {
        "labels": final,
        "streamed": agreement,
        "n_clusters": len(set(final.tolist())),
    }


def write_texts(groups: NDArray[np.int64]) -> list[str]:
    """One text per row: words of its group, and one that all groups have."""
    import numpy as np

    words = np.random.default_rng(1).integers(0, 20, (len(groups), _WORDS_PER_TEXT))
    return [
        " ".join([f"common{row[0]}", *(f"group{group}word{word}" for word in row[1:])])
        for group, row in zip(groups.tolist(), words.tolist(), strict=True)
    ]


def time_ways(folder: Path, n_repeats: int) -> Figures:
    """Seconds of ours and of the plain loop, in turns."""
    from benchmarks.timing import time_in_turns

    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: loop_partial_fit(folder),
        "ours": lambda: cluster_ours(folder),
    }
    return {"seconds": time_in_turns(ways, n_repeats)}


WAYS: dict[str, Callable[[Path], Figures]] = {
    "ours": cluster_ours,
    "plain partial_fit": cluster_plain,
    "full fit": cluster_full,
    "full, other seed": lambda folder: cluster_full(folder, 1),
    "full, from ours": lambda folder: cluster_full(folder, 0, "centroids.npy"),
    BERTOPIC: cluster_bertopic,
}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_way(way: str, folder: Path) -> Figures:
    """Run one way in this process, which has done nothing before; its labels go to the folder."""
    before = peak_bytes()
    for module in ["sklearn.cluster", "whatchanged.cluster"] + ["bertopic"] * (way == BERTOPIC):
        importlib.import_module(module)
    start = time.perf_counter()
    figures = WAYS[way](folder)
    figures["seconds"] = time.perf_counter() - start
    figures["peak_bytes"] = peak_bytes() - before
    import numpy as np

    np.save(folder / f"{way}.npy", figures.pop("labels"))
    return figures


def run_child(*arguments: str) -> Figures:
    """The figures that a child process prints last. One thread: what a second one would save
    depends on the machine, not on the way."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.clustering", *arguments]
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_order(order: str, n: int, n_repeats: int) -> Figures:
    """Every way on vectors in one order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_child("--write", order, "--rows", str(n), "--folder", name)
        ways = [way for way in WAYS if way != BERTOPIC or has_bertopic()]
        figures = {way: run_child("--way", way, "--folder", name) for way in ways}
        turns = run_child("--time", str(n_repeats), "--folder", name)["seconds"]
        return compare_ways(folder, figures, turns)


def compare_ways(folder: Path, figures: Figures, turns: dict[str, list[float]]) -> Figures:
    """The figures of all ways, with their agreement and the ratio of their seconds."""
    import numpy as np
    from sklearn.metrics import adjusted_rand_score

    from benchmarks.timing import speed_ratio

    groups, full = np.load(folder / "groups.npy"), np.load(folder / "full fit.npy")
    for way, row in figures.items():
        labels = np.load(folder / f"{way}.npy")
        row["ari_groups"] = float(adjusted_rand_score(groups, labels))
        reference = np.load(folder / "ours.npy") if way == "full, from ours" else full
        row["ari_full"] = float(adjusted_rand_score(reference, labels))
    for row in figures.values():
        row["ari_share_of_full"] = row["ari_groups"] / figures["full fit"]["ari_groups"]
    figures["ours"]["ratio"] = speed_ratio(turns["plain"], turns["ours"])
    figures["ours"]["turns_s"] = turns["ours"]
    figures["plain partial_fit"] |= {"ratio": 1.0, "turns_s": turns["plain"]}
    return figures


def has_bertopic() -> bool:
    return importlib.util.find_spec("bertopic") is not None


_COLUMNS = (
    "way",
    "peak MiB",
    "seconds",
    "ratio",
    "groups",
    "of full",
    "full fit",
    "streamed",
    "clusters",
)


def format_row(way: str, row: Figures) -> str:
    """One line of the table; a dash where a way has no such figure."""
    cells = [
        f"{row['peak_bytes'] / 2**20:.0f}",
        f"{row['seconds']:.1f}",
        f"{row['ratio']:.2f}" if "ratio" in row else "-",
        f"{row['ari_groups']:.3f}",
        f"{row['ari_share_of_full']:.3f}",
        f"{row['ari_full']:.3f}",
        f"{row['streamed']:.4f}" if "streamed" in row else "-",
        f"{row['n_clusters']}",
    ]
    return f"{way:<20}" + "".join(f"{cell:>10}" for cell in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clustering")
    parser.add_argument("--quick", action="store_true", help="100,000 vectors: 3 minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    for inner in ("--way", "--write", "--time", "--rows", "--folder"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        run_in_child(options)
    else:
        measure_all(100_000 if options.quick else 1_000_000, options)


def run_in_child(options: argparse.Namespace) -> None:
    """Do what the parent asked for, and print the figures as one line of JSON."""
    folder = Path(options.folder)
    figures: Figures = {}
    if options.way:
        figures = run_way(options.way, folder)
    elif options.write:
        write_vectors(folder, int(options.rows), options.write)
    else:
        figures = time_ways(folder, int(options.time))
    print(json.dumps(figures))


def measure_all(n: int, options: argparse.Namespace) -> None:
    """Measure both orders and print their tables."""
    result: Figures = {
        "benchmark": "clustering", "quick": options.quick, "n": n, "d_embed": D_EMBED,
        "n_clusters": N_GROUPS, "n_threads": 1, "orders": {},
    }  # fmt: skip
    for order in ORDERS:
        figures = measure_order(order, n, 3)
        result["orders"][order] = figures
        print(f"\n{n:,} x {D_EMBED} vectors, {N_GROUPS} groups, {order}")
        print(f"{_COLUMNS[0]:<20}" + "".join(f"{name:>10}" for name in _COLUMNS[1:]))
        for way, row in figures.items():
            print(format_row(way, row))
        if not has_bertopic():
            print(f"{BERTOPIC:<20} not installed")
        if options.quick:
            print("the search for a start takes as long at any size: judge the ratio at 1,000,000")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
