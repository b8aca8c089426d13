"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _threads_are_set_back() -> Iterator[None]:
    """Sums round by how many threads make them: no module leaves torch with a number of its own."""
    import torch

    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
