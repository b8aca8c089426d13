"""The dashboard on a run as large as it is meant for: how long a reader waits, in a real browser.

    python -m benchmarks.dashboard [--quick] [--json]

Makes a run of 222,222 invented texts in 400 clusters (`--quick`: 22,222 in 100), of which 200,000
are on its map and the others fresh, packs it, and opens it in Chromium without a GPU, from the file
system and from its own server.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.dashboard_run import RARE, invent_run, pack_invented
from whatchanged.cli.dashboard import host_names
from whatchanged.dashboard.parts import Parts
from whatchanged.dashboard.shell import write_folder
from whatchanged.store.exports import write_export_folder

CHROMIUM = "/usr/bin/chromium"
FINISHED = {
    "state": "finished", "stage": None, "detail": None, "seconds": {}, "started_utc": None,
    "updated_utc": None, "revision": "1",
}  # fmt: skip


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium without a GPU, as `new_page` on a machine with 2 cores would find it."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serve(pack: Parts, read_news: Callable[[], dict[str, Any]] = lambda: FINISHED) -> Iterator[str]:
    """The address of a server of this pack, on a free port of this machine."""
    import uvicorn

    from whatchanged.dashboard.server import LatestPack, make_app

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        app = make_app("invented", LatestPack(lambda: pack, read_news), read_news,
                       hosts=host_names("127.0.0.1", port))  # fmt: skip
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(timeout=5)


def wait_s(page: Any, act: Callable[[], Any], ready: str) -> float:
    """Seconds from an action until a selector matches, by the test's own clock."""
    started = time.perf_counter()
    act()
    page.wait_for_selector(ready, state="attached", timeout=60_000)
    return time.perf_counter() - started


def measure_page(browser: Any, address: str) -> dict[str, float]:
    """What a reader of one page waits for: seconds, milliseconds per frame, and megabytes."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    found = {"first_paint_s": wait_s(page, lambda: page.goto(address), ".forest [data-row]")}

    def to(hash_: str) -> Callable[[], Any]:
        return lambda: page.evaluate("h => { location.hash = h }", hash_)

    found["map_s"] = wait_s(page, to("#/map"), "canvas[data-frames]")
    found["frame_ms"] = _median_frame(page)
    found["density_frame_ms"] = _median_frame(page, "style=density&")
    found["cluster_s"] = wait_s(page, to("#/c/invented-6-t7"), ".texts [data-row]")
    found["search_s"] = wait_s(page, to(f"#/texts?q={RARE}"), '[data-done="true"]')
    page.evaluate("globalThis.gc?.()")
    found["heap_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    page.close()
    return found


def _median_frame(page: Any, style: str = "") -> float:
    frames = []
    for i in range(12):
        page.evaluate("h => { location.hash = h }", f"#/map?{style}zoom={1 + 0.2 * i:.1f}")
        page.wait_for_timeout(120)
        frames.append(float(page.get_attribute("canvas", "data-frame-ms")))
    # The first frames are compiled while they are drawn.
    return statistics.median(frames[2:])


def main() -> None:
    """Measures, prints a table, and with --json one line of figures."""
    parser = argparse.ArgumentParser(description="How long a reader of the dashboard waits.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    n_texts, n_clusters = (22_222, 100) if asked.quick else (222_222, 400)
    pack = pack_invented(invent_run(n_texts, n_clusters, one_fresh_in=10))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        n_bytes = write_export_folder(Path(folder) / "x", write_folder("invented", pack.parts()))
        export_s = time.perf_counter() - started
        with open_browser() as browser:
            from_file = measure_page(browser, (Path(folder) / "x" / "index.html").as_uri())
            with serve(pack) as address:
                measure_page(browser, address)
                served = measure_page(browser, address)
    figures = {
        "n_texts": n_texts, "n_clusters": n_clusters, "n_points": n_texts - n_texts // 2 // 10 * 2,
        "export_s": export_s, "folder_mb": n_bytes / 1e6,
        **{f"file_{name}": value for name, value in from_file.items()},
        **{f"served_{name}": value for name, value in served.items()},
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:24} {value:,.3g}" if value < 1000 else f"{name:24} {value:,.0f}")
    if asked.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
