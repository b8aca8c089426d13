import numpy as np
import pytest

from whatchanged.means import Means, absorb, find_start, fit_sample, interleave, stream


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def fit(rows, start=None, k=2, weights=None, max_passes=20, seed=0):
    return fit_sample(
        rows,
        np.ones(len(rows)) if weights is None else weights,
        np.zeros(len(rows), dtype=bool),
        n_clusters=k,
        start=start,
        max_passes=max_passes,
        rng=np.random.default_rng(seed),
    )


def test_a_batch_moves_a_centroid_to_the_mean_of_all_that_it_has_met():
    means = Means(column(0.0, 10.0), np.array([2.0, 0.0]))
    # 3 joins two rows at 0: 3/3. 9 and 14 (twice) replace a centroid of mass 0: 37/3.
    moved, found = absorb(means, column(3.0, 9.0, 14.0), np.array([1.0, 1.0, 2.0]))
    assert found.labels.tolist() == [0, 1, 1]
    assert found.nearest.tolist() == [9, 1, 16]
    assert moved.centroids.ravel() == pytest.approx([1.0, 37 / 3])
    assert moved.masses.tolist() == [3, 3]


def test_a_centroid_without_rows_stays_where_it_is():
    moved, _ = absorb(Means(column(0.0, 99.0), np.zeros(2)), column(1.0, 2.0), np.ones(2))
    assert moved.centroids.ravel().tolist() == [1.5, 99]
    assert moved.masses.tolist() == [2, 0]


def test_batches_move_centroids_as_scikit_learn_does():
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(900, 6)).astype(np.float32)
    weights = rng.integers(1, 4, 900).astype(np.float64)
    model = MiniBatchKMeans(12, init=rows[:12], n_init=1, reassignment_ratio=0.0)
    means = Means(rows[:12], np.zeros(12))
    for low in range(0, 900, 300):
        part = slice(low, low + 300)
        model.partial_fit(rows[part], sample_weight=weights[part])
        means, _ = absorb(means, rows[part], weights[part])
    assert means.centroids == pytest.approx(model.cluster_centers_, abs=1e-4)


def test_a_start_has_one_centroid_in_every_group_where_k_means_plus_plus_has_not():
    from sklearn.cluster import kmeans_plusplus

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 8)) * 6
    truth = rng.choice(60, 6000, p=np.linspace(1, 9, 60) / 300)
    rows = (centres[truth] + rng.normal(size=(6000, 8))).astype(np.float32)

    def count_hit(start):
        distances = np.linalg.norm(start[:, None] - centres, axis=2)
        return len(set(distances.argmin(axis=1).tolist()))

    plain = [count_hit(kmeans_plusplus(rows, 60, random_state=seed)[0]) for seed in range(3)]
    found = [
        count_hit(find_start(rows, np.ones(6000), 60, np.random.default_rng(seed)))
        for seed in range(3)
    ]
    assert max(plain) < 60
    assert min(found) >= 59


def test_a_start_is_the_same_for_the_same_seed():
    rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    starts = [find_start(rows, np.ones(500), 20, np.random.default_rng(7)) for _ in range(2)]
    assert starts[0].tobytes() == starts[1].tobytes()


def test_a_start_from_barely_more_rows_than_clusters_is_finite():
    rows = column(0.0, 1.0, 2.0, 3.0)
    for k in (1, 2, 3):
        start = find_start(rows, np.ones(4), k, np.random.default_rng(0))
        assert start.shape == (k, 1)
        assert np.isfinite(start).all()


def test_labels_stay_with_the_clusters_that_they_had():
    rows = column(0.0, 1.0, 10.0, 11.0, 20.0, 21.0)
    found = fit(rows, start=column(20.0, 0.0, 10.0))
    assert found.means.centroids.ravel().tolist() == [20.5, 0.5, 10.5]
    assert found.labels.tolist() == [1, 1, 2, 2, 0, 0]


def test_a_cluster_without_rows_moves_onto_the_row_that_fits_worst():
    rows = column(0.0, 1.0, 2.0, 30.0)
    found = fit(rows, start=column(1.0, 1000.0))
    assert found.means.centroids.ravel().tolist() == [1, 30]
    assert found.means.masses.tolist() == [3, 1]


def test_more_centroids_than_rows_leave_the_spare_ones_without():
    found = fit(column(5.0, 5.5), start=column(0.0, 5.0, 100.0))
    # The first of the spare ones moves onto 5.5, which was farther from a centroid than 5.
    assert found.means.centroids.ravel().tolist()[:2] == [5.5, 5.0]
    assert found.means.masses.tolist() == [1, 1, 0]


def test_as_many_clusters_as_rows_are_the_rows():
    found = fit(column(3.0, 1.0), k=5)
    assert found.means.centroids.ravel().tolist() == [3, 1]
    assert found.labels.tolist() == [0, 1]


def test_one_pass_over_all_rows_corrects_what_a_sample_got_wrong():
    # The sample had 0 and 1 of the first cluster; all rows are 0, 1, 2, 3 and 50.
    means = Means(column(0.5, 50.0), np.array([2.0, 1.0]))
    chunks = [column(0.0, 1.0), column(2.0, 3.0, 50.0)]
    rng = np.random.default_rng(0)
    found = stream(chunks, np.array([0, 2, 5]), np.ones(5), means, rng)
    assert found.labels.tolist() == [0, 0, 0, 0, 1]
    # The sample's two rows count again: (0.5 * 2 + 0 + 1 + 2 + 3) / 6.
    assert found.means.centroids.ravel() == pytest.approx([7 / 6, 50])


def test_every_stretch_of_an_order_holds_both_sides_in_proportion():
    sides = np.arange(400) >= 300
    order = interleave(sides, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(400))
    shares = sides[order].reshape(10, 40).mean(axis=1)
    assert np.abs(shares - 0.25).max() <= 0.05
