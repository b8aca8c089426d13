from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.activation_batches import (
    loop_over_everything,
    make_batch,
    make_batches,
    make_groups,
)
from whatchanged.activations.events import Extractor, decode_values, encode_values
from whatchanged.activations.groups import group_components
from whatchanged.activations.poles import POLES
from whatchanged.errors import InputError, UsageError
from whatchanged.keys import content_key
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.activations import BatchProcessingStorage
from whatchanged.store.text_batch import TextBatch


def store_all(folder, groups, batches, **options):
    storage = BatchProcessingStorage.create(folder, groups, **options)
    for batch in batches:
        storage.add_batch(batch.activations, batch.columns, batch.texts)
    return storage.finalize()


def assert_rows(found, expected, *, relative=0.0, absolute=0.0):
    found = list(found)
    assert [row.text_key for row in found] == [key for key, _, _ in expected]
    for row, (_, token_ids, activations) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row.token_ids, token_ids)
        if relative == absolute == 0:
            np.testing.assert_array_equal(row.activations, activations)
        else:
            np.testing.assert_allclose(row.activations, activations, relative, absolute)


def assert_equals_the_loop(store, batches, **tolerance):
    clusters, components = loop_over_everything(batches, store.groups)
    for name, expected in clusters.items():
        assert_rows(store.cluster_rows(name), expected, **tolerance)
    for number, (label, expected) in enumerate(components.items()):
        if store.groups.cluster_of[number] >= 0:
            assert_rows(store.component_rows(label), expected, **tolerance)


@st.composite
def workloads(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any))
    groups = make_groups(
        sizes, draw(st.sampled_from(["sum", "mean", "max"])), draw(st.integers(0, 3))
    )
    batches = make_batches(
        groups,
        draw(st.integers(1, 6)),
        rng,
        density=draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])),
        is_signed=draw(st.booleans()),
        share_alive=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    return groups, batches, draw(st.sampled_from([1, 600, 10**6])), draw(st.integers(1, 20))


@settings(max_examples=60, deadline=None)
@given(workloads())
def test_what_is_read_back_equals_the_triple_loop_exactly(tmp_path_factory, workload):
    groups, batches, segment_bytes, chunk_texts = workload
    folder = tmp_path_factory.mktemp("store")
    store = store_all(
        folder, groups, batches,
        precision="float32", segment_bytes=segment_bytes, chunk_texts=chunk_texts,
    )  # fmt: skip
    assert_equals_the_loop(store, batches)
    assert store.check() == []


def stated_errors(batch, precision):
    """A batch whose activations are how far each may be off; a zero is never off."""
    exact = np.abs(batch.activations)
    largest = exact.max(axis=0 if precision == "int8" else None, initial=0)
    bound = largest / 127 * 1.000001 if precision == "int8" else 2**-11 * exact + 2**-38 * largest
    return replace(batch, activations=np.where(exact > 0, bound, 0).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(workloads(), st.sampled_from(["float16", "int8"]))
def test_what_is_read_back_is_the_triple_loops_within_the_stated_error(
    tmp_path_factory, workload, precision
):
    # Opposite signs may cancel before rounding and not after it, or the other way round.
    groups, batches, segment_bytes, chunk_texts = workload
    batches = [replace(batch, activations=np.abs(batch.activations)) for batch in batches]
    store = store_all(
        tmp_path_factory.mktemp("store"), groups, batches,
        precision=precision, segment_bytes=segment_bytes, chunk_texts=chunk_texts,
    )  # fmt: skip
    expected = loop_over_everything(batches, groups)
    errors = loop_over_everything([stated_errors(batch, precision) for batch in batches], groups)
    names = [*groups.clusters, *groups.labels]
    in_clusters = {label for label, c in zip(groups.labels, groups.cluster_of, strict=True)
                   if c >= 0}  # fmt: skip
    for name in names:
        is_cluster = name in groups.clusters
        if not is_cluster and name not in in_clusters:
            continue
        rows = list(store.cluster_rows(name) if is_cluster else store.component_rows(name))
        exact, off = (parts[0 if is_cluster else 1][name] for parts in (expected, errors))
        assert [row.text_key for row in rows] == [key for key, _, _ in exact]
        for row, (_, token_ids, values), (_, _, bound) in zip(rows, exact, off, strict=True):
            np.testing.assert_array_equal(row.token_ids, token_ids)
            # Sums of up to six members in float32.
            assert (np.abs(row.activations - values) <= bound + 8 * 2**-24 * values).all()
            np.testing.assert_array_equal(row.activations > 0, values > 0)


@pytest.mark.parametrize("n_texts", [1, 128])
@pytest.mark.parametrize("sizes", [[1], [5], [3, 0, 4, 70]])
def test_batches_of_one_text_and_of_128_come_back(tmp_path, n_texts, sizes):
    rng, groups = np.random.default_rng(0), make_groups(sizes)
    batches = [make_batch(groups, [7] * n_texts, rng, first=i * n_texts) for i in range(2)]
    store = store_all(tmp_path, groups, batches, precision="float32")
    assert_equals_the_loop(store, batches)
    assert store.n_stored == 2 * n_texts


def test_half_precision_is_within_its_stated_error(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([4, 5])
    batches = make_batches(groups, 4, rng, is_signed=True)
    store = store_all(tmp_path, groups, batches, precision="float16")
    largest = max(np.abs(batch.activations).max() for batch in batches)
    _, components = loop_over_everything(batches, groups)
    for label, expected in components.items():
        assert_rows(
            store.component_rows(label), expected, relative=2**-11, absolute=2**-38 * largest
        )
    # A sum of five rounded values is off by at most the sum of their errors.
    assert_equals_the_loop(store, batches, relative=0, absolute=5 * 2**-11 * largest)


def test_8_bits_are_within_their_stated_error(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([4, 5])
    batches = make_batches(groups, 4, rng, is_signed=True)
    store = store_all(tmp_path, groups, batches, precision="int8")
    for label in groups.labels:
        number = int(groups.component_numbers([label])[0])
        for batch in batches:
            if number not in batch.columns:
                continue
            exact = batch.activations[:, list(batch.columns).index(number)]
            bound = np.abs(exact).max() / 127 * 1.000001
            rows = {row.text_key: row.activations for row in store.component_rows(label)}
            if batch.texts.keys[0] in rows:
                found = np.concatenate([rows[key] for key in batch.texts.keys])
                assert np.abs(found - exact).max() <= bound
                np.testing.assert_array_equal(found != 0, exact != 0)


LARGEST = float(np.finfo(np.float32).max)


@settings(max_examples=200, deadline=None)
@example([LARGEST, -LARGEST], "float16")
@example([LARGEST, -LARGEST], "int8")
@example([1e-45, -3e-45], "int8")
@example([1.0, 2.0**39], "float16")
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool), min_size=1),
    st.sampled_from(["float32", "float16", "int8"]),
)
def test_any_finite_value_is_stored_within_the_stated_error_and_never_as_zero(values, precision):
    block = np.array(values, np.float32)[:, None]
    events = Extractor().extract(block, np.array([0], np.int32), 1)
    codes, scales = encode_values(events, precision)
    found = decode_values(codes, scales, events.counts)
    largest = float(np.abs(block).max())
    # The smallest 32-bit floats are multiples of 2^-149: no scale resolves them.
    exact = np.abs(events.values.astype(np.float64))
    bound = {
        "float32": 0 * exact,
        "float16": 2**-11 * exact + 2**-38 * largest + 2**-149,
        "int8": np.full(len(exact), largest / 127 * 1.000001 + 64 * 2**-149),
    }[precision]
    assert (np.abs(found.astype(np.float64) - events.values) <= bound).all()
    assert (codes != 0).all()
    assert (np.signbit(found) == np.signbit(events.values)).all()


def test_values_beyond_the_range_of_half_precision_keep_their_relative_error(tmp_path):
    groups = group_components(["a:0"], {})
    exact = np.array([[3e38], [1.0], [7e33]], np.float32)
    texts = TextBatch((content_key("x"),), np.array([False]), np.array([0, 3]), np.arange(3))
    storage = BatchProcessingStorage.create(tmp_path, groups)
    storage.add_batch(exact, np.array([0]), texts)
    (row,) = storage.finalize().component_rows("a:0")
    np.testing.assert_allclose(row.activations[[0, 2]], exact[[0, 2], 0], 2**-11)


def test_a_batch_of_more_rows_than_16_bits_count_comes_back(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([2])
    batch = make_batch(groups, [40_000, 30_000, 65_535, 1], rng, density=0.001, share_alive=1.0)
    store = store_all(tmp_path, groups, [batch], precision="float32")
    assert_equals_the_loop(store, [batch])


def test_token_ids_beyond_16_bits_come_back(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([2])
    batches = make_batches(groups, 4, rng, density=1.0)
    large = replace(batches[2].texts, token_ids=batches[2].texts.token_ids + 250_000)
    batches[2] = replace(batches[2], texts=large)
    assert_equals_the_loop(store_all(tmp_path, groups, batches, precision="float32"), batches)


def test_all_clusters_silent_leave_texts_without_rows(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([3, 2])
    batches = make_batches(groups, 3, rng, density=0.0)
    store = store_all(tmp_path, groups, batches)
    assert [list(store.cluster_rows(name)) for name in groups.clusters] == [[], []]
    assert store.n_stored == store.n_texts == sum(len(b.texts.keys) for b in batches)
    assert store.top("run-7-0") == []


def test_no_component_alive_in_a_batch_is_a_silent_batch(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([3])
    batches = make_batches(groups, 2, rng, share_alive=0.0)
    store = store_all(tmp_path, groups, batches)
    assert list(store.cluster_rows("run-7-0")) == list(store.component_rows("layer.0:0")) == []


def test_no_component_at_all_is_refused():
    with pytest.raises(UsageError, match="found none alive: lower the threshold"):
        group_components([], {})


def test_a_label_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"components of this store, found 'b:9'"):
        group_components(["a:0"], {"run-0-0": ["b:9"]})
    groups = make_groups([2])
    with pytest.raises(UsageError, match="found 'no:1'"):
        groups.component_numbers(["layer.0:0", "no:1"])
    store = store_all(tmp_path, groups, make_batches(groups, 1, np.random.default_rng(0)))
    with pytest.raises(UsageError, match="found 'no:1'"):
        list(store.component_rows("no:1"))
    with pytest.raises(UsageError, match="found 'run-7-9'"):
        list(store.cluster_rows("run-7-9"))


def test_a_component_of_two_clusters_is_refused():
    with pytest.raises(UsageError, match="at most one cluster, found 'a:0' in 'run-0-1'"):
        group_components(["a:0", "a:1"], {"run-0-0": ["a:0"], "run-0-1": ["a:1", "a:0"]})


TWO = tuple(content_key("text", i) for i in range(2))
GOOD = TextBatch(TWO, np.array([False, True]), np.array([0, 2, 3]), np.array([5, 6, 7]))
BLOCK = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("block", "texts", "said"),
    [
        (BLOCK[:2], GOOD, r"expected activations \(3, 2\) .* found \(2, 2\)"),
        (BLOCK[:, :1], GOOD, r"expected activations \(3, 2\) .* found \(3, 1\)"),
        (BLOCK.ravel(), GOOD, r"found \(6,\)"),
        (BLOCK.astype(np.float64), GOOD, "32 or 16 bits, found float64"),
        (BLOCK, replace(GOOD, token_ids=np.arange(4)), "activations"),
        (BLOCK, replace(GOOD, starts=np.array([0, 2, 2])), "first and last start"),
        (BLOCK, replace(GOOD, starts=np.array([0, 4, 3])), "0 to 65,535 tokens"),
        (BLOCK, replace(GOOD, starts=np.array([0, 3])), "starts"),
        (BLOCK, replace(GOOD, is_intervention=np.array([True])), "is_intervention"),
        (BLOCK, replace(GOOD, token_ids=np.array([5, -1, 7])), "token ids from 0"),
        (BLOCK, replace(GOOD, keys=(TWO[0], TWO[1][:32])), "64 lower-case hex .* found"),
        (BLOCK, replace(GOOD, keys=(TWO[0], TWO[1].upper())), "64 lower-case hex"),
        (BLOCK, replace(GOOD, keys=(TWO[0], "x" * 64)), "64 lower-case hex"),
        (BLOCK * [[1, 1], [1, np.nan], [1, 1]], GOOD, r"found nan of layer.1:1 on token 1 of"),
        (BLOCK * [[1, 1], [1, 1], [np.inf, 1]], GOOD, r"found inf of layer.0:0 on token 0 of"),
        (BLOCK * [[1, 1], [-np.inf, 1], [1, 1]], GOOD, "found -inf of layer.0:0 on token 1"),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_in_one_sentence_and_changes_nothing(tmp_path, block, texts, said):
    groups = make_groups([2])
    storage = BatchProcessingStorage.create(tmp_path, groups, precision="float32")
    if block.dtype == np.float64 and "64" not in said:
        block = block.astype(np.float32)
    with pytest.raises(UsageError, match=said) as refused:
        storage.add_batch(block, np.arange(2), texts)
    assert "\n" not in str(refused.value)
    storage.add_batch(BLOCK, np.arange(2), GOOD)
    store = storage.finalize()
    assert store.n_texts == store.n_stored == 2
    assert [row.text_key for row in store.cluster_rows("run-7-0")] == list(TWO)


@pytest.mark.parametrize(
    ("columns", "said"), [([0, 0], "one column per component"), ([0, 2], "0 to 1, found 0 to 2")]
)
def test_columns_that_are_no_components_are_refused(tmp_path, columns, said):
    storage = BatchProcessingStorage.create(tmp_path, make_groups([2]))
    with pytest.raises(UsageError, match=said):
        storage.add_batch(BLOCK, np.array(columns), GOOD)


@pytest.mark.parametrize("n_between", [0, 5000])
def test_a_text_key_with_other_tokens_is_refused_however_long_ago_it_was_met(tmp_path, n_between):
    groups = make_groups([2])
    storage = BatchProcessingStorage.create(tmp_path, groups, precision="float32")
    storage.add_batch(BLOCK, np.arange(2), GOOD)
    if n_between:
        keys = tuple(content_key("other", i) for i in range(n_between))
        starts = np.arange(n_between + 1)
        many = TextBatch(keys, np.zeros(n_between, bool), starts, np.zeros(n_between, np.int64))
        storage.add_batch(np.ones((n_between, 2), np.float32), np.arange(2), many)
    with pytest.raises(UsageError, match=f"the key {TWO[1]} with other tokens"):
        storage.add_batch(BLOCK, np.arange(2), replace(GOOD, token_ids=np.array([5, 6, 8])))
    storage.add_batch(BLOCK, np.arange(2), GOOD)
    store = storage.finalize()
    assert store.n_texts == 4 + n_between


def test_a_text_key_twice_in_one_batch_with_other_tokens_is_refused(tmp_path):
    storage = BatchProcessingStorage.create(tmp_path, make_groups([2]))
    with pytest.raises(UsageError, match="one text per key"):
        storage.add_batch(BLOCK, np.arange(2), replace(GOOD, keys=(TWO[0], TWO[0])))


def test_keys_that_agree_in_half_of_their_bits_stay_apart(tmp_path):
    keys = ("ab" * 16 + "00" * 16, "ab" * 15 + "00" * 17)
    storage = BatchProcessingStorage.create(tmp_path, make_groups([2]))
    storage.add_batch(BLOCK, np.arange(2), replace(GOOD, keys=keys))
    assert [row.text_key for row in storage.finalize().cluster_rows("run-7-0")] == list(keys)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (3, r"schema version 3, this program reads up to 2: upgrade whatchanged"),
        (1, r"schema version 1, which lacks the negative poles of version 2: collect again"),
    ],
)
def test_a_store_by_another_version_is_refused_by_writer_and_reader(tmp_path, version, said):
    groups = make_groups([2])
    store_all(tmp_path, groups, make_batches(groups, 1, np.random.default_rng(0)))
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"schema_version": 2', f'"schema_version": {version}'))
    for open_store in (ActivationStore, lambda path: BatchProcessingStorage.create(path, groups)):
        with pytest.raises(InputError, match=said):
            open_store(tmp_path)


def test_unfinished_damaged_and_missing_stores_are_refused(tmp_path):
    groups = make_groups([2])
    with pytest.raises(InputError, match="found no store"):
        ActivationStore(tmp_path / "nowhere")
    storage = BatchProcessingStorage.create(tmp_path / "begun", groups)
    with pytest.raises(InputError, match="0 texts so far"):
        ActivationStore(tmp_path / "begun")
    storage.finalize()
    with pytest.raises(UsageError, match="finished or a failed"):
        storage.finalize()
    with pytest.raises(UsageError, match="found a finished one"):
        BatchProcessingStorage.create(tmp_path / "begun", groups)
    store_all(tmp_path / "cut", groups, make_batches(groups, 2, np.random.default_rng(0)))
    (segment,) = (tmp_path / "cut").glob("events-*")
    data = segment.read_bytes()
    segment.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert ActivationStore(tmp_path / "cut").check() == [
        f"{segment.name} is missing or damaged: collect again"
    ]
    segment.write_bytes(data[:-1])
    with pytest.raises(InputError, match="is damaged: expected"):
        ActivationStore(tmp_path / "cut")


def test_a_store_is_not_continued_with_other_settings(tmp_path):
    BatchProcessingStorage.create(tmp_path, make_groups([2]))
    with pytest.raises(UsageError, match="another precision and another components_sha256"):
        BatchProcessingStorage.create(tmp_path, make_groups([3]), precision="int8")


@pytest.mark.parametrize(
    "options",
    [{"keep": "most"}, {"precision": "float8"}, {"k": 0}, {"keep": "sample", "summarize": False}],
)
def test_impossible_settings_are_refused(tmp_path, options):
    with pytest.raises(UsageError):
        BatchProcessingStorage.create(tmp_path, make_groups([2]), **options)


def test_a_segment_is_a_valid_safetensors_file(tmp_path):
    from safetensors.numpy import load_file

    rng, groups = np.random.default_rng(0), make_groups([4])
    batches = make_batches(groups, 3, rng)
    store = store_all(tmp_path, groups, batches, precision="float32")
    (path,) = tmp_path.glob("events-*")
    arrays = load_file(path)
    assert len(arrays["values"]) == store.n_events
    assert arrays["tokens"].tolist() == [t for b in batches for t in b.texts.token_ids]


def examples_as_tuples(examples):
    return [(shown.number, shown.text_key, shown.value) for shown in examples]


@pytest.mark.parametrize("keep", ["sample", "summaries"])
def test_a_smaller_store_shows_the_same_examples(tmp_path, keep):
    rng, groups = np.random.default_rng(0), make_groups([4, 3], n_alone=2)
    batches = make_batches(groups, 40, rng, density=0.2, is_signed=True)
    options = {"k": 2, "n_sample": 1, "precision": "float32", "chunk_texts": 7}
    full = store_all(tmp_path / "all", groups, batches, **options)
    small = store_all(tmp_path / keep, groups, batches, keep=keep, **options)
    assert small.n_stored < full.n_stored == full.n_texts == small.n_texts
    assert small.n_events < full.n_events
    for unit in (*groups.clusters, *groups.labels):
        for side, pole in product((None, 0, 1), POLES):
            for kind in ("top", "sample", "quantiles"):
                ours = getattr(small, kind)(unit, 2, side, pole)
                theirs = getattr(full, kind)(unit, 2, side, pole)
                assert examples_as_tuples(ours) == examples_as_tuples(theirs)
                assert len(ours) > 0
                for mine, other in zip(ours, theirs, strict=True):
                    np.testing.assert_array_equal(mine.token_ids, other.token_ids)
                    if keep == "summaries":
                        assert len(mine.activations) == 0 and mine.members == {}
                    else:
                        np.testing.assert_array_equal(mine.activations, other.activations)
                        assert mine.members.keys() == other.members.keys()
    assert small.check() == []


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_examples_show_the_activations_that_were_given(tmp_path, precision):
    rng, groups = np.random.default_rng(1), make_groups([4, 3])
    batches = make_batches(groups, 6, rng, density=0.4)
    store = store_all(tmp_path, groups, batches, precision=precision, keep="sample", k=3)
    exact = {}
    for batch in batches:
        for text, key in enumerate(batch.texts.keys):
            part = slice(*batch.texts.starts[text : text + 2])
            for place, component in enumerate(batch.columns):
                exact[key, groups.labels[component]] = batch.activations[part, place]
    tolerance = {"float32": 0, "float16": 2**-11, "int8": None}[precision]
    for cluster in groups.clusters:
        for shown in store.top(cluster, 3):
            assert len(shown.activations) == len(shown.token_ids)
            for label, activations in shown.members.items():
                expected = exact[shown.text_key, label]
                if tolerance is None:
                    np.testing.assert_array_equal(activations != 0, expected != 0)
                else:
                    np.testing.assert_allclose(activations, expected, tolerance)
            total = np.sum(list(shown.members.values()), axis=0)
            np.testing.assert_allclose(shown.activations, total, 1e-5)


def test_the_negative_pole_shows_the_texts_with_the_lowest_activations(tmp_path):
    rng, groups = np.random.default_rng(2), make_groups([4, 3], n_alone=1)
    batches = make_batches(groups, 6, rng, is_signed=True)
    store = store_all(tmp_path, groups, batches, precision="float32", keep="sample", k=3)
    full = store_all(tmp_path / "all", groups, batches, precision="float32")
    for unit in (*groups.clusters, *groups.labels):
        rows = full.cluster_rows(unit) if unit in groups.clusters else full.component_rows(unit)
        lowest = sorted(
            (float(row.activations.min(initial=0)), row.number, int(row.activations.argmin()))
            for row in rows
            if (row.activations < 0).any()
        )
        found = store.top(unit, 3, pole="negative")
        assert [(one.value, one.number, one.position) for one in found] == lowest[:3]
        for one in found:
            assert one.activations[one.position] == one.value
        strengths = [-one.value for one in store.quantiles(unit, 9, pole="negative")]
        assert strengths == sorted(strengths)


def test_peaks_are_the_largest_activation_of_every_text(tmp_path):
    rng, groups = np.random.default_rng(0), make_groups([3, 2], n_alone=1)
    batches = make_batches(groups, 4, rng, is_signed=True)
    store = store_all(tmp_path, groups, batches, precision="float32")
    keys, peaks = store.peaks()
    assert keys == [key for batch in batches for key in batch.texts.keys]
    row = 0
    for batch in batches:
        for text in range(len(batch.texts.keys)):
            part = batch.activations[slice(*batch.texts.starts[text : text + 2])]
            expected = np.zeros(groups.n_components, np.float32)
            expected[batch.columns] = part.max(axis=0, initial=0)
            np.testing.assert_array_equal(peaks[row], expected)
            row += 1
    _, of_clusters = store.peaks(clusters=True)
    for number, name in enumerate(groups.clusters):
        rows = {row.text_key: row.activations.max(initial=0) for row in store.cluster_rows(name)}
        assert of_clusters[:, number].tolist() == [rows.get(key, 0) for key in keys]


def test_the_three_historical_versions_agree_and_the_store_equals_them(tmp_path):
    from benchmarks.activation_references import ReferenceStore
    from benchmarks.activation_store import store_factory
    from benchmarks.activation_workload import Spec, Workload

    workload = Workload(Spec(6, 0.5, batch=4, seq=16))
    batches = [workload.next() for _ in range(4)]
    stores = [ReferenceStore(workload.clustering) for _ in range(3)]
    ours = store_factory(workload.clustering, workload.spec)
    for batch in batches:
        for store, name in zip(stores, ("original", "current", "optimized"), strict=True):
            getattr(store, f"add_{name}")(batch)
        ours.add(batch)
    ours.close()
    ids = {
        text.text_hash: row for b in batches for text, row in zip(b.texts, b.token_ids, strict=True)
    }
    for store in stores:
        for name, rows in store.cluster_rows.items():
            token_ids = [ids[key] for key in store.cluster_keys[name]]
            expected = zip(store.cluster_keys[name], token_ids, rows, strict=True)
            assert_rows(ours.store.cluster_rows(name), list(expected))
            words = [[f" word{i}" for i in row] for row in token_ids]
            assert store.cluster_tokens[name] == words
            for label, parts in store.component_rows[name].items():
                keys = store.component_keys[name][label]
                expected = zip(keys, [ids[key] for key in keys], parts, strict=True)
                assert_rows(ours.store.component_rows(label), list(expected))
    assert sum(len(rows) for rows in stores[0].cluster_rows.values()) == 4 * 3 * 4
