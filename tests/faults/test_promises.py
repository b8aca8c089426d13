import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_promises_name_exists():
    documents = (ROOT / "SECURITY.md", ROOT / "design" / "0021-faults.md")
    named = {name for one in documents for name in re.findall(r"`(test_\w+)`", one.read_text())}
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 100
    assert sorted(name for name in named if f"def {name}(" not in source) == []


def test_every_fault_of_the_list_has_a_row() -> None:
    rows = re.findall(
        r"^\| F(\d+) ", (ROOT / "design" / "0021-faults.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number in rows] == list(range(1, 59))
