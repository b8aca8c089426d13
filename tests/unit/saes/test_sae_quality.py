import math

import pytest

from whatchanged.errors import UsageError
from whatchanged.saes.quality import SaeQuality, describe_quality, find_weaknesses


def test_a_good_sae_is_described_without_doubt():
    assert describe_quality(SaeQuality(0.83, 41.25, 0.951, 0.031)) == (
        "explained variance 0.83, L0 41.2, loss recovered 0.95, dead features 3.1%"
    )


def test_a_poor_sae_is_named_as_one():
    assert find_weaknesses(SaeQuality(0.1, 2.0, 0.3, 0.9)) == (
        "explains less than 50% of the variance",
        "recovers less than 80% of the loss",
        "more than 50% of its features are dead",
    )
    assert "read its features with doubt" in describe_quality(SaeQuality(-0.2, 2.0, None, 0.0))


def test_what_is_unknown_is_said_and_is_no_weakness():
    unknown = SaeQuality(None, None, None, None)
    assert find_weaknesses(unknown) == ()
    assert describe_quality(unknown).count("unknown") == 4
    not_measurable = SaeQuality(math.nan, math.nan, math.nan, math.nan)
    assert find_weaknesses(not_measurable) == ()
    assert describe_quality(not_measurable).count("unknown") == 4


@pytest.mark.parametrize("bad", [(0.5, -1.0, 0.9, 0.1), (0.5, 3.0, 0.9, 1.1)])
def test_impossible_figures_are_refused(bad):
    with pytest.raises(UsageError, match="found"):
        SaeQuality(*bad)
