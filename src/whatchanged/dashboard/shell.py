"""The page around the pack: index.html for a folder or a server, or everything in one file.

The page's policy lets it run its own script, named by place or by digest, and use its own style,
named by digest; nothing else is loaded or run, whatever a text holds.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

from whatchanged.dashboard.columns import as_script, as_text
from whatchanged.errors import UsageError
from whatchanged.escape import for_attribute
from whatchanged.keys import bytes_digest

SCRIPT = "page.js"
# Larger files open slowly; a folder has no such limit.
MAX_ONE_FILE_BYTES = 50_000_000
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='5' cy='8' r='3.6' fill='none' stroke='%233b6fb6' stroke-width='2'/%3E"
    "%3Ccircle cx='11' cy='8' r='4.6' fill='%23d9822b'/%3E%3C/svg%3E"
)


def write_folder(run: str, parts: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The files of the folder that opens by double-click: index.html comes last."""
    for name, part in parts:
        yield f"data/{name}.js", as_script(name, part)
    yield SCRIPT, page_script()
    yield "index.html", write_index(run)


def write_index(run: str, *, is_served: bool = False) -> bytes:
    """index.html beside `page.js` and `data/`; a served page may also ask its own server."""
    connect = "; connect-src 'self'" if is_served else ""
    served = '<meta name="whatchanged-served" content="yes">\n' if is_served else ""
    body = f'<script src="{SCRIPT}"></script>'
    return _document(run, f"script-src 'self'{connect}", served, body)


def write_one_file(run: str, parts: Iterable[tuple[str, bytes]]) -> bytes:
    """The page with its pack in one HTML file.

    Raises UsageError where the file would be too large to open comfortably.
    """
    blocks = [
        f'<script type="text/plain" id="part:{name}">{as_text(part)}</script>\n'
        for name, part in parts
    ]
    n_bytes = sum(map(len, blocks))
    if n_bytes > MAX_ONE_FILE_BYTES:
        raise UsageError(
            f"expected at most {MAX_ONE_FILE_BYTES:,} bytes for one file, found {n_bytes:,}: "
            "use --format folder"
        )
    script = page_script().decode()
    body = f"{''.join(blocks)}<script>{script}</script>"
    return _document(run, f"script-src {_source(script)}", "", body)


@cache
def page_script() -> bytes:
    """The built page (sources in `web/`)."""
    return (files("whatchanged.dashboard") / SCRIPT).read_bytes()


def policy(*sources: str) -> str:
    """The content security policy of the page, with these further sources."""
    style = _source(_page_style())
    always = ("default-src 'none'", f"style-src {style}", "img-src data:")
    return "; ".join([*always, *sources, "base-uri 'none'", "form-action 'none'"])


def _document(run: str, sources: str, head: str, body: str) -> bytes:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(sources)}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{head}<link rel="icon" href="{_ICON}">
<title>{for_attribute(run)} · whatchanged</title>
<style>{_page_style()}</style>
</head>
<body>
<noscript><p>This page draws a run with its own script, which this browser does not run. The
report of the run, report.html, needs none.</p></noscript>
<div id="app"></div>
{body}
</body>
</html>
""".encode("utf-8", "backslashreplace")


@cache
def _page_style() -> str:
    return (files("whatchanged.dashboard") / "page-style.css").read_text(encoding="utf-8")


def _source(code: str) -> str:
    digest = bytes.fromhex(bytes_digest(code.encode()))
    return f"'sha256-{base64.b64encode(digest).decode()}'"
