"""The table of what the fault tests did and found, from the counts that they recorded themselves.

`pytest tests/faults -o junit_family=xunit1 --junitxml=build/faults.xml`, then
`python -m tests.faults.table build/faults.xml` prints the table in Markdown. A row that no
test of the report counted says so, and a test that failed is a line below the table.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# What a row says, and the property whose sum over the tests it shows.
ROWS = (
    ("processes killed", "kills"),
    ("finished results lost or changed by a kill", "results_lost"),
    ("files torn by a kill", "files_torn"),
    ("paid calls made again after kills", "extra_calls"),
    ("bound on those: kills times calls in flight", "extra_calls_bound"),
    ("corruptions made", "corruptions"),
    ("corruptions not found", "corruptions_unseen"),
    ("payloads planted in models and records", "payloads"),
    ("payloads executed", "payloads_executed"),
    ("forbidden calls made (pickle, code, network, processes)", "forbidden_calls"),
    ("files searched for a key", "files_searched"),
    ("secrets found", "secrets_found"),
    ("malformed configs and inputs, each refused in one sentence", "malformed_inputs"),
    ("injections tried", "injections"),
    ("verdicts flipped by an injection", "injection_flips"),
)


def counts(report: ET.Element) -> dict[str, int]:
    """The sum of every recorded property over the tests that recorded it."""
    totals: dict[str, int] = defaultdict(int)
    for recorded in report.iter("property"):
        totals[recorded.attrib["name"]] += int(recorded.attrib["value"])
    return totals


def failures(report: ET.Element) -> Iterator[str]:
    for test in report.iter("testcase"):
        if test.find("failure") is not None or test.find("error") is not None:
            yield f"{test.attrib['classname']}.{test.attrib['name']}"


def table(report: ET.Element) -> str:
    """Markdown: one row per count, then the number of tests and the names of those that failed."""
    totals = counts(report)
    suites = list(report.iter("testsuite"))
    n_tests = sum(int(suite.attrib["tests"]) for suite in suites)
    n_skipped = sum(int(suite.attrib["skipped"]) for suite in suites)
    failed = list(failures(report))
    lines = ["| what | count |", "|---|---:|"]
    lines += [
        f"| {said} | {f'{totals[name]:,}' if name in totals else 'not counted'} |"
        for said, name in ROWS
    ]
    when = suites[0].attrib["timestamp"][:10]
    lines += ["", f"{when}: {n_tests} tests, {n_skipped} skipped, {len(failed)} failed."]
    lines += [f"- failed: `{name}`" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    # The file is the project's own test run.
    print(table(ET.fromstring(Path(sys.argv[1]).read_bytes())))  # noqa: S314
