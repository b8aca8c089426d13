from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from whatchanged.cli import main
from whatchanged.cli.doctor import (
    Requirement,
    check_folder,
    check_omp,
    check_packages,
    check_python,
    read_constraints,
    satisfies,
)
from whatchanged.cli.flows import find_project
from whatchanged.cli.plan import find_rates
from whatchanged.cli.run import n_failed_items
from whatchanged.cli.status import list_runs, read_status
from whatchanged.cli.terminal import aligned
from whatchanged.config_file import load_config
from whatchanged.discovery import CLUSTER_COLUMNS
from whatchanged.environment import prepare_environment
from whatchanged.keys import content_key
from whatchanged.records import PROMPT_COLUMNS, SEGMENT_COLUMNS, TEXT_COLUMNS, VERDICT_COLUMNS
from whatchanged.store.artifacts import ArtifactStore
from whatchanged.store.mounts import file_system_of
from whatchanged.store.runs import RunFolder

CONFIG = (
    "base: {model: demo:base}\nintervention: {model: demo:intervention}\nprompts: {file: p.jsonl}\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a config and two prompts."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_child(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whatchanged", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def project_with(folder: Path, body: str) -> Path:
    """A project whose flow has this body, so that the command is tested without an audit."""
    (folder / "flows").mkdir()
    (folder / "tasks").mkdir()
    (folder / "flows" / "__init__.py").write_text("")
    (folder / "flows" / "audit.py").write_text(
        f"def audit(config: str, overrides: list[str], run_dir: str | None) -> dict:\n    {body}\n"
    )
    return folder


# Processor time of `import pydantic, yaml` on the machine that the bound of 0.5 s was set on.
YARDSTICK_S = 0.06


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plan", "small.yaml"], ["status"], ["plan", "--help"]]
)
def test_light_commands_start_fast_and_load_no_heavy_library(
    here: Path, arguments: list[str]
) -> None:
    code = (
        "import sys; from whatchanged.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'prefect', 'pandas', 'scipy', 'sklearn', 'transformers', 'matplotlib'}; "
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command, yardstick = [], []
    for _ in range(3):
        child, seconds = timed_child("-c", code, *arguments, cwd=here)
        assert child.returncode == 0, child.stderr
        assert child.stderr.splitlines()[-1] == ""
        command.append(seconds)
        yardstick.append(timed_child("-c", "import pydantic, yaml", cwd=here)[1])
    # Half a second, and on a slower machine as much longer as its Python takes to start.
    assert min(command) < 0.5 * max(1.0, min(yardstick) / YARDSTICK_S)


def timed_child(*arguments: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """A Python with these arguments, and its processor seconds: wall time is shared with others."""

    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    child = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
    return child, seconds() - before


def test_the_package_runs_as_a_module(here: Path) -> None:
    child = run_child("--version", cwd=here)
    assert (child.returncode, child.stdout) == (0, "0.1.0\n")


@pytest.mark.parametrize(
    "arguments",
    [["runn"], ["run"], ["plan", "small.yaml", "--bogus"], ["plan", "small.yaml", "--set"]],
)
def test_a_command_that_cannot_be_read_exits_2_with_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("whatchanged: ")
    assert err.count("\n") == 1


def test_a_config_error_is_one_sentence_and_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "small.yaml", "--set", "sample.max_text=3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean 'max_texts'?" in err
    assert "Traceback" not in err


def test_a_config_error_answers_before_prefect_is_loaded(here: Path) -> None:
    code = (
        "import sys; from whatchanged.cli import main; "
        "print(main(['run', 'small.yaml', '--set', 'sed=1']), 'prefect' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert child.stdout == "2 False\n"


@pytest.mark.parametrize(
    "arguments", [["--debug", "plan", "x.yaml"], ["plan", "x.yaml", "--debug"]]
)
def test_debug_shows_the_traceback(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_debug_variable_shows_the_traceback(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_DEBUG", "1")
    assert main(["plan", "absent.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted; run the same command again to resume"),
        ("from whatchanged import errors; raise errors.BudgetReachedError('spent')", 4, "spent"),
        ("from whatchanged import errors; raise errors.StorageError('disk full')", 1, "disk full"),
        ("from whatchanged import errors; raise errors.MissingDependencyError('key')", 5, "key"),
        ("raise ValueError('a bug')", 1, "unexpected ValueError: a bug"),
    ],
)  # fmt: skip
def test_each_end_of_an_audit_has_its_exit_code(
    here: Path, body: str, code: int, said: str
) -> None:
    child = run_child("run", "small.yaml", cwd=project_with(here, body))
    assert child.returncode == code, child.stderr
    assert said in child.stderr.splitlines()[-1]
    assert ("Traceback" in child.stderr) is (body == "raise ValueError('a bug')")
    assert child.stdout == ""


def test_the_flow_gets_its_arguments_and_its_environment(here: Path) -> None:
    body = (
        "import os; raise ValueError(repr((config, overrides, run_dir, "
        "os.environ['PREFECT_LOCAL_STORAGE_PATH'], "
        "os.environ['PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS'], "
        "os.environ['OMP_WAIT_POLICY'])))"
    )
    child = run_child(
        "run", "small.yaml", "--set", "seed=1", "--run-dir", "out",
        cwd=project_with(here, body),
        WHATCHANGED_CACHE=str(here / "cache"),
        OMP_WAIT_POLICY="ACTIVE",
    )  # fmt: skip
    storage = str(here / "cache" / "prefect")
    # What the user has set is kept.
    expected = repr(("small.yaml", ["seed=1"], "out", storage, "120", "ACTIVE"))
    assert expected in child.stderr.splitlines()[-1]


def test_the_temporary_server_is_announced_unless_one_is_named(here: Path) -> None:
    project = project_with(here, "raise KeyboardInterrupt")
    profiles = {"PREFECT_PROFILES_PATH": str(here / "profiles.toml"), "PREFECT_HOME": str(here)}
    assert "temporary Prefect server" in run_child("run", "small.yaml", cwd=here, **profiles).stderr
    named = {**profiles, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    assert "temporary" not in run_child("run", "small.yaml", cwd=project, **named).stderr


def test_what_a_flow_prints_does_not_reach_standard_output(here: Path) -> None:
    child = run_child(
        "run", "small.yaml", "--json",
        cwd=project_with(here, "print('noise'); raise KeyboardInterrupt"),
    )  # fmt: skip
    assert child.stdout == ""
    assert "noise" in child.stderr


def test_the_project_is_found_from_a_folder_below_it(tmp_path: Path) -> None:
    project = project_with(tmp_path, "return {}")
    below = project / "runs" / "demo"
    below.mkdir(parents=True)
    assert find_project(below) == project.resolve()


def test_outside_a_clone_the_source_checkout_is_used(tmp_path: Path) -> None:
    assert (find_project(tmp_path) / "flows" / "audit.py").is_file()


def test_failed_items_are_counted_from_the_summary() -> None:
    assert n_failed_items({"failed_items": 2}) == 2
    assert n_failed_items({}) == 0


def test_the_environment_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("DO_NOT_TRACK", "")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.delenv("PREFECT_LOCAL_STORAGE_PATH", raising=False)
    prepare_environment(Path("/cache"))
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["DO_NOT_TRACK"] == ""
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["PREFECT_LOCAL_STORAGE_PATH"] == "/cache/prefect"
    for name in ("TOKENIZERS_PARALLELISM", "PREFECT_LOCAL_STORAGE_PATH"):
        monkeypatch.delenv(name)


def test_a_plan_is_printed_as_rows_or_as_one_line_of_json(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "small.yaml"]) == 0
    assert "seconds                   unknown: no earlier finished run" in capsys.readouterr().out
    assert main(["plan", "small.yaml", "--json", "--set", "validate.null_control=false"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert list(plan["texts"]) == ["base", "intervention"]
    assert plan["prompts"]["discovery"] == 1


def test_rates_come_from_a_finished_run_of_the_same_models(here: Path) -> None:
    loaded = load_config(here / "small.yaml")
    folder = here / "runs" / "earlier"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(loaded.to_yaml())
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "decode": {"base": {"n_decoded": 10, "n_cached": 0, "n_tokens": 50}},
                "seconds": {"decode": 5},
            }
        )
    )
    assert find_rates(loaded.config, here / "runs") is None  # no manifest: not finished
    (folder / "manifest.json").write_text("{}")
    rates = find_rates(loaded.config, here / "runs")
    assert rates is not None
    assert (rates.seconds_per_text, rates.tokens_per_text) == (0.5, 5.0)
    # Validation settings do not change how long a text takes, the length of a text does.
    same = load_config(here / "small.yaml", ["validate.alpha=0.01"]).config
    other = load_config(here / "small.yaml", ["decode.max_new_tokens=9"]).config
    assert find_rates(same, here / "runs") is not None
    assert find_rates(other, here / "runs") is None


def write_progress(folder: Path, pid: int, started: datetime) -> Path:
    folder.mkdir(parents=True)
    progress = {
        "stage": "decode", "detail": "round 2", "pid": pid, "seconds": {"decode": 3.5},
        "started_utc": started.isoformat(), "updated_utc": started.isoformat(),
    }  # fmt: skip
    (folder / "progress.json").write_text(json.dumps(progress))
    return folder


def gone_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_run_whose_process_lives_is_in_progress(tmp_path: Path) -> None:
    status = read_status(write_progress(tmp_path / "a", os.getpid(), datetime.now(UTC)))
    assert status is not None
    assert (status.state, status.stage, status.detail) == ("in progress", "decode", "round 2")
    assert status.seconds == {"decode": 3.5}


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    status = read_status(write_progress(tmp_path / "a", gone_pid(), datetime.now(UTC)))
    assert status is not None
    assert status.state == "interrupted"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are read from /proc")
def test_a_process_younger_than_the_run_is_another_one(tmp_path: Path) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    status = read_status(write_progress(tmp_path / "a", os.getpid(), long_ago))
    assert status is not None
    assert status.state == "interrupted"


def test_a_run_with_a_manifest_is_finished_and_says_why_it_stopped(tmp_path: Path) -> None:
    folder = write_progress(tmp_path / "a", gone_pid(), datetime.now(UTC))
    (folder / "manifest.json").write_text("{}")
    (folder / "summary.json").write_text('{"stop_reason": "resolved", "seconds": {"decode": 9}}')
    status = read_status(folder)
    assert status is not None
    assert (status.state, status.stop_reason) == ("finished", "resolved")
    assert status.seconds == {"decode": 9.0}


def test_a_torn_progress_file_means_interrupted(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"stage": "dec')
    status = read_status(tmp_path)
    assert status is not None
    assert status.state == "interrupted"


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    write_progress(tmp_path / "b", gone_pid(), datetime.now(UTC))
    write_progress(tmp_path / "a", gone_pid(), datetime.now(UTC))
    assert read_status(tmp_path / "notes") is None
    assert [run.folder.name for run in list_runs(tmp_path)] == ["a", "b"]
    assert list_runs(tmp_path / "absent") == []


def test_status_shows_runs_without_sending_their_control_characters(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_progress(here / "runs" / "red\x1b[31m", gone_pid(), datetime.now(UTC))
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "interrupted" in out
    assert main(["status", "runs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["stage"]) == ("interrupted", "decode")


def test_status_of_something_else_is_a_usage_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "nowhere"]) == 2
    assert "found neither" in capsys.readouterr().err
    assert main(["status"]) == 0


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert (
        aligned([("a", "bb", "c"), ("aaa", "b", "two\nlines")]) == "a    bb  c\naaa  b   two lines"
    )
    assert aligned([]) == ""


def test_init_writes_a_pair_of_files_that_plan_accepts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "mine"]) == 0
    assert main(["plan", "mine/config.yaml"]) == 0
    assert "6 discovery, 6 validation; 4 groups" in capsys.readouterr().out


def test_init_never_overwrites(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "prompts.jsonl").write_text("mine")
    assert main(["init"]) == 2
    assert (here / "prompts.jsonl").read_text() == "mine"
    assert not (here / "config.yaml").exists()
    assert "expected no file" in capsys.readouterr().err


def finished_run(path: Path, config: Path) -> Path:
    """A finished run that found nothing, as the flow writes it."""
    folder = RunFolder.create(path)
    folder.write_config(load_config(config).to_yaml())
    columns = {
        "texts": TEXT_COLUMNS, "segments": SEGMENT_COLUMNS, "prompts": PROMPT_COLUMNS,
        "verdicts": VERDICT_COLUMNS, "map": ("text_key", "x", "y"), "clusters": CLUSTER_COLUMNS,
    }  # fmt: skip
    for name, names in columns.items():
        folder.write_table(name, pd.DataFrame(columns=list(names)))
    folder.write_json("findings", [])
    folder.write_json("null_findings", [])
    folder.write_json("summary", {"seed": 0, "stop_reason": "resolved"})
    folder.finish({"cluster": "0" * 64}, {"whatchanged": "0.1.0"})
    return path


def test_a_report_is_rendered_again_and_the_manifest_still_covers_everything(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(here / "runs" / "a", here / "small.yaml")
    (run / ".run.jsonl").unlink()  # as in a folder that was copied without hidden files
    assert main(["report", "runs/a"]) == 0
    assert "demo:intervention" in (run / "report.md").read_text()
    assert capsys.readouterr().out != ""
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stages"] == {"cluster": "0" * 64}
    assert {"report.md", "report.html", "texts.parquet", "findings.json"} <= manifest[
        "files"
    ].keys()
    # The report may be lost or damaged: it is made from the tables.
    (run / "report.md").write_text("damaged")
    assert main(["report", "runs/a"]) == 0
    assert main(["verify", "runs/a"]) == 0


def test_a_report_of_damaged_tables_is_refused_and_the_manifest_stays(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(here / "runs" / "a", here / "small.yaml")
    before = (run / "manifest.json").read_bytes()
    (run / "verdicts.parquet").write_bytes(b"damaged")
    assert main(["report", "runs/a"]) == 2
    assert "verdicts.parquet" in capsys.readouterr().err
    assert (run / "manifest.json").read_bytes() == before


def test_verify_counts_what_it_read_and_fails_on_damage(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(here / "cache"))
    run = finished_run(here / "runs" / "a", here / "small.yaml")
    assert main(["verify", "runs/a"]) == 0
    # config, 6 tables, 3 JSON files and the manifest itself
    assert "checked                    11 (" in capsys.readouterr().out
    (run / "texts.parquet").write_bytes(b"damaged")
    assert main(["verify", "runs/a"]) == 1
    out, err = capsys.readouterr()
    assert "damaged                    1\n" in out
    assert "texts.parquet" in err


def test_verify_checks_the_cache_that_is_named_instead_of_the_usual_one(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(here / "usual"))
    for name, n_artifacts in (("usual", 2), ("other", 3)):
        for number in range(n_artifacts):
            ArtifactStore(here / name).put_json(content_key("artifact", number), "sound")
    assert main(["verify"]) == 0
    assert "checked                    2 (" in capsys.readouterr().out
    assert main(["verify", "other"]) == 0
    assert "checked                    3 (" in capsys.readouterr().out
    assert main(["verify", "nowhere"]) == 2
    assert "expected a run folder or a cache at nowhere" in capsys.readouterr().err


def test_a_finished_audit_prints_its_summary_and_json_keeps_standard_output_clean(
    here: Path,
) -> None:
    run = finished_run(here / "runs" / "a", here / "small.yaml")
    body = f"print('noise'); return {{'run': {str(run)!r}, 'failed_items': FAILED}}"
    project = project_with(here, body.replace("FAILED", "0"))
    plain = run_child("run", "small.yaml", cwd=project)
    assert (plain.returncode, plain.stderr.splitlines()[-1]) == (0, "noise")
    assert len(plain.stdout.splitlines()) > 1
    (project / "flows" / "audit.py").write_text(
        (project / "flows" / "audit.py")
        .read_text()
        .replace("'failed_items': 0", "'failed_items': 2")
    )
    as_json = run_child("run", "small.yaml", "--json", cwd=project)
    assert as_json.returncode == 3
    assert json.loads(as_json.stdout) == {"run": str(run), "failed_items": 2}
    assert plain.stdout.strip() in as_json.stderr


@pytest.mark.parametrize("command", ["report", "verify"])
def test_a_folder_that_is_no_run_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_traceback(here: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    child = subprocess.run(
        [sys.executable, "-m", "whatchanged", "plan", "small.yaml"],
        cwd=here, stdout=write_end, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write_end)
    assert child.returncode == 1
    assert child.stderr == ""


def test_the_doctor_compares_release_numbers() -> None:
    assert satisfies("0.150.0", ">=0.139,<0.151")
    assert not satisfies("0.151.0", ">=0.139,<0.151")
    assert not satisfies("0.138", ">=0.139,<0.151")
    assert satisfies("2.13.0+cpu", ">=2.4")
    assert satisfies("10.0", ">=9")
    assert satisfies("1.0", "==1.0.0")
    assert satisfies("4.0", "")


def test_the_doctor_reads_constraints_by_normalized_name() -> None:
    text = "# why\nPyYAML==6.0.3\ntyping_extensions==4.16.0  # note\n\n"
    assert read_constraints(text) == {"pyyaml": "6.0.3", "typing-extensions": "4.16.0"}


def test_the_doctor_tells_missing_too_new_untested_and_good_packages_apart() -> None:
    needed = [
        Requirement("lmdb", ">=1.6", ""),
        Requirement("fastapi", ">=0.139,<0.151", "flows"),
        Requirement("numpy", ">=1.26", ""),
        Requirement("torch", ">=2.4", ""),
    ]
    installed = {"fastapi": "0.165.0", "numpy": "2.5.0", "torch": "2.13.0+cpu"}
    pinned = {"numpy": "2.4.6", "torch": "2.13.0", "fastapi": "0.150.0"}
    checks = check_packages(needed, installed.get, pinned)
    assert [check.state for check in checks] == ["fail", "fail", "warn", "ok"]
    assert "make env" in checks[0].advice
    assert "<0.151" in checks[1].advice
    assert "tested with 2.4.6" in checks[2].advice


def test_the_doctor_refuses_an_old_python() -> None:
    assert check_python((3, 10, 9)).state == "fail"
    assert check_python((3, 11, 0)).state == "ok"


def test_the_doctor_warns_of_spinning_threads() -> None:
    assert [check_omp(policy).state for policy in (None, "passive", "ACTIVE")] == [
        "ok", "ok", "warn",
    ]  # fmt: skip


MOUNTS = "\n".join(
    [
        "/dev/vda / ext4 rw 0 0",
        "server:/home /home nfs4 rw 0 0",
        "/dev/vdb /home/me/fast xfs rw 0 0",
        "server:/odd /mnt/two\\040words cifs rw 0 0",
    ]
)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/cache", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/fast/cache", "xfs"),
        ("/homework", "ext4"),
        ("/mnt/two words/x", "cifs"),
    ],
)
def test_the_deepest_mount_decides_the_file_system(folder: str, kind: str) -> None:
    assert file_system_of(Path(folder), MOUNTS) == kind
    assert file_system_of(Path(folder), "") is None


def test_the_doctor_warns_of_a_cache_on_a_network_file_system(tmp_path: Path) -> None:
    mounts = f"server:/x {tmp_path.resolve()} nfs4 rw 0 0"
    checks = check_folder(tmp_path / "not" / "yet" / "there", mounts)
    assert [check.name for check in checks] == ["cache folder", "file system"]
    assert (checks[1].state, checks[1].found) == ("warn", "nfs4, a network file system")


def test_the_doctor_fails_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (check,) = check_folder(tmp_path / "file" / "cache", "")
    assert check.state == "fail"
    assert "WHATCHANGED_CACHE" in check.advice


def test_the_doctor_looks_at_everything_that_an_audit_needs(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(here / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    wanted = {
        "python", "torch", "prefect", "fastapi", "device", "embedding weights", "demo models",
        "cache folder", "OMP_WAIT_POLICY",
    }  # fmt: skip
    assert wanted <= checks.keys()
    assert code == (5 if any(check["state"] == "fail" for check in checks.values()) else 0)
    assert checks["embedding weights"]["state"] == "ok"
    # Looking changes nothing.
    assert not (here / "cache").exists()


def test_an_error_is_shown_without_its_control_characters(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "no\x1b[31msuch.yaml"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "U+001B" in err
