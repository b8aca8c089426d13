"""A fault is asked for by name, and comes once."""

from __future__ import annotations

import pytest

from whatchanged.errors import TransientError
from whatchanged.store.faults import point


def test_a_transient_fault_is_raised_the_asked_time_and_never_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WHATCHANGED_FAULT", "only.here:2:transient")
    point("only.here")
    point("elsewhere")
    with pytest.raises(TransientError, match=r"only\.here"):
        point("only.here")
    point("only.here")
