"""`whatchanged collect`: the insides of a finished audit."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from whatchanged.cli.flows import load_flow
from whatchanged.cli.terminal import say


def collect_run(run: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """The exit code of one collection, 0; errors are raised, before Prefect is imported where the
    folder is no finished run."""
    from whatchanged.activations.evidence import describe_collection
    from whatchanged.store.runs import load_run

    load_run(run)
    collect_activations = load_flow("collect_activations")
    with redirect_stdout(sys.stderr):
        summary = collect_activations(run=str(run), overrides=list(overrides))
    say(json.dumps(summary, sort_keys=True) if as_json else describe_collection(summary))
    return 0
