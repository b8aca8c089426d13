"""Every break of the code that shows that a test can fail still applies to today's code."""

from __future__ import annotations

import pytest

from tests.faults.mutations import MUTATIONS, PROJECT, Mutation, mutate


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_the_code_can_still_be_broken_there(mutation: Mutation) -> None:
    source = (PROJECT / mutation.path).read_text()
    assert mutate(source, mutation) != source
    compile(mutate(source, mutation), mutation.path, "exec")
