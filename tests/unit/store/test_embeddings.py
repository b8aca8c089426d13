import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.keys import content_key
from whatchanged.store.embedding_index import EmbeddingIndex, Entries, key_words, row_sums
from whatchanged.store.embeddings import EmbeddingCache, embedding_key

KEYS = [content_key("test", i) for i in range(500)]
ROWS = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path)


def test_rows_come_back_in_the_order_asked_with_repeats(cache):
    cache.put_many("model", KEYS[:3], ROWS[:3])
    cache.put_many("model", KEYS[3:5], ROWS[3:5])
    asked = [KEYS[4], KEYS[0], KEYS[9], KEYS[4], KEYS[2]]
    mask, rows = cache.get_many("model", asked, 6)
    assert mask.tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(rows[[0, 1, 3, 4]], ROWS[[4, 0, 4, 2]])
    assert not rows[2].any()
    assert rows.dtype == np.float32 and rows.flags.writeable


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 499)), max_size=8), st.lists(st.integers(0, 499)))
def test_the_cache_is_a_dictionary_of_rows(tmp_path_factory, puts, asked):
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache"))
    for put in puts:
        cache.put_many("model", [KEYS[i] for i in put], ROWS[put])
    mask, rows = cache.get_many("model", [KEYS[i] for i in asked], 6)
    stored = {i for put in puts for i in put}
    assert mask.tolist() == [i in stored for i in asked]
    np.testing.assert_array_equal(rows[mask], ROWS[[i for i in asked if i in stored]])


def test_no_keys_give_no_rows(cache):
    cache.put_many("model", [], np.empty((0, 6), np.float32))
    mask, rows = cache.get_many("model", [], 6)
    assert mask.shape == (0,) and rows.shape == (0, 6)


def test_models_and_lengths_do_not_share_rows(cache):
    cache.put_many("model", KEYS[:1], ROWS[:1])
    assert not cache.get_many("other", KEYS[:1], 6)[0].any()
    assert not cache.get_many("model", KEYS[:1], 4)[0].any()
    assert embedding_key("model", "text") != embedding_key("other", "text")


def test_the_first_row_of_a_key_stays(cache):
    cache.put_many("model", [KEYS[0], KEYS[0]], ROWS[:2])
    cache.put_many("model", KEYS[:1], ROWS[2:3])
    np.testing.assert_array_equal(cache.get_many("model", KEYS[:1], 6)[1], ROWS[:1])


def test_keys_may_be_bytes(cache):
    cache.put_many("model", [bytes.fromhex(KEYS[0])], ROWS[:1])
    assert cache.get_many("model", KEYS[:1], 6)[0].all()


def test_wrong_input_is_refused(cache):
    with pytest.raises(ValueError, match="64 hex"):
        cache.get_many("model", ["abcd"], 6)
    with pytest.raises(ValueError, match="as many rows"):
        cache.put_many("model", KEYS[:2], ROWS[:1])
    poisoned = ROWS[:2].copy()
    poisoned[1, 3] = np.nan
    with pytest.raises(ValueError, match="row 1 of 2 is not finite"):
        cache.put_many("model", KEYS[:2], poisoned)
    assert not cache.get_many("model", KEYS[:2], 6)[0].any()


def test_odd_lengths_and_single_numbers_work(cache):
    for d_embed in (1, 3, 17):
        cache.put_many("model", KEYS[:4], ROWS.reshape(-1)[: 4 * d_embed].reshape(4, d_embed))
        assert cache.get_many("model", KEYS[:4], d_embed)[0].all()


def test_many_small_puts_are_all_found_again(cache, tmp_path):
    for i in range(0, 500, 7):
        cache.put_many("model", KEYS[i : i + 7], ROWS[i : i + 7])
    mask, rows = cache.get_many("model", KEYS, 6)
    assert mask.all()
    np.testing.assert_array_equal(rows, ROWS)
    assert cache.check().n_rows == 500


def test_the_map_grows_as_often_as_it_takes(tmp_path):
    cache = EmbeddingCache(tmp_path, map_bytes=64 * 1024)
    rows = np.random.default_rng(1).standard_normal((300, 384)).astype(np.float32)
    for start in range(0, 300, 100):
        cache.put_many("model", KEYS[start : start + 100], rows[start : start + 100])
    np.testing.assert_array_equal(cache.get_many("model", KEYS[:300], 384)[1], rows)


def test_threads_share_one_cache(cache):
    errors = []

    def work(i):
        try:
            cache.put_many("model", KEYS[i * 50 : i * 50 + 60], ROWS[i * 50 : i * 50 + 60])
            assert cache.get_many("model", KEYS[i * 50 : i * 50 + 50], 6)[0].all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert cache.check().n_rows == 410


def test_a_forked_child_writes_what_the_parent_reads(cache):
    cache.put_many("model", KEYS[:1], ROWS[:1])
    child = os.fork()
    if child == 0:
        cache.put_many("model", KEYS[1:2], ROWS[1:2])
        os._exit(0 if cache.get_many("model", KEYS[:2], 6)[0].all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get_many("model", KEYS[:2], 6)[0].all()


def test_a_cache_that_was_deleted_meanwhile_starts_again(cache, tmp_path):
    cache.put_many("model", KEYS[:2], ROWS[:2])
    for path in tmp_path.iterdir():
        path.unlink()
    assert not cache.get_many("model", KEYS[:2], 6)[0].any()
    cache.put_many("model", KEYS[:2], ROWS[:2])
    assert cache.get_many("model", KEYS[:2], 6)[0].all()


def test_a_foreign_file_is_moved_aside_with_a_warning(cache, tmp_path):
    cache.path.write_bytes(b"not a database" * 1000)
    with pytest.warns(UserWarning, match="is damaged .* moved to .*quarantine"):
        mask, _ = cache.get_many("model", KEYS[:2], 6)
    assert not mask.any()
    assert [path.read_bytes()[:14] for path in (tmp_path / "quarantine").iterdir()] == [
        b"not a database"
    ]
    cache.put_many("model", KEYS[:2], ROWS[:2])
    assert cache.get_many("model", KEYS[:2], 6)[0].all()


def test_a_damaged_row_is_missing_and_can_be_put_again(cache):
    cache.put_many("model", KEYS[:3], ROWS[:3])
    data = bytearray(cache.path.read_bytes())
    at = bytes(data).index(ROWS[1].tobytes())
    data[at + 5] ^= 1
    cache.path.write_bytes(data)
    mask, rows = cache.get_many("model", KEYS[:3], 6)
    assert mask.tolist() == [True, False, True]
    assert not rows[1].any()
    assert cache.n_damaged == 1
    assert cache.check().n_damaged == 1
    cache.put_many("model", KEYS[:3], ROWS[:3])
    assert cache.get_many("model", KEYS[:3], 6)[0].all()
    assert cache.check().n_damaged == 0


def test_a_row_under_another_rows_key_is_damaged(cache):
    cache.put_many("model", KEYS[:2], ROWS[:2])
    data = cache.path.read_bytes()
    both = ROWS[:2].tobytes()
    cache.path.write_bytes(data.replace(both, ROWS[[1, 0]].tobytes()))
    assert not cache.get_many("model", KEYS[:2], 6)[0].any()


def test_every_single_bit_of_a_row_counts_and_so_do_its_highest_bits_in_pairs():
    row = ROWS[:1, :5]
    sound = row_sums(row)[0]
    for bit in range(row.nbytes * 8):
        data = bytearray(row.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        assert row_sums(np.frombuffer(data, np.float32).reshape(1, 5))[0] != sound
    signs = row.copy()
    signs[0, [1, 3]] *= -1
    assert row_sums(signs)[0] != sound


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(1, 5))
def test_the_index_finds_the_newest_entry_of_any_word(words, n_parts):
    index = EmbeddingIndex()
    newest = {}
    places = np.arange(len(words))
    for part in np.array_split(places, n_parts):
        prefixes = np.array([words[i] for i in part], np.uint64)
        index.add([Entries(prefixes, prefixes, part)])
        newest |= {words[i]: {int(k) for k in part if words[k] == words[i]} for i in part}
    asked = np.zeros((len(newest), 4), np.uint64)
    asked[:, 0] = list(newest)
    found = index.find(asked)
    assert sorted(found.positions) == list(range(len(newest)))
    for position, place in zip(found.positions, found.places, strict=True):
        assert place in newest[int(asked[position, 0])]


def test_a_repeated_word_leads_to_the_newer_entry():
    index = EmbeddingIndex()
    word = np.array([5], np.uint64)
    for place in (10, 20, 30):
        index.add([Entries(word, word, np.array([place]))])
    assert index.find(np.array([[5, 0, 0, 0]], np.uint64)).places.tolist() == [30]


def test_key_words_are_the_bytes_of_the_keys():
    assert key_words(KEYS[:2]).tobytes() == bytes.fromhex(KEYS[0] + KEYS[1])
