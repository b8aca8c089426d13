"""A real browser on real exports. Everything here is skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostile import COMPONENTS, hostile_run
from watched import Watched

from benchmarks.dashboard import CHROMIUM, open_browser
from benchmarks.dashboard_run import InventedRun, invent_activations, pack_invented
from whatchanged.dashboard.pack import Pack
from whatchanged.dashboard.shell import write_folder, write_one_file
from whatchanged.store.exports import write_export_file, write_export_folder


# Playwright holds an event loop in the main thread as long as it is open: tests of other files that
# the same process runs afterwards must find none.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Its pages see no network: see `open_page`."""
    pytest.importorskip("playwright", reason="browser tests need playwright (pip)")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"browser tests need Chromium at {CHROMIUM}")
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens pages that have no network, unless `offline=False` (a server on this machine)."""
    contexts: list[Any] = []

    def open_one(**options: Any) -> Watched:
        options = {"viewport": {"width": 1280, "height": 900}, "offline": True, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        return Watched(context.new_page())

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def run() -> InventedRun:
    """A small run in which everything that can be named is named by an attacker."""
    return hostile_run()


@pytest.fixture(scope="session")
def pack(run: InventedRun, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("activations")
    return pack_invented(run, invent_activations(run, folder, COMPONENTS))


@pytest.fixture(scope="session")
def folder(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the pack's export as a folder."""
    path = tmp_path_factory.mktemp("export") / "folder"
    write_export_folder(path, write_folder("r", pack.parts()))
    return (path / "index.html").as_uri()


@pytest.fixture(scope="session")
def one_file(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the pack's export as one file."""
    path = tmp_path_factory.mktemp("export") / "one.html"
    write_export_file(path, write_one_file("r", pack.parts()))
    return path.as_uri()


@pytest.fixture(scope="session")
def screens(run: InventedRun) -> dict[str, str]:
    """Every screen by name, with an address that shows something on it."""
    found = run.texts[run.texts["split"] == "discovery"].iloc[150]
    return {
        "verdict": "#/",
        "hypotheses": "#/hypotheses?sort=-p&filter=h",
        "null": "#/hypotheses?of=null",
        "hypothesis": "#/h/h000?n=6&cell=intervention_unmet&tier=cheap",
        "blind": "#/h/h000?blind=1",
        "clusters": "#/clusters?level=text",
        "cluster": "#/c/invented-6-t1?order=boundary&side=base",
        "sentences": "#/c/invented-6-s1?s=0",
        "map": "#/map?by=cluster&in=100.100_900.100_900.900_100.900&side=base",
        "density": "#/map?style=density&zoom=2",
        "prompts": "#/prompts?sort=texts",
        "pair": f"#/p/{found['prompt_key'][:32]}?pair=1&diff=off",
        "search": "#/texts?q=quokka&as=whole",
        "text": f"#/t/{found['text_key'][:32]}?mark=tokens&token=2",
        "evidence": f"#/t/{run.findings[0]['supporting'][0][:32]}?h=h000",
        "fired": f"#/t/{run.findings[0]['supporting'][0][:32]}?h=h000&mark=component&token=2",
        "components": "#/components?sort=-base",
        "component": f"#/component/{quote(COMPONENTS[0], safe='')}",
        "negative": f"#/component/{quote(COMPONENTS[1], safe='')}?show=quantiles",
        "members": "#/component/invented-0-0",
        "judges": "#/judges",
        "run": "#/run",
        "nothing": "#/nothing/here",
    }
