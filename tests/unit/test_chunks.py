import numpy as np
import pytest

from whatchanged.chunks import NpyChunks, PickedRows, read_chunks, survey_chunks
from whatchanged.errors import InputError, UsageError


def numbered(n, d=2):
    """Rows that say their own number in every column."""
    return np.repeat(np.arange(n, dtype=np.float32)[:, None], d, axis=1)


def survey(chunks, max_rows=100, is_wanted=None, seed=0):
    return survey_chunks(chunks, is_wanted, max_rows, np.random.default_rng(seed))


def test_rows_of_an_array_are_picked_chunk_by_chunk():
    rows = numbered(7)
    chunks = PickedRows(rows, np.array([6, 0, 3, 3, 1]), chunk_rows=2)
    assert [chunks[i][:, 0].tolist() for i in range(len(chunks))] == [[6, 0], [3, 3], [1]]
    nothing = PickedRows(rows, np.arange(0))
    assert [len(nothing), nothing[0].shape] == [1, (0, 2)]


def test_a_file_is_read_chunk_by_chunk(tmp_path):
    np.save(tmp_path / "rows.npy", numbered(5))
    chunks = NpyChunks(tmp_path / "rows.npy", chunk_rows=2)
    assert [chunks[i].tolist() for i in range(len(chunks))] == [
        [[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]],
    ]  # fmt: skip
    assert not isinstance(chunks[0].base, np.memmap)
    with pytest.raises(IndexError):
        chunks[3]


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 2)), np.zeros(3, np.float32), np.zeros((3, 2), np.float32, order="F")]
)
def test_a_file_of_anything_but_float32_rows_is_refused(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(UsageError, match=r"expected float32 rows \(n, d\) in C order"):
        NpyChunks(tmp_path / "rows.npy")


def test_rows_that_fit_are_all_sampled_in_their_order():
    found = survey([numbered(3), numbered(0), numbered(2)])
    assert found.starts.tolist() == [0, 3, 3, 5]
    assert found.numbers.tolist() == [0, 1, 2, 3, 4]
    assert found.rows[:, 0].tolist() == [0, 1, 2, 0, 1]


def test_rows_that_are_not_wanted_are_not_sampled():
    wanted = np.array([True, False, True, False, True])
    assert survey([numbered(3), numbered(2)], is_wanted=wanted).numbers.tolist() == [0, 2, 4]


def test_every_row_is_as_likely_to_be_sampled_wherever_its_chunk_is():
    chunks = [numbered(4), numbered(10), numbered(6)]
    counts = np.zeros(20)
    for seed in range(4000):
        counts[survey(chunks, max_rows=5, seed=seed).numbers] += 1
    # Each of 20 rows is in a sample of 5 with probability 1/4: 1000 times, give or take 27.
    assert counts.sum() == 4000 * 5
    assert np.abs(counts - 1000).max() < 4.5 * 27


def test_a_sampled_row_comes_with_its_own_number():
    found = survey([numbered(9)[:4], numbered(9)[4:]], max_rows=3)
    assert found.rows[:, 0].tolist() == found.numbers.tolist()
    assert len(set(found.numbers.tolist())) == 3


def test_no_chunks_are_no_rows():
    found = survey([])
    assert found.starts.tolist() == [0]
    assert found.rows.shape == (0, 0)


def test_rows_that_are_not_finite_are_named_across_chunks():
    chunks = [numbered(3), numbered(3)]
    chunks[0][1, 0] = chunks[1][2, 1] = np.nan
    with pytest.raises(InputError, match=r"in 2 of 6 rows \(1, 5\)"):
        survey(chunks)


def test_chunks_of_different_widths_are_refused():
    with pytest.raises(UsageError, match="expected chunks of 2 columns, found 3 in chunk 1"):
        survey([numbered(3), numbered(3, d=3)])


def test_chunks_are_read_in_the_order_asked_with_their_place():
    chunks = [numbered(2), numbered(3)]
    read = list(read_chunks(chunks, np.array([0, 2, 5]), np.array([1, 0])))
    assert [place for place, _ in read] == [slice(2, 5), slice(0, 2)]
    assert [len(rows) for _, rows in read] == [3, 2]


def test_a_chunk_that_has_changed_is_refused():
    with pytest.raises(UsageError, match=r"expected 4 rows in chunk 1.*found 3"):
        list(read_chunks([numbered(2), numbered(3)], np.array([0, 2, 6])))
