"""From features to tables, as a comparison of SAEs puts the analyses together."""

import csv
import io

import numpy as np

from tests.unit.saes.synthetic import features_of, groups_of, planted
from whatchanged.saes.category_tests import measure_categories
from whatchanged.saes.changes import FeatureChange, compare_sides
from whatchanged.saes.concepts import ConceptFeature, search_concept
from whatchanged.saes.features import ZERO, quantile_thresholds
from whatchanged.saes.overlap import Overlap, measure_overlap
from whatchanged.saes.specialists import (
    CategorySummary,
    LayerSummary,
    Specialist,
    find_specialists,
    summarize_categories,
    summarize_layers,
)
from whatchanged.saes.strength import RankedFeature, rank_features
from whatchanged.saes.tables import make_table, to_csv, to_frame, to_latex, to_markdown


def test_every_analysis_of_two_saes_becomes_a_table_with_their_quality():
    values, categories = planted(
        np.random.default_rng(0), sizes=(25, 30, 35), d_sae=60, n_planted=6
    )
    saes = [features_of(values, "a", layer=0), features_of(values[:, ::-1] * 7, "b", layer=1)]
    groups = groups_of(categories)
    tests = [
        measure_categories(sae, groups, threshold)
        for sae in saes
        for threshold in (ZERO, *quantile_thresholds(sae, [0.25]))
    ]
    by_name = {sae.card.name: sae for sae in saes}
    directions = np.eye(60, dtype=np.float32)
    records = {
        RankedFeature: [row for t in tests for row in rank_features(by_name[t.card.name], t)],
        Specialist: [
            row for t in tests for row in find_specialists(by_name[t.card.name], t, seed=0)
        ],
        CategorySummary: [row for t in tests for row in summarize_categories(t)],
        LayerSummary: summarize_layers(tests),
        ConceptFeature: search_concept(saes[0], groups, "topic 1", seed=0),
        FeatureChange: compare_sides(*saes, groups, seed=0).largest,
        Overlap: [measure_overlap(*saes, directions, directions[::-1])],
    }
    for kind, rows in records.items():
        made = make_table(kind.__name__, "Caption", kind, rows, [sae.card for sae in saes])
        assert len(made.rows) == len(rows) > 0
        assert {row["explained_variance"] for row in csv.DictReader(io.StringIO(to_csv(made)))} == {
            "0.83"
        }
        assert len(to_frame(made)) == len(rows)
        assert "explained variance 0.83" in to_markdown(made)
        assert "explained variance 0.83" in to_latex(made)
    (overlap,) = records[Overlap]
    assert (overlap.mean_cosine, overlap.mean_jaccard) == (1.0, 1.0)
    # The same features in another scale and order: the same specialists at every threshold.
    assert len({layer.n_specialists for layer in records[LayerSummary][::2]}) == 1
    found = {(row.sae, row.threshold, row.feature) for row in records[Specialist]}
    assert {("a", "q25", j) for j in range(6)} | {("b", "zero", 59 - j) for j in range(6)} <= found
