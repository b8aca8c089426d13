"""A run folder: what one audit leaves behind, readable with any tool, checked when it is loaded.

The manifest states the digest of every file and is written last, so a run that has one is
complete. A hidden journal marks the folder as a run from its first moment, and remembers which
files are the run's own: starting a run again removes leftovers of the earlier one at its end, and
never a file that somebody else put there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from whatchanged.errors import InputError
from whatchanged.keys import bytes_digest, file_digest
from whatchanged.records import PROMPT_COLUMNS, SEGMENT_COLUMNS, TEXT_COLUMNS, VERDICT_COLUMNS
from whatchanged.store import atomic, codec

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_JOURNAL = ".run.jsonl"
_COLUMNS = {
    "texts.parquet": TEXT_COLUMNS,
    "segments.parquet": SEGMENT_COLUMNS,
    "prompts.parquet": PROMPT_COLUMNS,
    "verdicts.parquet": VERDICT_COLUMNS,
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Writes one run. `RunFolder(path)` continues a run that `RunFolder.create` started.

    Names are relative to the folder ("figures/effects.svg"); others raise ValueError. All writes
    raise StorageError where the disk refuses, and leave the earlier file.
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A run folder that is open for writing, and unfinished from now on.

        In a folder that holds an earlier run, every file must be written (or adopted) again:
        `finish` removes those that were not. Raises InputError where the folder holds something
        that is no run, or a newer run.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"expected a folder at {path}, found a file: choose another --run-dir")
        cls.check(path)
        run = cls(atomic.ensure_folder(path))
        earlier = _earlier_files(path)
        run._write_journal([*({"file": name} for name in earlier), {"started": SCHEMA_VERSION}])
        (path / MANIFEST).unlink(missing_ok=True)
        atomic.sweep(path)
        return run

    @staticmethod
    def check(path: Path) -> None:
        """Nothing, where `create` would accept the folder; it need not exist. Changes nothing."""
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"expected a folder at {path}, found a file: choose another --run-dir")
        others = {
            entry.name
            for entry in path.iterdir()
            if entry.name != _JOURNAL and not atomic.is_temporary(entry.name)
        }
        if others and not (path / _JOURNAL).exists() and MANIFEST not in others:
            raise InputError(
                f"expected a run or an empty folder at {path}, found {min(others)!r}: choose"
                " another --run-dir"
            )
        _earlier_files(path)

    def write_config(self, text: str) -> Path:
        """Write the resolved config (YAML)."""
        return self.write_bytes("config.yaml", text.encode("utf-8", "backslashreplace"))

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file, indented for people; the suffix may be left out."""
        return self.write_bytes(_suffixed(name, ".json"), codec.json_bytes(value, indent=1))

    def write_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write a Parquet file; the suffix may be left out.

        Raises ValueError where one of the run's known tables lacks a column (`records`).
        """
        name = _suffixed(name, ".parquet")
        if lacking := [column for column in _COLUMNS.get(name, ()) if column not in table.columns]:
            raise ValueError(f"{name} lacks the columns {', '.join(lacking)}")
        return self.write_bytes(name, codec.table_bytes(table))

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write any file; folders in its name are made."""
        path = self._path(name)
        self._note(name)
        atomic.replace(path, data)
        return path

    def adopt(self, name: str) -> Path:
        """Count a file that another writer put into the folder as one of the run's own."""
        self._note(name)
        return self._path(name)

    def finish(
        self,
        stage_keys: Mapping[str, str],
        versions: Mapping[str, str],
        *,
        now: datetime | None = None,
    ) -> Path:
        """Write the manifest over all files of the run; the run can be loaded from now on.

        Files that only an earlier run in this folder wrote are removed.
        """
        written, stale = _journalled(self.path)
        for name in stale:
            self._path(name).unlink(missing_ok=True)
        files = {
            name: {"sha256": file_digest(path), "n_bytes": path.stat().st_size}
            for name in sorted(written)
            if (path := self._path(name)).is_file()
        }
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "created_utc": (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
            "stages": dict(stage_keys),
            "versions": dict(versions),
            "files": files,
        }
        return self._close(manifest)

    def retract(self, stage: str) -> None:
        """Take what a later stage added out of a finished run: the folder of its name.

        The run stays finished. Raises InputError where it is not.
        """
        manifest = read_manifest(self.path)
        files = manifest["files"]
        inside = PurePosixPath(stage)
        kept = {name: files[name] for name in files if inside not in PurePosixPath(name).parents}
        stages = {name: key for name, key in manifest["stages"].items() if name != stage}
        self._close({**manifest, "stages": stages, "files": kept})
        if (folder := self._path(stage)).is_dir():
            shutil.rmtree(folder)

    def extend(self, stage: str, key: str) -> Path:
        """Count what a later stage added to a finished run, all of it in the folder of its name.

        Until this the run is what it was. Raises InputError where it is not finished.
        """
        manifest = read_manifest(self.path)
        added = {
            path.relative_to(self.path).as_posix(): {
                "sha256": file_digest(path), "n_bytes": path.stat().st_size
            }
            for path in sorted(self._path(stage).rglob("*"))
            if path.is_file() and not atomic.is_temporary(path.name)
        }  # fmt: skip
        stages = {**manifest["stages"], stage: key}
        return self._close({**manifest, "stages": stages, "files": {**manifest["files"], **added}})

    def _close(self, manifest: dict[str, Any]) -> Path:
        stated = {**manifest, "sha256": bytes_digest(codec.json_bytes(manifest))}
        atomic.replace(self.path / MANIFEST, codec.json_bytes(stated, indent=1))
        names = [{"file": name} for name in manifest["files"]]
        self._write_journal([{"started": SCHEMA_VERSION}, *names])
        return self.path / MANIFEST

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or name in (MANIFEST, _JOURNAL):
            raise ValueError(f"{name!r} is no name of a file within a run folder")
        return self.path / name

    def _note(self, name: str) -> None:
        # Noted before it is written: a file of ours is never taken for somebody else's.
        line = codec.json_bytes({"file": str(PurePosixPath(name))}) + b"\n"
        try:
            with (self.path / _JOURNAL).open("ab") as journal:
                # A leading newline parts this line from one that a kill cut short.
                journal.write(b"\n" + line)
        except OSError as error:
            raise atomic.storage_error(error, self.path / _JOURNAL, len(line)) from error

    def _write_journal(self, entries: list[dict[str, Any]]) -> None:
        lines = [codec.json_bytes({"schema_version": SCHEMA_VERSION})]
        lines += [codec.json_bytes(entry) for entry in entries]
        atomic.replace(self.path / _JOURNAL, b"\n".join(lines) + b"\n")


@dataclass(frozen=True)
class Run:
    """A finished run. Tables are read, and checked, when they are first asked for."""

    path: Path
    manifest: dict[str, Any]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        import yaml

        config: dict[str, Any] = yaml.safe_load(self.read_bytes("config.yaml"))
        return config

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Counts, costs, seconds and the stop reason."""
        summary: dict[str, Any] = codec.json_value(self.read_bytes("summary.json"))
        return summary

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        """The findings, strongest first."""
        findings: list[dict[str, Any]] = codec.json_value(self.read_bytes("findings.json"))
        return findings

    @cached_property
    def null_findings(self) -> list[dict[str, Any]]:
        """The findings of the null control; empty where none was run."""
        findings: list[dict[str, Any]] = codec.json_value(self.read_bytes("null_findings.json"))
        return findings

    @cached_property
    def texts(self) -> pd.DataFrame:
        """One row per text (`records.TEXT_COLUMNS`)."""
        return self.read_table("texts")

    @cached_property
    def segments(self) -> pd.DataFrame:
        """One row per segment of a text (`records.SEGMENT_COLUMNS`)."""
        return self.read_table("segments")

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """One row per prompt (`records.PROMPT_COLUMNS`)."""
        return self.read_table("prompts")

    @cached_property
    def clusters(self) -> pd.DataFrame:
        """One row per cluster and round."""
        return self.read_table("clusters")

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per judged text and tier (`records.VERDICT_COLUMNS`)."""
        return self.read_table("verdicts")

    @cached_property
    def map(self) -> pd.DataFrame:
        """A point per discovery text: text_key, x, y."""
        return self.read_table("map")

    @cached_property
    def divergence(self) -> pd.DataFrame:
        """How far the models are apart on each prompt (`divergence.DIVERGENCE_COLUMNS`)."""
        return self.read_table("divergence")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The coupled pairs of discovery texts (`divergence.PAIR_COLUMNS`); none without them."""
        return self.read_table("pairs")

    def read_table(self, name: str) -> pd.DataFrame:
        """Any table of the run. Raises InputError as `read_bytes` does."""
        return codec.table_value(self.read_bytes(_suffixed(name, ".parquet")))

    def read_bytes(self, name: str) -> bytes:
        """A file's bytes, checked. Raises InputError where it is missing or damaged."""
        stated = self.manifest["files"].get(name)
        if stated is None:
            raise InputError(f"the run {self.path} holds no {name}: it was run without that stage")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{name} of the run {self.path} cannot be read ({error.strerror}): run again with"
                " the same config and --run-dir"
            ) from None
        if bytes_digest(data) != stated["sha256"]:
            raise InputError(
                f"{name} of the run {self.path} is damaged ({len(data):,} bytes that do not match"
                " the manifest): run again with the same config and --run-dir"
            )
        return data


def load_run(path: Path) -> Run:
    """A finished run, its config, summary and findings checked.

    Raises InputError where the folder is no run, is unfinished, damaged, or from a newer version.
    """
    run = Run(path, read_manifest(path))
    for _ in (run.config, run.summary, run.findings):
        pass
    return run


def is_unfinished(path: Path) -> bool:
    """Whether the folder holds a run that was started and not finished."""
    return (path / _JOURNAL).exists() and not (path / MANIFEST).exists()


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if is_unfinished(path):
            raise InputError(
                f"the run {path} is unfinished: run again with the same config and --run-dir;"
                " finished work is not repeated"
            ) from None
        raise InputError(
            f"expected a run folder at {path}, found no {MANIFEST} in it: check the path"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the run {path}: {error.strerror}") from None
    except ValueError:
        manifest = None
    if isinstance(manifest, dict):
        _refuse_newer(manifest.get("schema_version"), path)
        digest = manifest.pop("sha256", None)
        if digest == bytes_digest(codec.json_bytes(manifest)):
            return manifest
    raise InputError(
        f"{MANIFEST} of the run {path} is damaged: run again with the same config and --run-dir"
    )


def _refuse_newer(version: object, path: Path) -> None:
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"the run {path} has schema version {version}, this program reads up to"
            f" {SCHEMA_VERSION}: upgrade whatchanged"
        )


def _earlier_files(path: Path) -> list[str]:
    """The run's own files so far. Raises InputError where a newer version wrote the run."""
    written, stale = _journalled(path)
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        manifest = {}
    if isinstance(manifest, dict):
        _refuse_newer(manifest.get("schema_version"), path)
        # A copied folder may lack the hidden journal.
        written |= set(manifest.get("files", {}))
    return sorted(written | stale)


def _journalled(path: Path) -> tuple[set[str], set[str]]:
    """Names that the latest run in this folder wrote, and names that only earlier ones did."""
    written: set[str] = set()
    earlier: set[str] = set()
    for entry in _journal_entries(path):
        _refuse_newer(entry.get("schema_version"), path)
        if "started" in entry:
            earlier |= written
            written = set()
        elif isinstance(entry.get("file"), str):
            written.add(entry["file"])
    return written, earlier - written


def _journal_entries(path: Path) -> list[dict[str, Any]]:
    try:
        lines = (path / _JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries: list[dict[str, Any]] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _suffixed(name: str, suffix: str) -> str:
    return name if PurePosixPath(name).suffix == suffix else name + suffix
