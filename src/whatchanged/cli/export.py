"""`whatchanged export`: a run as a page, as tables, and in what a paper or a model card needs."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import whatchanged
from whatchanged.cli.terminal import say, tell
from whatchanged.errors import UsageError
from whatchanged.store.exports import (
    write_export_file,
    write_listed_folder,
)

if TYPE_CHECKING:
    from whatchanged.store.runs import Run

# Writes one format of a run to a place of the user's, or to its own within the run.
Writer: TypeAlias = Callable[["Run", Path | None], None]

TEXTS_PER_CLUSTER = 20
# A file to send by mail; a larger run leaves words out of it, and says so.
SENDABLE_BYTES = 10_000_000


def export_run(run_path: Path, format: str, out: Path | None) -> int:
    """Writes a finished run in one of `FORMATS`, by default into the run's own folder; returns 0.

    What is in the way at `out` is never overwritten, unless it is an earlier export into that
    folder. Raises UsageError for another format or one file that would be too large, InputError
    where the run cannot be loaded or `out` holds something else, MissingDependencyError where
    figures are asked for without matplotlib.
    """
    write = FORMATS.get(format)
    if write is None:
        near = difflib.get_close_matches(format, FORMATS, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise UsageError(
            f"expected --format to be one of {', '.join(FORMATS)}, found {format!r}: {advice}"
        )
    write(whatchanged.load(run_path), out)
    return 0


def _export_folder(run: Run, out: Path | None) -> None:
    from whatchanged.dashboard.export import export_folder

    _say_opens(*export_folder(run, out))


def _export_html(run: Run, out: Path | None) -> None:
    from whatchanged.dashboard.pack import pack_run
    from whatchanged.dashboard.shell import write_one_file

    page = write_one_file(_name(run), pack_run(run).parts())
    if len(page) > SENDABLE_BYTES:
        parts = pack_run(run, texts_per_cluster=TEXTS_PER_CLUSTER).parts()
        page = write_one_file(_name(run), parts)
        tell(
            "the words of most texts are left out to keep the file small: quoted texts and "
            f"{TEXTS_PER_CLUSTER} per cluster are in it; --format folder holds all"
        )
    path = run.path / "dashboard.html" if out is None else out
    _say_opens(path, write_export_file(path, page, replace=out is None))


def _export_tables(run: Run, out: Path | None) -> None:
    from whatchanged.exports.tables import write_tables

    folder = _own(run, "tables") if out is None else out
    n_bytes = write_listed_folder(folder, "tables", write_tables(run))
    _say_written(folder, n_bytes, "data_dictionary.md says what each column is")


def _export_latex(run: Run, out: Path | None) -> None:
    from whatchanged.exports.latex import write_latex

    folder = _own(run, "latex") if out is None else out
    n_bytes = write_listed_folder(folder, "latex", write_latex(run).items())
    _say_written(folder, n_bytes, "preview.tex shows the tables; they need booktabs")


def _export_figures(run: Run, out: Path | None) -> None:
    from whatchanged.exports.figures import write_figures

    folder = _own(run, "figures") if out is None else out
    n_bytes = write_listed_folder(folder, "figures", write_figures(run))
    _say_written(folder, n_bytes, "captions.md has a caption for each")


def _export_atlas(run: Run, out: Path | None) -> None:
    from whatchanged.exports.atlas import write_atlas

    path = _own(run, "atlas.parquet") if out is None else out
    n_bytes = write_export_file(path, write_atlas(run), replace=out is None)
    command = f"embedding-atlas {shlex.quote(str(path))} --text text --x x --y y"
    _say_written(path, n_bytes, f"open it with `{command}`")


def _export_model_card(run: Run, out: Path | None) -> None:
    from whatchanged.exports.model_card import write_model_card

    path = _own(run, "model-card.md") if out is None else out
    n_bytes = write_export_file(path, write_model_card(run).encode(), replace=out is None)
    _say_written(path, n_bytes, "paste it into the model card")


FORMATS: Mapping[str, Writer] = {
    "folder": _export_folder,
    "html": _export_html,
    "tables": _export_tables,
    "latex": _export_latex,
    "figures": _export_figures,
    "atlas": _export_atlas,
    "model-card": _export_model_card,
}


def _name(run: Run) -> str:
    return run.path.resolve().name


def _own(run: Run, name: str) -> Path:
    """Where an export goes within its run: what is there is the run's own, and may be replaced."""
    return run.path / "exports" / name


def _say_opens(target: Path, n_bytes: int) -> None:
    _say_written(target, n_bytes, "open it in a browser, no server or network needed")


def _say_written(target: Path, n_bytes: int, what_next: str) -> None:
    say(f"{target} ({n_bytes / 1e6:.1f} MB): {what_next}")
