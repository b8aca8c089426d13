from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.nursery import Nursery, nursery


@pytest.fixture(scope="module")
def workers() -> Iterator[Nursery]:
    """Where the tests of a file get their workers."""
    with nursery("tests.faults.store.worker", "-W", "error") as opened:
        yield opened
