import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.activation_batches import cluster_column, make_batches, make_groups
from whatchanged.activations.coactivation import MAX_MEMBERS
from whatchanged.activations.events import Extractor
from whatchanged.activations.examples import ExampleTable
from whatchanged.activations.groups import group_components
from whatchanged.activations.histograms import N_BINS, bin_edges, bins_of, quantile
from whatchanged.activations.poles import POLES, TextRows
from whatchanged.activations.summaries import Summaries
from whatchanged.activations.token_counts import TokenCounts
from whatchanged.errors import UsageError


def priority_of(number):
    return (number * 0.6180339887498949) % 1


def summarize(batches, groups, *, first=0, k=3, n_sample=2):
    summaries, number = Summaries(groups, k, n_sample), first
    for batch in batches:
        texts, n = batch.texts, len(batch.texts.keys)
        slots = groups.slot_of_component[batch.columns]
        events = Extractor().extract(batch.activations, slots, groups.n_components)
        numbers = np.arange(number, number + n)
        priorities = np.array([priority_of(i + first * 0) for i in numbers])
        rows = TextRows(
            numbers - first, texts.is_intervention, priorities, texts.starts, texts.token_ids
        )
        summaries.update(events, rows)
        number += n
    return summaries


def dense_units(batches, groups):
    """Activations `(n_units, n_rows)`, and per row its text's number, side, position and token."""
    blocks, rows, number = [], [], 0
    for batch in batches:
        block = np.zeros((groups.n_components + groups.n_clusters, len(batch.activations)))
        block[batch.columns] = batch.activations.T
        for cluster in range(groups.n_clusters):
            block[groups.n_components + cluster] = cluster_column(batch, groups, cluster)
        blocks.append(block)
        for text, is_intervention in enumerate(batch.texts.is_intervention):
            low, high = batch.texts.starts[text : text + 2]
            for row in range(low, high):
                token = batch.texts.token_ids[row]
                rows.append((number, int(is_intervention), row - low, token, high - low))
            number += 1
    return np.concatenate(blocks, axis=1), np.array(rows).reshape(-1, 5)


def made_batches(seed, is_signed=False, density=0.3):
    rng = np.random.default_rng(seed)
    groups = make_groups([4, 3, 0, 2], n_alone=2)
    return groups, make_batches(groups, 8, rng, is_signed=is_signed, density=density)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_statistics_equal_those_of_the_dense_activations(is_signed, density):
    groups, batches = made_batches(0, is_signed, density)
    found = summarize(batches, groups)
    dense, rows = dense_units(batches, groups)
    for side in (0, 1):
        part = dense[:, rows[:, 1] == side]
        np.testing.assert_allclose(found.sums[side], part.sum(axis=1), 1e-6, 1e-6)
        np.testing.assert_allclose(found.squares[side], (part**2).sum(axis=1), 1e-6)
        np.testing.assert_array_equal(found.n_firing[side], (part != 0).sum(axis=1))
        assert found.n_tokens[side] == part.shape[1]
    assert found.n_texts.sum() == sum(len(batch.texts.keys) for batch in batches)


SIGNS = {"positive": 1, "negative": -1}


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_histograms_and_extremes_of_a_pole_equal_those_of_the_dense_activations(
    is_signed, density, pole
):
    groups, batches = made_batches(0, is_signed, density)
    found = summarize(batches, groups).poles[pole]
    dense, rows = dense_units(batches, groups)
    for side in (0, 1):
        for unit, activations in enumerate(dense * SIGNS[pole]):
            part = activations[rows[:, 1] == side].astype(np.float32)
            expected = np.bincount(bins_of(part[part > 0]), minlength=N_BINS)
            np.testing.assert_array_equal(found.of_unit("histograms", unit)[side], expected)
            assert found.of_unit("largest", unit)[side] == part.max(initial=0)


def peaks_of(dense, rows, unit, side):
    """(peak, -text number, position) of every text of a side on which the unit fires."""
    peaks = []
    for number in np.unique(rows[rows[:, 1] == side, 0]):
        part = dense[unit, rows[:, 0] == number]
        if part.max() > 0:
            peaks.append((float(part.max()), -int(number), int(part.argmax())))
    return peaks


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_top_and_sample_equal_a_full_sort(is_signed, pole):
    groups, batches = made_batches(1, is_signed)
    summaries = summarize(batches, groups)
    found, sign = summaries.poles[pole], SIGNS[pole]
    dense, rows = dense_units(batches, groups)
    for side in (0, 1):
        for unit in range(len(dense)):
            peaks = peaks_of(sign * dense, rows, unit, side)
            top = found.examples("top", unit, side)
            best = sorted(peaks, reverse=True)[:3]
            assert [
                (sign * v, -t, p)
                for v, t, p in zip(top["values"], top["texts"], top["positions"], strict=True)
            ] == best
            sample = found.examples("sample", unit, side)
            drawn = sorted(peaks, key=lambda peak: -priority_of(-peak[1]))[:2]
            assert sample["texts"].tolist() == [-number for _, number, _ in drawn]
            assert found.of_unit("positions", unit)[side].sum() == len(peaks)
            assert found.of_unit("peak_histograms", unit)[side].sum() == len(peaks)
            fires = np.unique(rows[(rows[:, 1] == side) & (dense[unit] != 0), 0])
            assert summaries.n_firing_texts[side, unit] == len(fires)
    assert set(summaries.example_texts()) >= set(found.example_texts())


def test_a_component_that_is_never_negative_takes_no_room_at_the_negative_pole():
    groups, batches = made_batches(4, is_signed=True)
    signs = np.where(np.arange(groups.n_components) == 3, -1, 1)
    batches = [
        type(batch)(np.abs(batch.activations) * signs[batch.columns], batch.columns, batch.texts)
        for batch in batches
    ]
    found = summarize(batches, groups).poles["negative"]
    dense, _ = dense_units(batches, groups)
    assert found.units.tolist() == np.flatnonzero((dense < 0).any(axis=1)).tolist()
    # The component, and its cluster where the others do not outweigh it.
    assert 3 in found.units and len(found.units) <= 2
    assert found.histograms.shape[1] == len(found.top.keys) / 2 == len(found.units)
    assert not summarize(made_batches(4)[1], groups).poles["negative"].arrays()["top.keys"].size


@pytest.mark.parametrize("is_signed", [False, True])
def test_coactivations_and_tokens_are_counted_exactly(is_signed):
    groups, batches = made_batches(2, is_signed)
    found = summarize(batches, groups)
    dense, rows = dense_units(batches, groups)
    fires = (dense > 0).astype(np.int64)
    for side in (0, 1):
        part = fires[:, rows[:, 1] == side]
        of_clusters = part[groups.n_components :]
        np.testing.assert_array_equal(found.cluster_pairs.counts[side], of_clusters @ of_clusters.T)
        for cluster in range(groups.n_clusters):
            members = part[np.flatnonzero(groups.cluster_of == cluster)]
            np.testing.assert_array_equal(
                found.member_pairs.of_cluster(side, cluster), members @ members.T
            )
            tokens = rows[rows[:, 1] == side, 3][of_clusters[cluster] == 1]
            counts = dict(found.tokens.most_frequent(side * groups.n_clusters + cluster, 999))
            assert counts == {t: int((tokens == t).sum()) for t in set(tokens.tolist())}


def test_large_clusters_have_no_pairs_of_members():
    groups = make_groups([MAX_MEMBERS, MAX_MEMBERS + 1, 2])
    batches = make_batches(groups, 2, np.random.default_rng(0))
    found = summarize(batches, groups)
    assert found.member_pairs.of_cluster(0, 0).shape == (MAX_MEMBERS, MAX_MEMBERS)
    assert found.member_pairs.of_cluster(0, 1) is None
    dense, rows = dense_units(batches, groups)
    last = (dense[np.flatnonzero(groups.cluster_of == 2)][:, rows[:, 1] == 1] > 0).astype(int)
    np.testing.assert_array_equal(found.member_pairs.of_cluster(1, 2), last @ last.T)


def assert_same(one, other):
    mine, theirs = one.arrays(), other.arrays()
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        if name in ("sums", "squares"):
            np.testing.assert_allclose(array, theirs[name], 1e-12)
        elif not name.startswith("tokens."):
            np.testing.assert_array_equal(array, theirs[name], name)
    for group in range(2 * one.groups.n_clusters):
        assert one.tokens.most_frequent(group, 99) == other.tokens.most_frequent(group, 99)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(0, 8))
def test_shards_merge_to_what_one_run_gives(seed, cut_1, cut_2):
    groups, batches = made_batches(seed, is_signed=seed % 2 == 1)
    low, high = sorted((cut_1, cut_2))
    merged, first = summarize([], groups), 0
    for shard in (batches[:low], batches[low:high], batches[high:]):
        merged.merge(summarize(shard, groups, first=first))
        first += sum(len(batch.texts.keys) for batch in shard)
    assert_same(merged, summarize(batches, groups))


def test_batches_can_be_cut_differently_without_changing_anything():
    groups, batches = made_batches(5, is_signed=True)
    one_by_one = []
    for batch in batches:
        for text in range(len(batch.texts.keys)):
            low, high = batch.texts.starts[text : text + 2]
            alone = type(batch.texts)(
                batch.texts.keys[text : text + 1],
                batch.texts.is_intervention[text : text + 1],
                np.array([0, high - low]),
                batch.texts.token_ids[low:high],
            )
            one_by_one.append(type(batch)(batch.activations[low:high], batch.columns, alone))
    assert_same(summarize(one_by_one, groups), summarize(batches, groups))


def test_summaries_come_back_from_their_arrays_and_go_on():
    groups, batches = made_batches(6, is_signed=True)
    begun = Summaries.from_arrays(groups, summarize(batches[:4], groups).arrays())
    first = sum(len(batch.texts.keys) for batch in batches[:4])
    begun.merge(summarize(batches[4:], groups, first=first))
    assert_same(begun, summarize(batches, groups))


def test_summaries_of_other_components_are_refused():
    with pytest.raises(UsageError, match="same components, clusters and sizes"):
        Summaries(make_groups([2])).merge(Summaries(make_groups([3])))


def test_nothing_seen_is_all_zero():
    found = summarize([], make_groups([2]))
    assert found.example_texts().tolist() == []
    assert found.sums.sum() == found.n_texts.sum() == 0


def test_ties_go_to_the_text_that_came_first():
    table = ExampleTable(1, 2)
    zeros = np.zeros(3, np.int64)
    table.offer(
        zeros, np.array([1.0, 2.0, 1.0]), np.ones(3, np.float32), np.array([4, 5, 6]), zeros
    )
    table.offer(zeros[:1], np.array([1.0]), np.ones(1, np.float32), np.array([7]), zeros[:1])
    assert table.texts.tolist() == [[5, 4]]


def test_a_sample_is_uniform_over_the_texts_on_which_a_unit_fires():
    drawn = np.zeros(40)
    for seed in range(2000):
        table = ExampleTable(1, 4)
        priorities = np.random.default_rng(seed).random(40)
        for low in range(0, 40, 8):
            texts = np.arange(low, low + 8)
            zeros = np.zeros(8, np.int64)
            table.offer(zeros, priorities[texts], np.ones(8, np.float32), texts, zeros)
        drawn[table.texts[0]] += 1
    # Each text is drawn 200 times of 2000 on average; five standard deviations are 67.
    assert np.abs(drawn - 200).max() < 67


@given(st.lists(st.floats(2**-12, 4095, width=32), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error(values, q):
    values = np.sort(np.array(values, np.float32))
    counts = np.bincount(bins_of(values.copy()), minlength=N_BINS)
    exact = values[max(1, math.ceil(q * len(values))) - 1]
    assert abs(quantile(counts, q) / exact - 1) <= 0.061


def test_bins_hold_the_values_between_their_edges():
    edges = bin_edges()
    assert len(edges) == N_BINS + 1
    inner = edges[1:-1].astype(np.float32)
    assert bins_of(inner.copy()).tolist() == list(range(1, N_BINS))
    assert bins_of(np.nextafter(inner, np.float32(0))).tolist() == list(range(N_BINS - 1))
    assert bins_of(np.array([1e-30, 3e38], np.float32)).tolist() == [0, N_BINS - 1]
    assert math.isnan(quantile(np.zeros(N_BINS, np.int64), 0.5))


def test_token_ids_beyond_the_tables_room_are_counted_together():
    table = TokenCounts(2, max_cells=6)
    zeros = np.zeros(5, np.int64)
    table.add(np.array([70_000, 3, 9, 9, 3]), np.arange(5), zeros)
    assert table.most_frequent(0, 9) == [(3, 2), (70_000, 1)]
    assert table.counts[0].tolist() == [2, 0]
    later = TokenCounts(2, max_cells=6)
    later.add(np.array([3, 11]), np.arange(2), np.array([1, 0]))
    table.merge(later)
    assert (table.most_frequent(1, 9), table.counts[0].tolist()) == ([(3, 1)], [3, 0])


def test_a_mean_and_a_maximum_count_silent_members_as_zero():
    block = np.array([[-2.0, -4.0, 0.0], [-2.0, 0.0, 3.0]], np.float32)
    expected = {"mean": [-2.0, 1 / 3], "max": [0.0, 3.0], "sum": [-6.0, 1.0]}
    for rule, activations in expected.items():
        groups = group_components(["a:0", "a:1", "a:2"], {"run-0-0": ["a:0", "a:1", "a:2"]}, rule)
        from whatchanged.activations.events import cluster_block

        events = Extractor().extract(block, groups.slot_of_component, 3)
        (cluster,), (found,) = cluster_block(events, groups)
        assert cluster == 0
        np.testing.assert_allclose(found, activations, 1e-6)


def test_blocks_wider_and_longer_than_a_tile_are_found_whole():
    rng = np.random.default_rng(0)
    for shape in ((3, 300_001), (5000, 130), (1, 1), (7, 262_144), (0, 5)):
        block = np.where(rng.random(shape) < 0.01, rng.random(shape), 0).astype(np.float32)
        slots = rng.permutation(shape[1]).astype(np.int32)
        events = Extractor().extract(block, slots, shape[1])
        rebuilt = np.zeros(shape, np.float32)
        column = np.argsort(slots)[np.repeat(events.slots, events.counts)]
        rebuilt[events.rows.astype(int), column] = events.values
        np.testing.assert_array_equal(rebuilt, block)
        cells, values = Extractor().cells(block)
        np.testing.assert_array_equal(cells, np.flatnonzero(block))
        np.testing.assert_array_equal(values, block.reshape(-1)[cells])
