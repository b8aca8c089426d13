"""Shows that the tests of the promises can fail: breaks the code once for each, and runs it.

`python -m tests.faults.mutations [NAME]...` copies the tree, makes one change at a time in the
copy, and expects the named test to fail there. It prints a table; a test that passes on broken code
is an error. Takes some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_SOURCES = ("src", "tests", "flows", "tasks", "benchmarks", "configs", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """A promise, how it is broken in one file (each text replaced wherever it stands), and the test
    that must notice."""

    promise: str
    path: str
    edits: tuple[tuple[str, str], ...]
    test: str


MUTATIONS = (
    Mutation(
        "a file is whole or absent after a kill",
        "src/whatchanged/store/atomic.py",
        (
            (
                "    temporary, file = _open_temporary(path)\n",
                "    temporary, file = path, os.open(path, os.O_WRONLY | os.O_CREAT)\n",
            ),
            ("    try:\n        os.link(", "    return True\n    try:\n        os.link("),
            (
                "            temporary.unlink(missing_ok=True)\n        _sync",
                "            pass\n        _sync",
            ),
        ),
        "tests/faults/store/test_kills.py::test_a_kill_at_every_pass_of_a_point_and_another_during_recovery_change_nothing",
    ),
    Mutation(
        "an answer that was paid is written down",
        "src/whatchanged/models/calling.py",
        (
            (
                "        await self._scribe.write(CallOutcome(intent.token, request, reply",
                "        _ = ((intent.token, request, reply",
            ),
        ),
        "tests/faults/test_ledger_kills.py::test_after_the_last_answer_a_run_calls_nobody",
    ),
    Mutation(
        "rows come in the order asked",
        "src/whatchanged/embed.py",
        (("rows = rows[order]", "rows = rows[np.sort(order)]"),),
        "tests/unit/test_embed.py::test_embeddings_keep_the_order_asked",
    ),
    Mutation(
        "a key is the same in every process",
        "src/whatchanged/keys.py",
        (
            (
                "    digest.update(_encoded([kind, *parts]))\n",
                "    digest.update(_encoded([hash(kind), *parts]))\n",
            ),
        ),
        "tests/unit/test_keys.py::test_a_key_is_the_same_in_20_processes",
    ),
    Mutation(
        "a cut or a flipped bit is found",
        "src/whatchanged/store/artifacts.py",
        (("    return data.startswith(_header_bytes(key, kind, payload))\n", "    return True\n"),),
        "tests/faults/store/test_damage.py::test_every_cut_and_every_flip_of_an_artifact_is_found_and_repaired",
    ),
    Mutation(
        "the first writer of a key wins",
        "src/whatchanged/store/atomic.py",
        (
            ("    if os.path.lexists(path):\n        return False\n    n_bytes", "    n_bytes"),
            (
                "    try:\n        os.link(",
                "    temporary.replace(path)\n    return True\n    try:\n        os.link(",
            ),
        ),
        "tests/faults/store/test_races.py::test_processes_that_race_for_the_same_keys_all_read_the_first_value",
    ),
    Mutation(
        "the first writer of a key wins where locks do nothing",
        "src/whatchanged/store/atomic.py",
        (
            ("    if os.path.lexists(path):\n        return False\n    n_bytes", "    n_bytes"),
            (
                "    try:\n        os.link(temporary, path)\n",
                "    import fcntl\n"
                "    folder = os.open(path.parent, os.O_RDONLY)\n"
                "    fcntl.flock(folder, fcntl.LOCK_EX)\n"
                "    is_first = not os.path.lexists(path)\n"
                "    time.sleep(0.001)\n"
                "    if is_first:\n"
                "        temporary.rename(path)\n"
                "    os.close(folder)\n"
                "    return is_first\n"
                "    try:\n        os.link(temporary, path)\n",
            ),
        ),
        "tests/faults/store/test_races.py::test_eight_processes_without_locks_read_the_first_value_of_a_thousand_keys",
    ),
    Mutation(
        "an interrupted check goes on",
        "src/whatchanged/store/verify.py",
        (("if part.place > place)", "if part.place)"),),
        "tests/faults/store/test_checks.py::test_a_check_that_is_killed_again_and_again_ends_and_finds_all",
    ),
    Mutation(
        "one chunk that fails loses no other",
        "tasks/showing.py",
        (("            failed[one.name] = error\n            continue\n", "            raise\n"),),
        "tests/flows/test_caching.py::test_where_one_chunk_fails_again_and_again_the_others_are_kept",
    ),
    Mutation(
        "another output has another key",
        "src/whatchanged/embed.py",
        (("(part := piece.strip())", "(part := piece.strip().lower())"),),
        "tests/unit/test_stage_versions.py::test_a_stage_whose_output_changes_gets_a_new_version",
    ),
    Mutation(
        "what is no number reaches no label",
        "src/whatchanged/nearest.py",
        (
            (
                'np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", rows, rows)))',
                "np.zeros(0, dtype=np.intp)",
            ),
        ),
        "tests/unit/test_cluster.py::test_rows_that_are_not_finite_are_named",
    ),
    Mutation(
        "a reply that was cut off is no score",
        "src/whatchanged/models/replies.py",
        (('    if reply.finish == "cut_off":', '    if reply.finish == "never":'),),
        "tests/unit/models/test_replies.py::test_a_valid_text_counts_for_nothing_after_another_finish",
    ),
    Mutation(
        "no call is made inside a stated delay",
        "src/whatchanged/models/lanes.py",
        (("max(self._ready_at, now + delay_s)", "self._ready_at"),),
        "tests/unit/test_calling.py::test_no_task_of_the_process_calls_within_a_delay_that_any_was_told",
    ),
    Mutation(
        "a judge that prefers a place is undecided",
        "src/whatchanged/models/llm_judge.py",
        (('        case ("A", "B"):', '        case ("A", _):'),),
        "tests/unit/models/test_llm_judge.py::test_a_judge_that_prefers_the_first_place_is_always_undecided",
    ),
    Mutation(
        "nothing is confirmed where nothing changed",
        "src/whatchanged/stats.py",
        (
            (
                'np.asarray(false_discovery_control(values, method="bh"), dtype=np.float64)',
                "values",
            ),
        ),
        "tests/unit/test_adaptivity.py::test_fresh_texts_of_other_prompts_confirm_nothing_in_95_percent_of_null_audits",
    ),
    Mutation(
        "a model against itself has not changed",
        "src/whatchanged/sequential.py",
        (('"confirmed" if p_value <= alpha', '"confirmed" if p_value <= 0.9'),),
        "tests/faults/test_placebo.py::test_few_audits_of_a_model_against_itself_confirm_anything",
    ),
    Mutation(
        "no code of a model runs",
        "src/whatchanged/models/transformers_decoder.py",
        (("trust_remote_code=False", "trust_remote_code=True"),),
        "tests/faults/test_no_code_runs.py::test_an_audit_of_models_with_planted_code_runs_none_and_calls_nobody",
    ),
    Mutation(
        "a page holds texts and no tags of theirs",
        "src/whatchanged/escape.py",
        (("html.escape(piece.text)", "piece.text"),),
        "tests/unit/test_escape.py::test_a_page_holds_the_text_and_no_tag_of_its_own",
    ),
    Mutation(
        "the dashboard answers to its own name only",
        "src/whatchanged/dashboard/server.py",
        (('request.headers.get("host") not in self._hosts', "False"),),
        "tests/unit/test_dashboard_server.py::test_another_name_is_refused",
    ),
    Mutation(
        "a key is shown nowhere",
        "src/whatchanged/models/http_failures.py",
        (("secret.redact(text) if secret else text", "text"),),
        "tests/unit/models/test_secret.py::test_the_key_appears_nowhere_after_every_error_path",
    ),
    Mutation(
        "a full disk leaves the old file",
        "src/whatchanged/store/atomic.py",
        (
            (
                "    n_bytes = sum(len(part) for part in parts)\n    try:\n        temporary",
                "    n_bytes = path.write_bytes(b'')\n    try:\n        temporary",
            ),
        ),
        "tests/faults/store/test_full_disk.py::test_a_run_file_that_does_not_fit_leaves_the_old_file",
    ),
    Mutation(
        "an offline process stays on its machine",
        "src/whatchanged/models/offline.py",
        (
            (
                "if host is not None and not is_this_machine(host):",
                "if host is not None and not host:",
            ),
        ),
        "tests/unit/models/test_offline.py::test_an_offline_process_reaches_its_own_machine_and_no_other",
    ),
)


def mutate(source: str, mutation: Mutation) -> str:
    """The source with the mutation's edits. Raises ValueError where one does not apply."""
    for old, new in mutation.edits:
        if old not in source:
            raise ValueError(f"{mutation.path} no longer holds {old!r}: break it in another place")
        source = source.replace(old, new)
    return source


def copy_tree(folder: Path) -> None:
    for name in _SOURCES:
        source = PROJECT / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=skipped)
        else:
            shutil.copy(source, folder / name)


def notices(folder: Path, mutation: Mutation) -> tuple[bool, str]:
    """Whether the test fails on the broken copy, and the last thing that it said of why."""
    path = folder / mutation.path
    sound = path.read_text()
    path.write_text(mutate(sound, mutation))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutation.test],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "src")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        path.write_text(sound)
    told = [line.lstrip(" |") for line in done.stdout.splitlines()]
    errors = [line[4:] for line in told if line.startswith("E   ")]
    said = next((line.strip() for line in errors if line.strip()), done.stdout[-200:])
    # 1: tests ran and some failed; anything else is a test that was not found or could not start.
    return done.returncode == 1, said.replace("|", "\\|")[:140]


def main(names: Sequence[str]) -> int:
    unnoticed = 0
    print("| promise broken in | test | what it said |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_tree(folder)
        for mutation in MUTATIONS:
            if names and mutation.promise not in names:
                continue
            failed, said = notices(folder, mutation)
            unnoticed += not failed
            verdict = f"`{said}`" if failed else f"**passed or did not run**: {said}"
            name = mutation.test.split("::")[1]
            print(f"| {mutation.promise}: `{mutation.path}` | `{name}` | {verdict} |", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
