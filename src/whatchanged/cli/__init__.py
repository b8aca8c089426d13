"""The command line. Commands import what they need when they run, so `--help` stays quick."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import cyclopts
from cyclopts import Parameter

from whatchanged import __version__
from whatchanged.cli.terminal import configure_logging, tell
from whatchanged.errors import WhatchangedError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

ConfigPath: TypeAlias = Annotated[Path, Parameter(name="CONFIG", help="The experiment, as YAML.")]
Overrides: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set", negative=(), show_default=False,
        help="Replaces one value of the config, as in `--set sample.max_texts=500`. Repeatable.",
    ),
]  # fmt: skip
RunDir: TypeAlias = Annotated[
    Path | None, Parameter(help="Folder of this run; by default runs/ and the config's name.")
]
AsJson: TypeAlias = Annotated[
    bool,
    Parameter(name="--json", negative=(), show_default=False, help="One line of JSON on stdout."),
]

app = cyclopts.App(
    name="whatchanged",
    version=__version__,
    help=(
        "Finds out what an intervention changed in a language model. "
        "`--debug` (or WHATCHANGED_DEBUG=1) shows the traceback of an error.\n\n"
        "Exit codes: 0 done, 1 failed, 2 usage or invalid config, 3 finished with failed items, "
        "4 budget reached (resumable), 5 missing dependency or key, 130 interrupted (resumable)."
    ),
    help_format="plaintext",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)


@app.command
def run(
    config: ConfigPath,
    /,
    *,
    overrides: Overrides = (),
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> int:
    """Runs the audit of a config, or resumes it where it stopped."""
    from whatchanged.cli.run import run_audit

    return run_audit(config, overrides, run_dir=run_dir, as_json=as_json)


@app.command
def collect(
    run: Annotated[Path, Parameter(name="RUN", help="A finished run folder.")],
    /,
    *,
    overrides: Overrides = (),
    as_json: AsJson = False,
) -> int:
    """Adds to a finished run which components of the models fire on its texts."""
    from whatchanged.cli.collect import collect_run

    return collect_run(run, overrides, as_json=as_json)


@app.command
def compare_saes(
    config: ConfigPath,
    /,
    *,
    overrides: Overrides = (),
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> int:
    """Compares sparse autoencoders (SAEs) of one model, or of two, over categorized texts."""
    from whatchanged.cli.compare_saes import run_comparison

    return run_comparison(config, overrides, run_dir=run_dir, as_json=as_json)


@app.command
def plan(config: ConfigPath, /, *, overrides: Overrides = (), as_json: AsJson = False) -> int:
    """Says what an audit would take, before anything is spent."""
    from whatchanged.cli.plan import show_plan

    return show_plan(config, overrides, as_json=as_json)


@app.command
def prompts(
    config: Annotated[Path, Parameter(name="CONFIG", help="Areas and a writer, as YAML.")],
    /,
    *,
    overrides: Overrides = (),
    out: Annotated[
        Path | None, Parameter(help="The JSONL file; by default beside CONFIG, with its name.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Lets a model behind an API write a prompt bank, so many prompts for each area."""
    from whatchanged.cli.prompts import write_bank

    return write_bank(config, overrides, out=out, as_json=as_json)


@app.command
def status(
    run: Annotated[
        Path | None,
        Parameter(name="RUN", help="A run folder, or a folder of runs; by default ./runs."),
    ] = None,
    /,
    *,
    as_json: AsJson = False,
) -> int:
    """Says which runs are finished, in progress or interrupted."""
    from whatchanged.cli.status import show_status

    return show_status(run, as_json=as_json)


@app.command
def report(run: Annotated[Path, Parameter(name="RUN", help="A run folder.")], /) -> int:
    """Renders report.md and report.html again from a finished run."""
    from whatchanged.cli.finished import render_report

    return render_report(run)


@app.command
def export(
    run: Annotated[Path, Parameter(name="RUN", help="A run folder.")],
    /,
    *,
    format: Annotated[
        str,
        Parameter(
            help="The dashboard as a folder or html; or tables (CSV, JSONL, Parquet), latex, "
            "figures, atlas (for embedding-atlas), model-card."
        ),
    ] = "folder",
    out: Annotated[
        Path | None,
        Parameter(help="Where; by default dashboard/, dashboard.html or exports/ in the run."),
    ] = None,
) -> int:
    """Writes a finished run for other people: its dashboard, tables, figures, a model card."""
    from whatchanged.cli.export import export_run

    return export_run(run, format, out)


@app.command
def push(
    run: Annotated[Path, Parameter(name="RUN", help="A finished run folder.")],
    /,
    *,
    repo: Annotated[str, Parameter(help="The dataset repository on the hub, owner/name.")],
    public: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Everybody may read it.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Says what would be pushed.")
    ] = False,
) -> int:
    """Pushes the report and the dashboard of a finished run to the hub, private by default."""
    from whatchanged.cli.push import push_run

    return push_run(run, repo, is_public=public, is_dry=dry_run)


@app.command
def dashboard(
    run: Annotated[Path, Parameter(name="RUN", help="A run folder, finished or in progress.")],
    /,
    *,
    port: Annotated[int, Parameter(help="Port; 0 takes a free one.")] = 0,
    host: Annotated[
        str | None,
        Parameter(help="Another address than this machine's own; readers then need a token."),
    ] = None,
) -> int:
    """Serves the dashboard of a run on this machine, live while the run is in progress."""
    from whatchanged.cli.dashboard import serve_run

    return serve_run(run, port=port, host=host)


@app.command
def verify(
    *paths: Annotated[
        Path,
        Parameter(name="PATH", help="Run folders, and caches to check instead of the usual one."),
    ],
    anew: Annotated[
        bool,
        Parameter(negative=(), help="Begin again where an interrupted check would go on."),
    ] = False,
) -> int:
    """Reads every stored byte back and compares digests; damaged artifacts are set aside."""
    from whatchanged.cli.finished import verify_stored

    return verify_stored(paths, anew=anew)


@app.command
def doctor(*, as_json: AsJson = False) -> int:
    """Checks this machine: packages, device, weights, cache folder; says what to do."""
    from whatchanged.cli.doctor import show_checks

    return show_checks(as_json=as_json)


@app.command
def init(
    folder: Annotated[
        Path | None, Parameter(name="FOLDER", help="Where; by default this folder.")
    ] = None,
    /,
) -> int:
    """Writes a starter config.yaml and prompts.jsonl; never overwrites a file."""
    from whatchanged.cli.init import write_starter

    return write_starter(folder or Path())


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line (by default the process's own)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("WHATCHANGED_DEBUG", "") not in ("", "0")
    if "--debug" in tokens:
        debug, tokens = True, [word for word in tokens if word != "--debug"]
    configure_logging()
    try:
        return app(tokens) or 0
    except KeyboardInterrupt:
        return _interrupted()
    except cyclopts.CycloptsError as error:
        tell(f"whatchanged: {error} See whatchanged --help.")
        return EXIT_USAGE
    except WhatchangedError as error:
        if debug:
            tell(traceback.format_exc())
        tell(f"whatchanged: {error}")
        return error.exit_code
    except BrokenPipeError:
        _stop_writing()
        return EXIT_FAILED
    except Exception as error:
        tell(traceback.format_exc())
        tell(f"whatchanged: unexpected {type(error).__name__}: {error}; the traceback is above")
        return EXIT_FAILED
    except BaseException as error:
        # How Prefect reports a SIGTERM inside a flow; to import the class would cost a second.
        if type(error).__name__ == "TerminationSignal":
            return _interrupted()
        raise


def _interrupted() -> int:
    tell("whatchanged: interrupted; run the same command again to resume")
    return EXIT_INTERRUPTED


def _stop_writing() -> None:
    # The reader is gone (`| head`); without this the interpreter complains once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
