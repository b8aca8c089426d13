"""The table of what the fault tests did and found, from the counts that they recorded themselves.

`pytest tests/faults -o junit_family=xunit1 --junitxml=build/faults.xml`, then
`python -m tests.faults.table build/faults.xml` prints the table in Markdown. A row that no
test of the report counted says so, and a test that failed is a line below the table.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

# What a row says, the property that it shows, and how it is put together from those of all tests.
ROWS: tuple[tuple[str, str, Callable[[list[int]], int]], ...] = (
    ("kills of audits without Prefect", "kills_of_bare_audits", sum),
    ("kills of writers to the stores alone", "kills_of_the_store", sum),
    ("kills of audits through Prefect", "kills_through_prefect", sum),
    ("kills while calls are paid", "kills_while_paying", sum),
    ("kills of holders of a lock", "kills_of_lock_holders", sum),
    ("starts on a full disk", "full_disks", sum),
    ("finished results lost or changed", "results_lost", sum),
    ("files torn", "files_torn", sum),
    ("paid calls made again after kills", "extra_calls", sum),
    ("bound on those: kills times calls in flight", "extra_calls_bound", sum),
    ("most of them by one kill (4 or 8 were in flight)", "extra_calls_of_one_kill", max),
    ("corruptions made", "corruptions", sum),
    ("corruptions not found", "corruptions_unseen", sum),
    ("reads in races for the same keys, also with locks that do nothing", "race_reads", sum),
    ("of these, bytes that had changed", "race_changes", sum),
    ("payloads planted in models, records and pages", "payloads", sum),
    ("payloads executed", "payloads_executed", sum),
    ("forbidden calls made (pickle, code, network, processes)", "forbidden_calls", sum),
    ("files searched for a key", "files_searched", sum),
    ("secrets found", "secrets_found", sum),
    ("malformed configs and inputs, each refused in one sentence", "malformed_inputs", sum),
    ("injections tried", "injections", sum),
    ("verdicts flipped by an injection", "injection_flips", sum),
    ("audits of a model against itself", "placebo_audits", sum),
    ("of these, with a confirmed change", "placebo_alarms", sum),
)


def counts(report: ET.Element) -> dict[str, list[int]]:
    """What the tests recorded under every name."""
    found: dict[str, list[int]] = defaultdict(list)
    for recorded in report.iter("property"):
        found[recorded.attrib["name"]].append(int(recorded.attrib["value"]))
    return found


def failures(report: ET.Element) -> Iterator[str]:
    for test in report.iter("testcase"):
        if test.find("failure") is not None or test.find("error") is not None:
            yield f"{test.attrib['classname']}.{test.attrib['name']}"


def table(report: ET.Element) -> str:
    """Markdown: one row per count, then the number of tests and the names of those that failed."""
    found = counts(report)
    suites = list(report.iter("testsuite"))
    n_tests = sum(int(suite.attrib["tests"]) for suite in suites)
    n_skipped = sum(int(suite.attrib["skipped"]) for suite in suites)
    failed = list(failures(report))
    lines = ["| what | count |", "|---|---:|"]
    lines += [
        f"| {said} | {f'{join(found[name]):,}' if name in found else 'not counted'} |"
        for said, name, join in ROWS
    ]
    when = suites[0].attrib["timestamp"][:10]
    lines += ["", f"{when}: {n_tests} tests, {n_skipped} skipped, {len(failed)} failed."]
    lines += [f"- failed: `{name}`" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    # The file is the project's own test run.
    print(table(ET.fromstring(Path(sys.argv[1]).read_bytes())))  # noqa: S314
