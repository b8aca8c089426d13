import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.cluster import (
    assign,
    check_n_clusters,
    cohesion,
    describe_lineage,
    fit_clusters,
    label_agreement,
    measure_quality,
)
from whatchanged.errors import InputError, UsageError

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


def test_lineage_names_the_previous_cluster_with_most_common_rows():
    previous = np.array([1, 1, 0, -1, -1, 0, 0], dtype=np.int32)
    labels = np.array([0, 0, 0, 1, 1, -1, 3], dtype=np.int32)
    # New 0 holds old 1 twice and old 0 once; new 1 only noise; nothing is in new 2; new 3 old 0.
    assert describe_lineage(previous, labels).tolist() == [1, -1, -1, 0]
    assert describe_lineage(np.full(7, -1, dtype=np.int32), labels).tolist() == [-1] * 4
    assert describe_lineage(previous[:0], labels[:0]).tolist() == []


def test_cohesion_is_the_mean_cosine_to_the_centroid():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [9.0, 9.0]], dtype=np.float32)
    labels = np.array([0, 0, 1, -1], dtype=np.int32)
    centroids = np.array([[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]], dtype=np.float32)
    found = cohesion(rows, labels, centroids)
    assert found[:2] == pytest.approx([np.sqrt(0.5), 1.0])
    assert np.isnan(found[2])
