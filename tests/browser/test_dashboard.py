"""The page in Chromium: it opens anywhere, obeys nobody's text, and can be used without a mouse."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from hostile import COMPONENTS, HIDDEN, HIDDEN_SHOWN, PAYLOADS
from watched import Watched

from benchmarks.dashboard import FINISHED, measure_page, serve, wait_s
from benchmarks.dashboard_run import InventedRun, invent_activations, invent_run, pack_invented
from whatchanged.dashboard.pack import Pack
from whatchanged.dashboard.shell import write_folder
from whatchanged.store.exports import write_export_folder

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = Path(os.environ.get("WHATCHANGED_SCREENSHOTS", ROOT / "build" / "screenshots"))
OpenPage = Callable[..., Watched]


@pytest.mark.parametrize("form", ["folder", "one_file"])
def test_it_opens_from_a_file_with_the_network_off(
    form: str, open_page: OpenPage, request: pytest.FixtureRequest, screens: dict[str, str]
) -> None:
    watched = open_page()
    for hash_ in screens.values():
        watched.go(request.getfixturevalue(form), hash_)
    assert watched.errors == []
    assert {urlparse(url).scheme for url in watched.requests} <= {"file", "data"}
    if form == "one_file":
        assert {url.split("#")[0] for url in watched.requests} <= {request.getfixturevalue(form)}


def test_from_the_verdict_to_a_marked_phrase_in_two_activations_by_keyboard(
    open_page: OpenPage, folder: str
) -> None:
    watched = open_page()
    watched.go(folder)
    page = watched.page
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("#evidence")
    watched.settle()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".fulltext")
    watched.settle()
    assert page.evaluate("location.hash").startswith("#/t/")
    assert page.inner_text(".fulltext mark >> nth=0") in ("globalThis", "onerror", PAYLOADS[0])


def test_arrow_keys_give_the_exact_value_of_each_token(
    open_page: OpenPage, folder: str, pack: Pack
) -> None:
    start, end = pack.rows.clusters[0]
    inside = pack.rows.texts.iloc[start:end]
    text = inside[~inside["text"].isin([*PAYLOADS, HIDDEN])].iloc[0]
    watched = open_page()
    watched.go(folder, f"#/t/{text['text_key']}?mark=tokens")
    watched.page.focus(".tokens")
    for _ in range(3):
        watched.page.keyboard.press("ArrowRight")
    shown = watched.page.inner_text(".readout")
    value = -float(text["differences"][2])
    assert shown.startswith("Token 3 of ")
    assert f"{value:+.2f}".replace("-", "−") in shown
    assert "token=2" in watched.page.evaluate("location.hash")


def test_from_a_claim_to_the_token_on_which_a_component_fires_by_keyboard(
    open_page: OpenPage, tmp_path: Path
) -> None:
    run = invent_run(60, 2, n_findings=1, n_words=12)
    pack = pack_invented(run, invent_activations(run, tmp_path / "store", COMPONENTS))
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    watched = open_page()
    page = watched.page
    watched.go((tmp_path / "x" / "index.html").as_uri(), "#/h/h000")
    page.focus("#inside ~ .wrap a >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector('section[aria-label="Texts"] mark.fire')
    watched.settle()
    page.focus('section[aria-label="Texts"] [data-open] >> nth=0')
    page.keyboard.press("Enter")
    page.wait_for_selector(".tokens")
    watched.settle()
    # The first of the strongest has 11 tokens; the component fires on those at 2, 4, 6, 8 and 10,
    # with their place.
    assert page.locator(".token.fire").count() == 5
    page.focus(".tokens")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").startswith("Token 3 of 11: ")
    assert page.inner_text(".readout").endswith("activation 2.000")


def test_every_selective_component_stands_beside_a_random_control(
    open_page: OpenPage, folder: str, screens: dict[str, str]
) -> None:
    watched = open_page()
    for hash_ in ("#/h/h000", "#/c/invented-6-t1", "#/components", screens["component"]):
        watched.go(folder, hash_)
        text = watched.text()
        assert "Random control" in text, hash_
        assert "Selective is not causal" in text, hash_
        # Of rows with one figure, those whose interval reaches the control of 0.3 are grey.
        table = watched.page.locator("table", has=watched.page.locator("th:text('Random control')"))
        intervals = table.locator("tbody tr:not(.null)").all_inner_texts()
        assert all("0.80 to 0.95" in row and "0.300" in row for row in intervals), hash_
        assert table.locator("tbody tr.null").count() > 0 or hash_ == screens["component"]


def test_a_hundred_payloads_run_nothing(
    open_page: OpenPage,
    folder: str,
    run: InventedRun,
    screens: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    assert len(set(PAYLOADS)) == 100
    watched = open_page()
    for hash_ in [*screens.values(), "#/h/h001", "#/texts?q=harmed", "#/texts?q=%3Cscript"]:
        watched.go(folder, hash_)
    for key in run.texts["text_key"].iloc[:100]:
        watched.go(folder, f"#/t/{key}")
    harmed = watched.page.evaluate("globalThis.harmed")
    record_property("payloads", len(PAYLOADS))
    record_property("payloads_executed", int(harmed is not None))
    assert harmed is None
    assert watched.errors == []
    tags = "main script, main iframe, main img, main object, main embed, main video, main form form"
    assert watched.page.evaluate(f"document.querySelectorAll({tags!r}).length") == 0


def test_every_payload_is_shown_as_it_was_written(
    open_page: OpenPage, folder: str, run: InventedRun
) -> None:
    watched = open_page()
    for payload, key in zip(PAYLOADS, run.texts["text_key"], strict=False):
        watched.go(folder, f"#/t/{key}?mark=none")
        assert watched.page.text_content(".fulltext .body") == payload
        assert watched.page.evaluate("globalThis.harmed") is None


def test_characters_that_cannot_be_seen_are_named(
    open_page: OpenPage, folder: str, run: InventedRun
) -> None:
    assert run.texts["text"].iloc[100] == HIDDEN
    watched = open_page()
    watched.go(folder, f"#/t/{run.texts['text_key'].iloc[100]}?mark=none")
    assert watched.page.text_content(".fulltext .body") == HIDDEN_SHOWN
    assert "\u202e" not in watched.page.title()


def test_every_route_survives_a_reload(
    open_page: OpenPage, folder: str, screens: dict[str, str]
) -> None:
    watched = open_page()
    for name, hash_ in screens.items():
        watched.go(folder, hash_)
        before = watched.text()
        watched.page.reload()
        watched.settle()
        assert watched.text() == before, name
        assert watched.page.evaluate("location.hash") == hash_, name


def test_going_back_leads_through_the_same_screens(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    hashes = ["#/", "#/clusters", "#/clusters?level=text", "#/run"]
    for hash_ in hashes:
        watched.page.goto(f"{folder}{hash_}")
        watched.settle()
    for hash_ in hashes[-2::-1]:
        watched.page.go_back()
        watched.settle()
        assert watched.page.evaluate("location.hash") == hash_


def test_a_filter_stands_in_the_address(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    watched.go(folder, "#/hypotheses")
    watched.page.keyboard.press("f")
    watched.page.keyboard.type("effect>0.25")
    # Effects are 0.6, 0.3, 0.2, ...
    assert watched.page.locator("tr[data-row]").count() == 2
    assert "filter=effect%3E0.25" in watched.page.evaluate("location.hash")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_screen_has_a_serious_finding_of_axe(
    open_page: OpenPage, folder: str, screens: dict[str, str], scheme: str
) -> None:
    if not AXE.exists():
        pytest.skip("needs axe-core: run `npm ci` in web/")
    watched = open_page(color_scheme=scheme)
    source = AXE.read_text(encoding="utf-8")
    found = {}
    for name, hash_ in screens.items():
        watched.go(folder, hash_)
        watched.page.evaluate(source)
        result = watched.page.evaluate("axe.run()")
        found[name] = [
            (one["id"], one["nodes"][0]["html"][:120], one["nodes"][0]["failureSummary"][:200])
            for one in result["violations"]
            if one["impact"] in ("serious", "critical")
        ]
    assert {name: serious for name, serious in found.items() if serious} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_has_a_picture_to_look_at(
    open_page: OpenPage, folder: str, screens: dict[str, str], scheme: str
) -> None:
    watched = open_page(color_scheme=scheme)
    for name, hash_ in screens.items():
        watched.go(folder, hash_)
        picture = watched.page.screenshot(full_page=True)
        path = SCREENSHOTS / f"{name}-{scheme}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        assert len(picture) > 5_000
    assert watched.errors == []


def test_nothing_is_cut_off_on_a_narrow_screen_or_at_twice_the_size(
    open_page: OpenPage, folder: str, screens: dict[str, str]
) -> None:
    watched = open_page(viewport={"width": 480, "height": 800})
    for name, hash_ in screens.items():
        watched.go(folder, hash_)
        wide = watched.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 480, name


def test_paper_shows_the_findings_without_the_frame(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    watched.go(folder)
    watched.page.emulate_media(media="print")
    assert not watched.page.is_visible("header.frame")
    assert watched.page.is_visible(".forest")


def test_the_theme_switch_overrides_the_system(open_page: OpenPage, folder: str) -> None:
    watched = open_page(color_scheme="light")
    watched.go(folder)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = watched.page.evaluate(paper)
    for _ in range(2):
        watched.page.click('button[aria-label^="Light, dark"]')
    assert watched.page.evaluate(paper) != light


def test_single_keys_can_be_switched_off(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    watched.go(folder)
    watched.page.keyboard.press("?")
    watched.page.uncheck("dialog input")
    watched.page.keyboard.press("Escape")
    watched.page.keyboard.press("j")
    assert watched.page.evaluate("document.activeElement.closest('[data-row]')") is None


def test_one_broken_shard_leaves_the_rest_alone(
    pack: Pack, open_page: OpenPage, tmp_path: Path, screens: dict[str, str]
) -> None:
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    (tmp_path / "x" / "data" / "texts" / "0.js").write_text('whatchangedPart("texts/0","AAAA")')
    (tmp_path / "x" / "data" / "judges.js").unlink()
    address = (tmp_path / "x" / "index.html").as_uri()
    watched = open_page()
    watched.go(address, screens["hypothesis"])
    assert "data/texts/0.js is damaged" in watched.text()
    assert "How it was judged" in watched.text()
    watched.go(address, "#/judges")
    assert "data/judges.js could not be loaded" in watched.text()
    watched.go(address, "#/")
    assert "What changed" in watched.text()
    assert watched.errors == []


def test_one_broken_component_leaves_the_rest_alone(
    pack: Pack, open_page: OpenPage, tmp_path: Path, screens: dict[str, str]
) -> None:
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    data = tmp_path / "x" / "data"
    (data / "component" / "0.js").write_text('whatchangedPart("component/0","AAAA")')
    address = (tmp_path / "x" / "index.html").as_uri()
    watched = open_page()
    watched.go(address, screens["component"])
    assert "data/component/0.js is damaged" in watched.text()
    assert "Where it is selective" in watched.text()
    (data / "activations.js").unlink()
    watched = open_page()
    watched.go(address, "#/h/h000")
    assert "data/activations.js could not be loaded" in watched.text()
    assert "How it was judged" in watched.text()
    watched.go(address, screens["fired"])
    assert watched.page.locator(".fulltext").count() == 1
    assert watched.errors == []


def test_a_run_without_activations_says_so_where_they_would_be(
    open_page: OpenPage, tmp_path: Path
) -> None:
    run = invent_run(40, 2, n_findings=1, n_words=6)
    write_export_folder(tmp_path / "x", write_folder("r", pack_invented(run).parts()))
    address = (tmp_path / "x" / "index.html").as_uri()
    watched = open_page()
    for hash_ in ("#/components", "#/component/x%3A1", "#/h/h000", "#/c/invented-6-t1"):
        watched.go(address, hash_)
        assert "python -m flows.collect_activations --run RUN" in watched.text(), hash_
    watched.go(address, f"#/t/{run.findings[0]['supporting'][0]}?mark=component")
    assert watched.page.locator(".fulltext .fire").count() == 0


def test_a_page_without_its_manifest_says_so(
    pack: Pack, open_page: OpenPage, tmp_path: Path
) -> None:
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    (tmp_path / "x" / "data" / "manifest.js").unlink()
    watched = open_page()
    watched.go((tmp_path / "x" / "index.html").as_uri())
    assert "This run cannot be shown" in watched.text()
    assert "data/manifest.js could not be loaded" in watched.text()


def variants() -> dict[str, InventedRun]:
    one = invent_run(4, 1, n_findings=1, n_words=4)
    tables = ("texts", "segments", "prompts", "clusters", "verdicts", "map", "divergence", "pairs")
    empty = {name: getattr(one, name).iloc[:0] for name in tables}
    huge = one.texts.assign(text=["word " * 60_000 for _ in range(len(one.texts))])
    return {
        "empty": replace(one, findings=[], null_findings=[], config={}, summary={}, **empty),
        "one": one,
        "huge": replace(one, texts=huge),
    }


@pytest.mark.parametrize("size", ["empty", "one", "huge"])
def test_every_screen_has_something_to_say_about_little_and_much(
    size: str, open_page: OpenPage, tmp_path: Path, screens: dict[str, str]
) -> None:
    run = variants()[size]
    pack = pack_invented(run, invent_activations(run, tmp_path / "store", COMPONENTS))
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    watched = open_page()
    address = (tmp_path / "x" / "index.html").as_uri()
    own = [f"#/t/{key}" for key in run.texts["text_key"][:1]]
    for hash_ in [*screens.values(), *own, "#/h/h000", "#/c/invented-6-t0", "#/map", "#/texts?q=w"]:
        watched.go(address, hash_)
        assert len(watched.text()) > 20, hash_
        assert "failed" not in watched.page.inner_text("h1"), hash_
    assert watched.errors == []


def test_a_blind_check_hides_the_side_and_keeps_the_answers(
    open_page: OpenPage, folder: str
) -> None:
    watched = open_page()
    watched.go(folder, "#/h/h000?blind=1")
    page = watched.page
    while page.locator("progress").count():
        assert page.locator("main .side").count() == 0
        assert "score" not in watched.text()
        page.keyboard.press("1")
        watched.settle()
    assert "You agree with the judges on" in watched.text()
    with page.expect_download() as download:
        page.keyboard.press("e")
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 20
    assert {json.loads(line)["said"] for line in lines} == {"yes"}
    watched.go(folder, "#/h/h000?blind=1")
    assert "You agree with the judges on" in watched.text()


def test_a_lasso_selects_and_can_be_sent_as_a_link(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    watched.go(folder, "#/map")
    page = watched.page
    page.wait_for_selector("canvas[data-frames]")
    box = page.locator("canvas").bounding_box()
    corners = [(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in [*places[1:], places[0]]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()
    page.wait_for_selector('section[aria-label="Selection"]')
    watched.settle()
    selected = page.inner_text('section[aria-label="Selection"] h2')
    assert not selected.startswith("0 ")
    page.reload()
    watched.settle()
    assert page.inner_text('section[aria-label="Selection"] h2') == selected


def test_two_texts_of_one_noise_show_where_they_part(open_page: OpenPage, tmp_path: Path) -> None:
    run = invent_run(2, 1, n_findings=0, n_words=6)
    said = ["A weekend is a splendid idea", "A weekend is a terrible idea"]
    texts = run.texts.assign(text=said, token_ids=[[0] * 6] * 2, differences=[[0.0] * 6] * 2)
    pairs = run.pairs.assign(first_difference=4)
    pack = pack_invented(replace(run, texts=texts, pairs=pairs))
    write_export_folder(tmp_path / "x", write_folder("r", pack.parts()))
    watched = open_page()
    page = watched.page
    address = (tmp_path / "x" / "index.html").as_uri()
    watched.go(address, f"#/p/{texts['prompt_key'].iloc[0]}")
    assert page.locator(".shared").all_inner_texts() == ["A weekend is a"] * 2
    assert page.inner_text("mark.only-base").strip() == "splendid"
    assert page.inner_text("mark.only-intervention").strip() == "terrible"
    assert "they part at token 5" in watched.text()
    page.keyboard.press("d")
    watched.settle()
    assert page.locator("mark.only-base").count() == 0


def test_a_list_is_saved_as_it_is_filtered_and_calculates_nothing(
    open_page: OpenPage, folder: str
) -> None:
    watched = open_page()
    watched.go(folder, "#/hypotheses?filter=effect>0.25")
    with watched.page.expect_download() as download:
        watched.page.keyboard.press("e")
    rows = list(csv.reader(Path(download.value.path()).read_text().splitlines()))
    assert len(rows) == 3
    assert rows[0][:2] == ["claim", "status"]
    assert [float(row[rows[0].index("effect")]) for row in rows[1:]] == [0.6, 0.3]


def test_the_map_can_be_used_by_keyboard(open_page: OpenPage, folder: str) -> None:
    watched = open_page()
    watched.go(folder, "#/map")
    page = watched.page
    page.focus("canvas")
    for key in ("+", "+", "ArrowLeft", "-"):
        page.keyboard.press(key)
    assert "zoom=1.5" in page.evaluate("location.hash")
    page.keyboard.press("v")
    page.wait_for_selector('section[aria-label="Selection"]')


def shown(watched: Watched, address: str, hash_: str) -> str:
    watched.go(address, hash_)
    return watched.text()


def test_a_page_opened_at_the_start_ends_equal_to_the_export(
    pack: Pack, open_page: OpenPage, folder: str, screens: dict[str, str]
) -> None:
    news: dict[str, Any] = {**FINISHED, "state": "in progress", "stage": "decode", "revision": ""}
    watched = open_page(offline=False)
    with serve(pack, lambda: news) as address:
        watched.page.goto(address)
        watched.page.wait_for_selector("text=This run is in progress")
        seconds = wait_s(watched.page, lambda: news.update(stage="judge"), "strong:text('judge')")
        assert seconds < 1.0
        news.update(FINISHED)
        watched.page.wait_for_selector(".forest")
        own = {name: shown(watched, address, hash_) for name, hash_ in screens.items()}
        assert {urlparse(url).hostname for url in watched.requests} == {"127.0.0.1"}
    still = open_page()
    assert own == {name: shown(still, folder, hash_) for name, hash_ in screens.items()}
    assert watched.errors == []


def test_a_lost_server_is_told_and_the_page_goes_on(pack: Pack, open_page: OpenPage) -> None:
    watched = open_page(offline=False)
    with serve(pack) as address:
        watched.go(address)
    watched.page.wait_for_selector("text=stale since", timeout=15_000)
    assert "What changed" in watched.text()


def test_readers_do_not_wait(browser: Any, tmp_path: Path) -> None:
    """Generous multiples, because other work runs on a test machine; `benchmarks.dashboard` has the
    figures at full size."""
    pack = pack_invented(invent_run(10_000, 50))
    write_export_folder(tmp_path / "x", write_folder("invented", pack.parts()))
    address = (tmp_path / "x" / "index.html").as_uri()
    started = time.perf_counter()
    for name in pack.names():
        if name.startswith("texts/"):
            pack.part(name)
    to_pack_s = time.perf_counter() - started
    from_file = measure_page(browser, address)
    assert from_file["first_paint_s"] < 4
    assert from_file["frame_ms"] < 100
    assert from_file["cluster_s"] < 2
    # To search the texts takes no longer than to write them.
    assert from_file["search_s"] < max(2.0, to_pack_s)
    assert from_file["heap_mb"] < 400
