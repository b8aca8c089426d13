"""The folder in Firefox, as Debian packages it. Skipped where there is none."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from urllib.parse import urlparse

import pytest

SIZE = (900, 700)


@pytest.fixture(scope="module")
def firefox() -> str:
    found = shutil.which("firefox-esr") or shutil.which("firefox")
    if found is None:
        pytest.skip("needs Firefox: apt install firefox-esr")
    return found


def picture(firefox: str, address: str, folder: Path) -> bytes:
    """The pixels of the page as Firefox draws it, without a network."""
    folder.mkdir()
    path = folder / "page.png"
    subprocess.run(
        [firefox, "--headless", "--no-remote", "--profile", str(folder), "--window-size",
         f"{SIZE[0]},{SIZE[1]}", "--screenshot", str(path), address],
        check=True, capture_output=True, timeout=120,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return read_pixels(path.read_bytes())


def read_pixels(png: bytes) -> bytes:
    """The filtered scan lines of a PNG: enough to tell pictures apart."""
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return zlib.decompress(data)


def test_the_folder_opens_in_firefox_from_a_file(firefox: str, folder: str, tmp_path: Path) -> None:
    opened = picture(firefox, f"{folder}#/nothing/here", tmp_path / "a")
    again = picture(firefox, f"{folder}#/", tmp_path / "b")
    broken = Path(urlparse(folder).path).parent
    copy = tmp_path / "copy"
    shutil.copytree(broken, copy)
    (copy / "page.js").write_text("")
    empty = picture(firefox, (copy / "index.html").as_uri(), tmp_path / "c")
    # Without its script the page is one colour; with it, the verdict and another screen differ.
    assert len(zlib.compress(empty)) * 5 < len(zlib.compress(again))
    assert opened != again
