"""The built page: what is committed is what the sources give, and it stays small."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from whatchanged.dashboard.shell import page_script

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
BUILT = ROOT / "src" / "whatchanged" / "dashboard"
MAX_BYTES = 130_000


@pytest.fixture
def node() -> str:
    path = shutil.which("node")
    if path is None:
        pytest.skip("needs node")
    if not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("needs the page's tools: run `npm ci` in web/")
    return path


def test_a_rebuild_gives_the_same_bytes(node: str, tmp_path: Path) -> None:
    subprocess.run([node, str(WEB / "build.mjs"), str(tmp_path)], check=True)
    for name in ("page.js", "page-style.css"):
        assert (tmp_path / name).read_bytes() == (BUILT / name).read_bytes()


def test_the_types_of_the_page_hold(node: str) -> None:
    compiler = WEB / "node_modules" / "typescript" / "bin" / "tsc"
    checked = subprocess.run(
        [node, str(compiler), "--noEmit"], cwd=WEB, capture_output=True, text=True, check=False
    )
    assert checked.stdout == ""


def test_the_page_stays_small() -> None:
    assert sum((BUILT / name).stat().st_size for name in ("page.js", "page-style.css")) < MAX_BYTES


def test_no_source_makes_markup_of_text_or_names_another_host() -> None:
    sources = [*(WEB / "src").rglob("*.ts*"), *(WEB / "src").rglob("*.css")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert len(sources) > 15
    markup = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function"
    assert re.findall(markup, text) == []
    assert re.findall(r"https?://|url\(|@import", text) == []
    # Preact names the namespaces of SVG and MathML, which are no addresses.
    hosts = set(re.findall(rb"https?://([a-z0-9.]+)", page_script()))
    assert hosts <= {b"www.w3.org"}
