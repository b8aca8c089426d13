import numpy as np
import pytest

from whatchanged.grow import count_room, found_clusters

# Two old clusters, around 0 and 100. Without itself, each row is 2 from the mean of its cluster,
# which is the row across: the reach is 2.
OLD = [-1.0, 1.0, 99.0, 101.0]
CENTROIDS = np.array([[0.0], [100.0]], dtype=np.float32)


def found(new, weights=None, min_size=15, room=5, old=OLD, old_weights=None, centroids=CENTROIDS):
    """The places of founded clusters, where `new` rows occur `weights` times."""
    rows = np.array([*old, *new], dtype=np.float32)[:, None]
    earlier = np.array([*(old_weights or [50.0] * len(old)), *[0.0] * len(new)])
    counts = earlier + np.array([0.0] * len(old) + (weights or [1.0] * len(new)))
    founded = found_clusters(rows, counts, earlier, centroids, min_size=min_size, room=room)
    return founded.ravel().tolist()


def test_new_texts_far_from_every_centroid_and_close_together_found_a_cluster():
    # Each of the two is 1 from the other, which is the mean of the others.
    assert found([49.5, 50.5], [8.0, 8.0]) == [50.0]


def test_a_cluster_is_the_weighted_mean_of_its_texts():
    assert found([49.5, 50.5], [12.0, 4.0]) == [49.75]


def test_one_text_that_is_repeated_often_enough_is_a_cluster():
    assert found([50.0], [15.0]) == [50.0]


def test_texts_within_the_reach_of_a_centroid_found_nothing():
    assert found([1.9, -1.9], [40.0, 40.0]) == []


def test_texts_far_from_each_other_found_nothing():
    assert found([40.0, 60.0], [8.0, 8.0]) == []
    # Within 2 of their mean, but each is 3 from the other.
    assert found([48.5, 51.5], [8.0, 8.0]) == []
    assert found([40.0, 60.0], [15.0, 16.0]) == [60.0, 40.0]


def test_too_few_texts_found_nothing():
    assert found([49.5, 50.5], [8.0, 6.0]) == []


def test_no_more_clusters_than_there_is_room_for():
    assert found([40.0, 60.0], [15.0, 16.0], room=1) == [60.0]
    assert found([40.0, 60.0], [15.0, 16.0], room=0) == []


def test_texts_that_the_earlier_round_had_as_often_are_not_new():
    # 5 of 105 old texts are around 50, and 15 of 315 new ones: the same share.
    old = [-1.0, 1.0, 99.0, 101.0, 50.2]
    old_weights = [25.0, 25.0, 25.0, 25.0, 5.0]
    new = [0.9, 100.9, 49.8]
    near = {"old": old, "old_weights": old_weights, "min_size": 10}
    assert found(new, [150.0, 150.0, 15.0], **near) == []
    # 150 of 450 are many more than one in twenty-one.
    assert found(new, [150.0, 150.0, 150.0], **near) == pytest.approx([49.8])


def test_nothing_new_or_nothing_old_founds_nothing():
    assert found([]) == []
    assert found([49.5, 50.5], [8.0, 8.0], old=[]) == []


def test_one_old_row_has_no_reach():
    # Alone in its cluster, it says nothing about how far texts may be.
    assert found([50.0], [20.0], old=[0.0], centroids=CENTROIDS[:1]) == []


def test_copies_of_an_old_text_found_nothing():
    assert found([1.0, -1.0], [500.0, 500.0]) == []


def test_the_same_rows_found_the_same_clusters():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 16)).astype(np.float32)
    rows[500:] += 8
    earlier = (np.arange(600) < 400).astype(float)
    start = rows[:5]
    twice = [
        found_clusters(rows, np.ones(600), earlier, start, min_size=15, room=3).tobytes()
        for _ in range(2)
    ]
    assert twice[0] == twice[1] != b""


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_rule_does_not_depend_on_the_unit(scale):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    rows[280:] += 5
    rows *= np.float32(scale)
    earlier = (np.arange(300) < 200).astype(float)
    start = rows[:200].mean(axis=0, keepdims=True)
    founded = found_clusters(rows, np.ones(300), earlier, start, min_size=15, room=3)
    assert founded == pytest.approx(rows[280:].mean(axis=0, keepdims=True), rel=0.1)


def test_growth_is_a_share_of_the_clusters_asked_for():
    assert count_room(40, 0.25, 40) == 10
    assert count_room(40, 0.25, 48) == 2
    assert count_room(40, 0.25, 55) == 0
    assert count_room(40, 0.0, 40) == 0
    # An earlier round that had fewer rows than clusters leaves more room.
    assert count_room(40, 0.25, 3) == 47
