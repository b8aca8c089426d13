import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.chunks import PickedRows
from whatchanged.cluster import (
    _find_distinct,
    assign,
    check_n_clusters,
    cohesion,
    describe_lineage,
    fit_clusters,
    label_agreement,
    measure_quality,
)
from whatchanged.errors import InputError, UsageError
from whatchanged.quality import Lineage, inherit_labels

METHODS = ("minibatch_kmeans", "hdbscan")


def fit(rows, method="minibatch_kmeans", **changes):
    arguments = {
        "weights": None, "is_intervention": None, "n_clusters": 5, "min_cluster_size": 5, "seed": 0,
    }  # fmt: skip
    return fit_clusters(np.asarray(rows, dtype=np.float32), method=method, **arguments | changes)


def normal_rows(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def blobs(n, n_blobs, d=16, seed=0, distance=10.0):
    """Rows around far-apart centres, and the centre that each came from."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_blobs, d)) * distance
    truth = np.arange(n) % n_blobs
    return (centres[truth] + rng.normal(size=(n, d))).astype(np.float32), truth


# Copies of three rows are three clusters without any width; HDBSCAN asks for five texts each.
COPIES = "three distinct rows, twice each"
DEGENERATE = {
    "no rows": (np.zeros((0, 3)), 0, 0),
    "no rows and no columns": (np.zeros((0, 0)), 0, 0),
    "one row": ([[1.0, 2.0]], 1, 0),
    "one row of zeros": ([[0.0, 0.0]], 1, 0),
    "two rows": ([[0.0, 0.0], [1.0, 1.0]], 2, 0),
    "all equal": (np.ones((30, 4)), 1, 0),
    "fewer rows than clusters": (normal_rows(3, 4), 3, 0),
    COPIES: (np.repeat(normal_rows(3, 4), 2, axis=0), 3, 0),
    "one column": (np.arange(4.0)[:, None], 4, 0),
    "fewer rows than a cluster needs": (normal_rows(5, 4), 5, 0),
    "zeros of both signs": ([[0.0], [-0.0], [0.0]], 1, 0),
    "one cloud": (normal_rows(300, 8), 5, 0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_inputs_have_their_documented_result(name, method):
    rows, n_means, n_density = DEGENERATE[name]
    found = fit(rows, method)
    expected = n_means if method == "minibatch_kmeans" else n_density
    assert len(found.centroids) == expected
    assert set(found.labels.tolist()) == (
        set(range(expected)) if expected else {-1} if len(rows) else set()
    )
    assert found.structure_found == (name == COPIES and method == "minibatch_kmeans")
    assert found.margins.shape == (len(rows),)
    assert ((found.margins >= 0) & (found.margins <= 1)).all()
    quality = measure_quality(np.asarray(rows, dtype=np.float32), found.labels, seed=0)
    assert quality.silhouette is None or -1 <= quality.silhouette <= 1
    assert quality.davies_bouldin is None or quality.davies_bouldin >= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_rows_that_are_not_finite_are_named(method, poison):
    rows = normal_rows(20, 4)
    rows[[3, 17], 2] = poison
    with pytest.raises(InputError, match=r"in 2 of 20 rows \(3, 17\)"):
        fit(rows, method)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_zero_everywhere_give_no_clusters(method):
    found = fit(normal_rows(20, 4), method, weights=np.zeros(20))
    assert found.labels.tolist() == [-1] * 20
    assert found.centroids.shape == (0, 4)
    assert not found.structure_found


def test_a_row_of_weight_zero_is_labelled_but_moves_no_centroid():
    rows = np.array([[0.0], [1.0], [10.0], [11.0], [500.0]])
    found = fit(rows, n_clusters=2, weights=np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    assert sorted(found.centroids.ravel().tolist()) == [0.5, 10.5]
    assert found.labels[4] == found.labels[3]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_labels_are_contiguous_and_scores_never_nan(method, data):
    n = data.draw(st.integers(0, 40))
    d = data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d)
    rows = np.array(data.draw(cells), dtype=np.float32).reshape(n, d)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    found = fit(rows, method, n_clusters=data.draw(st.integers(1, 8)), weights=weights)
    k = len(found.centroids)
    assert set(found.labels.tolist()) - {-1} == set(range(k))
    assert np.isfinite(found.centroids).all()
    assert ((found.margins >= 0) & (found.margins <= 1)).all()
    quality = measure_quality(rows, found.labels, seed=0)
    assert all(x is None or np.isfinite(x) for x in (quality.silhouette, quality.davies_bouldin))
    assert np.isfinite(cohesion(rows, found.labels, found.centroids)).all()


def test_copies_of_one_row_that_fall_into_several_clusters_leave_none_without_a_row():
    rows = np.zeros((36, 1), dtype=np.float32)
    rows[6] = 1
    weights = np.array([0] * 6 + [1] + [0] * 18 + [2] + [3] * 10, dtype=float)
    found = fit(rows, "hdbscan", n_clusters=1, weights=weights)
    assert set(found.labels.tolist()) - {-1} == set(range(len(found.centroids)))


@pytest.mark.parametrize("method", METHODS)
def test_planted_clusters_are_found_as_structure(method):
    rows, truth = blobs(900, 6)
    found = fit(rows, method, n_clusters=6, min_cluster_size=15)
    assert label_agreement(found.labels, truth.astype(np.int32)) > 0.95
    assert found.structure_found
    assert measure_quality(rows, found.labels, seed=0).silhouette > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_text_weighs_as_much_as_its_copies(method):
    rows, _ = blobs(60, 3, d=4)
    counts = np.arange(60) % 4 + 1
    weighted = fit(rows, method, n_clusters=3, weights=counts)
    copied = fit(np.repeat(rows, counts, axis=0), method, n_clusters=3)
    assert weighted.labels.tolist() == copied.labels[np.cumsum(counts) - 1].tolist()
    assert weighted.centroids == pytest.approx(copied.centroids, abs=1e-5)


def test_as_many_clusters_as_asked_even_when_one_text_dominates():
    rows = normal_rows(400, 8)
    weights = np.ones(400)
    weights[0] = 100_000
    found = fit(rows, n_clusters=50, weights=weights)
    assert len(found.centroids) == 50
    assert len(set(found.labels.tolist())) == 50


def test_base_rows_stacked_first_do_not_hide_the_intervention():
    # The intervention adds a small cluster; the base fills every early chunk.
    base, _ = blobs(6000, 10, d=8)
    added = (np.full(8, 60.0) + normal_rows(60, 8)).astype(np.float32)
    is_intervention = np.arange(6060) >= 6000
    found = fit(
        np.concatenate([base, added]),
        n_clusters=11,
        is_intervention=is_intervention,
    )
    assert len(set(found.labels[6000:].tolist())) == 1
    assert found.labels[6000] not in found.labels[:6000]


def test_the_streamed_inertia_is_close_to_full_k_means():
    from sklearn.cluster import KMeans

    rows, _ = blobs(4000, 60, d=32, distance=1.0)
    found = fit(rows, n_clusters=60)
    inertia = np.square(rows - found.centroids[found.labels]).sum()
    assert inertia <= 1.05 * KMeans(60, n_init=1, random_state=0).fit(rows).inertia_


def test_starting_from_the_last_round_keeps_cluster_numbers():
    rows, _ = blobs(600, 5)
    first = fit(rows[:400], n_clusters=5)
    second = fit(rows, n_clusters=5, start=first.centroids)
    assert second.labels[:400].tolist() == first.labels.tolist()


def test_rows_closer_than_a_float_can_tell_have_defined_clusters():
    # Neighbouring floats: the squares of their differences vanish beside those of their values.
    rows = (1 + np.arange(300) * np.finfo(np.float32).eps).astype(np.float32)[:, None]
    found = fit(np.repeat(rows, 3, axis=1), n_clusters=5)
    assert 1 <= len(found.centroids) <= 5
    assert set(found.labels.tolist()) == set(range(len(found.centroids)))
    assert np.isfinite(found.centroids).all()
    assert ((found.margins >= 0) & (found.margins <= 1)).all()


def topic_rounds(seed, n_topics=12, n_old=1200, n_new=600, d=48):
    """Rows of an earlier round and of a new one that has a topic more, with their topics."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_topics + 1, d))
    topics = np.concatenate(
        [rng.integers(0, n_topics, n_old), rng.integers(0, n_topics, n_new - 40), [n_topics] * 40]
    )
    rows = centres[topics] + rng.normal(size=(len(topics), d)) * 0.8
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), topics, np.arange(len(topics)) >= n_old


def grow(rows, is_new, first, max_growth=0.25, **changes):
    earlier = None if is_new is None else (~is_new).astype(float)
    arguments = {"n_clusters": 12, "min_cluster_size": 15, "earlier_weights": earlier} | changes
    return fit(rows, start=first.centroids, max_growth=max_growth, **arguments)


@pytest.mark.parametrize("seed", range(3))
def test_a_new_topic_founds_a_cluster_while_the_old_labels_hold(seed):
    rows, topics, is_new = topic_rounds(seed)
    first = fit(rows[~is_new], n_clusters=12, seed=seed)
    second = grow(rows, is_new, first, seed=seed)
    assert len(second.centroids) == 13
    assert set(second.labels[topics == 12].tolist()) == {12}
    assert set(topics[second.labels == 12].tolist()) == {12}
    assert label_agreement(first.labels, second.labels[~is_new]) > 0.98
    assert (first.labels == second.labels[~is_new]).mean() > 0.98


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_clusters", [6, 12, 60])
def test_nothing_grows_where_nothing_is_new(seed, n_clusters):
    rows, topics, _ = topic_rounds(seed)
    rows = rows[topics < 12]
    is_new = np.random.default_rng(seed).random(len(rows)) < 0.4
    first = fit(rows[~is_new], n_clusters=n_clusters, seed=seed)
    second = grow(rows, is_new, first, n_clusters=n_clusters, seed=seed)
    assert len(second.centroids) == n_clusters


def test_nothing_grows_in_a_cloud_without_clusters():
    for seed, d in ((0, 2), (1, 2), (2, 8), (3, 64)):
        rows = normal_rows(3000, d, seed)
        is_new = np.arange(3000) >= 1500
        first = fit(rows[:1500], n_clusters=12, seed=seed)
        assert len(grow(rows, is_new, first, seed=seed).centroids) == 12


def test_growth_ends_at_its_cap():
    rows, _ = blobs(1000, 10, d=32)
    is_new = np.arange(1000) % 10 >= 4
    first = fit(rows[~is_new], n_clusters=4)
    sizes = [
        len(grow(rows, is_new, first, growth, n_clusters=4).centroids)
        for growth in (0.0, 0.2, 0.25, 0.5, 2.0)
    ]
    assert sizes == [4, 4, 5, 6, 10]


def test_clusters_join_only_where_some_rows_are_new_and_some_are_not():
    rows, _, is_new = topic_rounds(0)
    first = fit(rows[~is_new], n_clusters=12)
    assert len(grow(rows, None, first).centroids) == 12
    assert len(grow(rows, np.ones(len(rows), dtype=bool), first).centroids) == 12
    assert len(grow(rows, np.zeros(len(rows), dtype=bool), first).centroids) == 12


def test_growth_is_the_same_for_the_same_input():
    rows, _, is_new = topic_rounds(0)
    first = fit(rows[~is_new], n_clusters=12)
    twice = [grow(rows, is_new, first) for _ in range(2)]
    assert twice[0].centroids.tobytes() == twice[1].centroids.tobytes()
    assert twice[0].labels.tolist() == twice[1].labels.tolist()


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_inputs_of_a_later_round_stay_defined(name):
    rows = np.asarray(DEGENERATE[name][0], dtype=np.float32)
    start = np.concatenate([rows[:2], rows[:2] + 1]) if len(rows) else rows
    if not len(start):
        return
    for is_new in (np.arange(len(rows)) >= len(rows) // 2, np.ones(len(rows), dtype=bool)):
        earlier = (~is_new).astype(float)
        found = fit(rows, start=start, earlier_weights=earlier, max_growth=1.0)
        assert set(found.labels.tolist()) == set(range(len(found.centroids)))
        assert 1 <= len(found.centroids) <= 10
        assert np.isfinite(found.centroids).all()


def in_chunks(rows, size):
    rows = np.asarray(rows, dtype=np.float32)
    return [rows[low : low + size] for low in range(0, len(rows), size)]


def fit_chunks(chunks, method="minibatch_kmeans", **changes):
    arguments = {
        "weights": None, "is_intervention": None, "n_clusters": 5, "min_cluster_size": 5, "seed": 0,
    }  # fmt: skip
    return fit_clusters(chunks, method=method, **arguments | changes)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_are_clustered_as_one_array_is(method):
    rows, _ = blobs(500, 6)
    weights = np.arange(500) % 3
    whole = fit(rows, method, n_clusters=6, weights=weights)
    parts = fit_chunks(in_chunks(rows, 70), method, n_clusters=6, weights=weights)
    assert parts.labels.tolist() == whole.labels.tolist()
    assert parts.centroids == pytest.approx(whole.centroids, abs=1e-5)
    assert parts.margins == pytest.approx(whole.margins, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_chunks_have_the_result_of_the_array(name, method):
    rows, n_means, n_density = DEGENERATE[name]
    found = fit_chunks(in_chunks(rows, 2), method)
    expected = n_means if method == "minibatch_kmeans" else n_density
    assert len(found.centroids) == expected
    assert found.labels.shape == found.margins.shape == (len(rows),)


def test_chunks_beyond_the_sample_are_clustered_in_any_order():
    rows, truth = blobs(6000, 20, d=32, distance=1.0)
    by_topic = np.argsort(truth, kind="stable")
    for order in (np.arange(6000), by_topic):
        found = fit_chunks(in_chunks(rows[order], 250), n_clusters=20, max_sample=1500)
        assert label_agreement(found.labels, truth[order].astype(np.int32)) > 0.97
        assert found.settled > 0.99


def test_every_row_counts_when_only_a_part_fits_into_memory():
    # The mean of all rows, not of the sample: 0 .. 9999, of which 100 are sampled.
    rows = np.arange(10_000, dtype=np.float32)[:, None]
    found = fit_chunks(in_chunks(rows, 1000), n_clusters=1, max_sample=100)
    assert found.centroids[0, 0] == pytest.approx(4999.5, rel=0.005)


def test_an_array_larger_than_the_sample_goes_the_way_of_chunks():
    rows, truth = blobs(9000, 8)
    found = fit(rows, n_clusters=8, max_sample=1000)
    assert label_agreement(found.labels, truth.astype(np.int32)) == 1.0


def test_rows_of_weight_zero_in_a_chunk_move_no_centroid():
    rows = np.array([[0.0], [1.0], [500.0], [10.0], [11.0]], dtype=np.float32)
    weights = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    found = fit_chunks(in_chunks(rows, 2), n_clusters=2, weights=weights)
    assert sorted(found.centroids.ravel().tolist()) == [0.5, 10.5]
    assert found.labels[2] == found.labels[4]


class Invented:
    """Chunks that exist only while they are read; the most that were alive are counted."""

    def __init__(self, n_chunks, n_rows, d):
        self.n_chunks, self.n_rows, self.d = n_chunks, n_rows, d

    def __len__(self):
        return self.n_chunks

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        rows = rng.normal(size=(self.n_rows, self.d)).astype(np.float32)
        rows[:, 0] += 20 * (np.arange(self.n_rows) % 4)
        return rows


def test_chunks_are_never_held_together():
    import tracemalloc

    # 150,000 rows of 64 floats are 38 MB; the sample and one chunk are 1.3 MB.
    chunks = Invented(150, 1000, 64)
    fit_chunks(Invented(2, 100, 64), n_clusters=4)
    tracemalloc.start()
    found = fit_chunks(chunks, n_clusters=4, max_sample=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.labels) == 150_000
    assert found.structure_found
    # Labels, margins and facts of all rows are 38 bytes each.
    assert peak < 16e6


def test_what_cannot_be_read_again_is_refused():
    with pytest.raises(UsageError, match=r"can be read again, found generator"):
        fit_chunks(row for row in [normal_rows(3, 2)])


def test_facts_that_do_not_fit_the_chunks_are_refused():
    chunks = in_chunks(normal_rows(4, 2), 3)
    with pytest.raises(UsageError, match="expected 4 weights, one per row, found 3"):
        fit_chunks(chunks, weights=np.ones(3))
    with pytest.raises(UsageError, match="expected 4 earlier_weights, one per row, found 5"):
        fit_chunks(chunks, earlier_weights=np.ones(5))
    with pytest.raises(UsageError, match="growth of at least 0, found -1"):
        fit_chunks(chunks, max_growth=-1)


def test_the_same_bytes_for_any_number_of_threads():
    script = (
        "import hashlib, numpy as np\n"
        "from whatchanged.cluster import fit_clusters\n"
        "rows = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)\n"
        "rows[:, :3] += np.repeat(np.eye(3) * 9, 1000, axis=0)\n"
        "for method in ('minibatch_kmeans', 'hdbscan'):\n"
        "    found = fit_clusters(rows, weights=None, is_intervention=None, method=method,\n"
        "                         n_clusters=20, min_cluster_size=15, seed=3)\n"
        "    parts = (found.labels, found.margins, found.centroids)\n"
        "    assert len(found.centroids) > 1\n"
        "    print(hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest())\n"
    )
    outputs = []
    for n_threads in ("1", "4"):
        threads = {"OMP_NUM_THREADS": n_threads, "OPENBLAS_NUM_THREADS": n_threads}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env=os.environ | threads, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.append(done.stdout.split())
    assert len(outputs[0]) == 2
    assert outputs[0] == outputs[1]


def test_rows_beyond_the_density_sample_join_a_cluster_or_are_noise():
    rows, truth = blobs(6000, 4)
    outlier = np.full((1, 16), 300.0, dtype=np.float32)
    found = fit(np.concatenate([rows, outlier]), "hdbscan", min_cluster_size=30)
    assert found.labels[-1] == -1
    clustered = found.labels[:-1] >= 0
    assert clustered.mean() > 0.9
    agreement = label_agreement(found.labels[:-1][clustered], truth[clustered].astype(np.int32))
    assert agreement == 1.0


def test_impossible_arguments_are_refused():
    rows = normal_rows(4, 2)
    with pytest.raises(UsageError, match="minibatch_kmeans or hdbscan, found 'ward'"):
        fit(rows, "ward")
    with pytest.raises(UsageError, match="found n_clusters 0"):
        fit(rows, n_clusters=0)
    with pytest.raises(UsageError, match="expected 4 weights, one per row, found 2"):
        fit(rows, weights=np.ones(2))
    with pytest.raises(UsageError, match="weights of at least 0"):
        fit(rows, weights=np.array([1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(UsageError, match=r"shape \(k, 2\), found \(1, 3\)"):
        fit(rows, start=np.zeros((1, 3), dtype=np.float32))
    with pytest.raises(UsageError, match=r"found shape \(4,\)"):
        fit(np.zeros(4))


def test_more_clusters_than_texts_is_refused_in_one_sentence():
    with pytest.raises(InputError, match="found 40 clusters for 12 texts"):
        check_n_clusters(40, 12)
    assert check_n_clusters(12, 12) is None


def test_assign_gives_the_nearest_centroid_and_the_ratio_of_distances():
    # Distances from 1: 1 and 3. From 2: 2 and 2. From 4: 4 and 0.
    labels, margins = assign(
        np.array([[1.0], [2.0], [4.0]], dtype=np.float32),
        np.array([[0.0], [4.0]], dtype=np.float32),
    )
    assert labels.tolist() == [0, 0, 1]
    assert margins == pytest.approx([1 / 3, 1.0, 0.0])


def test_assign_without_a_rival_or_without_centroids():
    rows = normal_rows(3, 2)
    labels, margins = assign(rows, np.zeros((1, 2), dtype=np.float32))
    assert (labels.tolist(), margins.tolist()) == ([0, 0, 0], [0, 0, 0])
    labels, margins = assign(rows, np.zeros((0, 2), dtype=np.float32))
    assert (labels.tolist(), margins.tolist()) == ([-1, -1, -1], [1, 1, 1])
    labels, margins = assign(rows, np.zeros((2, 2), dtype=np.float32))
    assert margins == pytest.approx([1, 1, 1])


def test_quality_leaves_noise_out():
    rows = np.array([[0.0], [0.1], [5.0], [5.1], [1000.0]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1, -1], dtype=np.int32)
    # Davies-Bouldin: mean distances to the centres 0.05 each, centres 5 apart: 0.1 / 5.
    quality = measure_quality(rows, labels, seed=0)
    assert quality.davies_bouldin == pytest.approx(0.02, rel=1e-4)
    # Silhouette of each outer row: 1 - 0.1/5.05; of each inner row: 1 - 0.1/4.95.
    assert quality.silhouette == pytest.approx(1 - (0.1 / 5.05 + 0.1 / 4.95) / 2, rel=1e-4)


def test_quality_is_none_where_it_is_undefined():
    rows = normal_rows(4, 2)
    for labels in ([0, 0, 0, 0], [-1, -1, -1, -1], [0, 1, 2, 3], [-1, -1, 0, 1]):
        quality = measure_quality(rows, np.array(labels, dtype=np.int32), seed=0)
        assert (quality.silhouette, quality.davies_bouldin) == (None, None)


def test_label_agreement_ignores_the_names_of_clusters():
    old = np.array([0, 0, 1, 1, 2], dtype=np.int32)
    assert label_agreement(old, np.array([2, 2, 0, 0, 1], dtype=np.int32)) == 1.0
    assert label_agreement(old, np.array([0, 1, 0, 1, 0], dtype=np.int32)) < 0.1
    assert label_agreement(old[:1], old[:1]) is None
    with pytest.raises(UsageError, match="found 5 and 2 labels"):
        label_agreement(old, old[:2])


def lineage(previous, labels):
    found = describe_lineage(np.array(previous, dtype=np.int32), np.array(labels, dtype=np.int32))
    return found.ancestors.tolist(), found.shares.tolist(), found.origins


def test_lineage_names_the_previous_cluster_with_most_common_rows():
    # New 0 holds old 1 twice and old 0 once; new 1 only noise; nothing is in new 2; new 3 old 0.
    ancestors, shares, origins = lineage([1, 1, 0, -1, -1, 0, 0], [0, 0, 0, 1, 1, -1, 3])
    assert ancestors == [1, -1, -1, 0]
    assert shares == pytest.approx([2 / 3, 0, 0, 1])
    assert origins == ("continued", "new", "new", "continued")


def test_without_earlier_clusters_every_cluster_is_new():
    assert lineage([-1, -1, -1], [0, 1, 1]) == ([-1, -1], [0, 0], ("new", "new"))
    assert lineage([], []) == ([], [], ())
    assert lineage([0, 0], [-1, -1]) == ([], [], ())


def test_a_cluster_of_another_ones_rows_has_split_from_it():
    # Old 0 had five rows: three went on as new 1, two are new 0. New 2 took one of old 1, among
    # two rows that were not there: most of it is new.
    previous = [0, 0, 0, 0, 0, 1, 1, 1, -1, -1]
    labels = [0, 0, 1, 1, 1, 3, 3, 2, 2, 2]
    ancestors, shares, origins = lineage(previous, labels)
    assert ancestors == [0, 0, 1, 1]
    assert shares == pytest.approx([1, 1, 1 / 3, 1])
    assert origins == ("split", "continued", "new", "continued")


def test_of_two_equal_heirs_the_first_continues():
    assert lineage([0, 0, 0, 0], [1, 1, 0, 0])[2] == ("continued", "split")


def test_a_cluster_that_grew_has_continued_however_much_of_it_is_new():
    assert lineage([0, -1, -1, -1], [0, 0, 0, 0]) == ([0], [0.25], ("continued",))


def test_cohesion_is_the_mean_cosine_to_the_centroid():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [9.0, 9.0]], dtype=np.float32)
    labels = np.array([0, 0, 1, -1], dtype=np.int32)
    centroids = np.array([[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]], dtype=np.float32)
    found = cohesion(rows, labels, centroids)
    assert found[:2] == pytest.approx([np.sqrt(0.5), 1.0])
    assert np.isnan(found[2])


def test_a_cluster_that_continues_another_takes_over_its_number():
    # 0 has split from 2, whose heir is 2; 1 continued 0, and 3 is new: 1 and 3 are free.
    lineage = Lineage(
        np.array([2, 0, 2, -1], dtype=np.int32),
        np.array([0.9, 1.0, 1.0, 0.0]),
        ("split", "continued", "continued", "new"),
    )
    assert inherit_labels(lineage).tolist() == [1, 0, 2, 3]


def test_a_number_beyond_the_clusters_that_are_left_is_not_taken_over():
    lineage = Lineage(np.array([7, 0], dtype=np.int32), np.ones(2), ("continued", "continued"))
    assert inherit_labels(lineage).tolist() == [1, 0]


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("n", [2, 3, 1024, 1025, 3000])
def test_equal_rows_are_found_as_by_a_look_at_all_their_bytes(n: int, zero: float) -> None:
    rng = np.random.default_rng(n)
    rows = rng.integers(0, 3, (n, 5)).astype(np.float32) - 1
    rows[rows == 0] = np.where(rng.random((rows == 0).sum()) < 0.5, zero, 0.0)
    rows[-1] = rows[0]  # two at least are equal
    bytes_of = [(row + np.float32(0)).tobytes() for row in rows]
    expected = sorted(set(bytes_of))
    padded = np.concatenate([np.ones((2, 5), dtype=np.float32), rows])
    first, inverse = _find_distinct(PickedRows(padded, np.arange(n) + 2))
    assert [bytes_of[i] for i in first] == expected
    assert first.tolist() == [bytes_of.index(one) for one in expected]
    assert [expected[i] for i in inverse] == bytes_of


def test_picked_rows_are_clustered_as_an_array_of_them_is():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((400, 6)).astype(np.float32) + 4 * np.eye(6, dtype=np.float32)[0]
    picks = rng.integers(0, 400, 300)
    options = {
        "weights": None, "is_intervention": None, "method": "minibatch_kmeans", "n_clusters": 5,
        "min_cluster_size": 5, "seed": 0,
    }  # fmt: skip
    picked, copied = (fit_clusters(r, **options) for r in (PickedRows(rows, picks), rows[picks]))
    assert np.array_equal(picked.labels, copied.labels)
    assert np.array_equal(picked.centroids, copied.centroids)
    quality = measure_quality(rows, picked.labels, seed=0, picks=picks)
    assert quality == measure_quality(rows[picks], picked.labels, seed=0)
