"""`whatchanged compare-saes`: sparse autoencoders on categorized texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from whatchanged.cli.flows import load_flow
from whatchanged.cli.terminal import say, tell
from whatchanged.preflight import choose_run_dir
from whatchanged.sae_config import load_comparison


def run_comparison(
    config: Path, overrides: Sequence[str], *, run_dir: Path | None, as_json: bool
) -> int:
    """The exit code of one comparison, 0; errors are raised, before Prefect is imported where it
    cannot start."""
    from whatchanged.sae_preflight import check_comparison
    from whatchanged.saes.report import describe_comparison

    loaded = load_comparison(config, overrides)
    named = None if run_dir is None else str(run_dir)
    check_comparison(loaded.config, choose_run_dir(loaded, named))
    compare_saes = load_flow("compare_saes")
    with redirect_stdout(sys.stderr):
        summary = compare_saes(config=str(config), overrides=list(overrides), run_dir=named)
    if as_json:
        tell(describe_comparison(summary))
        say(json.dumps(summary, sort_keys=True))
    else:
        say(describe_comparison(summary))
    return 0
