"""The screens of a comparison of SAEs in Chromium, with every name from somebody who means harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostile import HIDDEN, HIDDEN_SHOWN, PAYLOADS
from test_dashboard import AXE, SCREENSHOTS
from watched import Watched

from benchmarks.dashboard import serve, wait_s
from benchmarks.dashboard_saes import InventedComparison, invent_comparison, pack_comparison
from whatchanged.dashboard.shell import write_folder
from whatchanged.store.exports import write_export_folder

OpenPage = Callable[..., Watched]
# A table of a comparison holds no half of a character.
UNSEEN, UNSEEN_SHOWN = HIDDEN.replace("\ud800", "?"), HIDDEN_SHOWN.replace("U+D800", "?")
SAES = [PAYLOADS[0], f"{PAYLOADS[1]} {UNSEEN}"]
CATEGORIES = PAYLOADS[2:50]
TEXTS = [f"said {payload}" for payload in PAYLOADS[50:]]


def address_of(run: InventedComparison, path: Path) -> str:
    write_export_folder(path, write_folder("r", pack_comparison(run).parts()))
    return (path / "index.html").as_uri()


def ordinary() -> InventedComparison:
    return invent_comparison(
        ["topk", "jumprelu"], ["pets", "space travel"],
        ["The old dog sleeps", "A puppy barks", "Cats purr"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a comparison in which every SAE, category and text is a payload."""
    run = invent_comparison(SAES, CATEGORIES, TEXTS, model=f"lab/{PAYLOADS[5]}")
    return address_of(run, tmp_path_factory.mktemp("saes") / "x")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return address_of(ordinary(), tmp_path_factory.mktemp("saes") / "x")


def screens(sae: str, category: str) -> dict[str, str]:
    own, of = quote(sae, safe=""), quote(category, safe="")
    return {
        "saes": "#/",
        "saes-used": "#/?by=n_used&at=q0.9&table=ablations",
        "saes-rankings": "#/?by=n_specialists&table=rankings&sort=-rank",
        "saes-overlap": "#/?table=overlap",
        "sae": f"#/sae/{own}?category={of}",
        "sae-all": f"#/sae/{own}",
        "feature": f"#/feature/{own}/0?on=1&token=2",
        "feature-unknown": f"#/feature/{own}/99999",
        "saes-run": "#/run",
        "sae-nothing": "#/sae/none",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_of_saes_and_categories_run_nothing_and_axe_finds_nothing_serious(
    open_page: OpenPage, hostile: str, plain: str, scheme: str
) -> None:
    watched = open_page(color_scheme=scheme)
    for name, hash_ in screens(SAES[0], CATEGORIES[0]).items():
        watched.go(hostile, hash_)
        assert watched.page.evaluate("globalThis.harmed") is None, name
        assert "failed" not in watched.page.inner_text("h1"), name
        if AXE.exists():
            watched.page.evaluate(AXE.read_text(encoding="utf-8"))
            found = watched.page.evaluate("axe.run()")["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"][:160])
                for one in found if one["impact"] in ("serious", "critical")
            ]  # fmt: skip
            assert serious == [], name
    for name, hash_ in screens("topk", "pets").items():
        watched.go(plain, hash_)
        path = SCREENSHOTS / f"{name}-{scheme}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(watched.page.screenshot(full_page=True))
    assert watched.errors == []
    assert {url.split(":")[0] for url in watched.requests} <= {"file", "data"}


def test_names_are_shown_as_they_were_written(open_page: OpenPage, hostile: str) -> None:
    watched = open_page()
    watched.go(hostile)
    assert watched.page.locator("main tbody th[scope=row]").all_text_contents() == CATEGORIES
    text = watched.page.text_content("main") or ""
    assert f"{PAYLOADS[1]} {UNSEEN_SHOWN}" in text
    for k in range(0, 48, 12):
        watched.go(hostile, f"#/feature/{quote(SAES[0], safe='')}/{k}?on=9")
        shown = watched.page.locator("blockquote .body").all_text_contents()
        assert shown == TEXTS[:3]


def test_from_the_matrix_to_a_token_and_its_activation_by_keyboard(
    open_page: OpenPage, plain: str
) -> None:
    watched = open_page()
    page = watched.page
    watched.go(plain)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.dataset.focus") == "filter"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".token.fire")
    watched.settle()
    # The second and third token of the text fire, the first is the start.
    assert page.locator(".token.fire").all_inner_texts() == ["The", " old"]
    page.focus(".tokens")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout").endswith("activation 2.000")
    watched.go(plain, "#/sae/topk?category=pets")
    page.focus("td [data-open] >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:text('Feature 0')")


def test_the_reconstruction_of_each_sae_stands_beside_every_table(
    open_page: OpenPage, plain: str
) -> None:
    watched = open_page()
    for name in ("rankings", "ablations", "overlap", "concepts", "changes", "saes"):
        watched.go(plain, f"#/?table={name}")
        below = watched.page.locator("h2:text('Tables') ~ p").all_inner_texts()
        assert [line.split(",")[0] for line in below] == [
            "topk: explained variance 0.90", "jumprelu: explained variance 0.20"
        ], name  # fmt: skip
        assert "explains less than 50% of the variance" in below[1]
    for hash_ in ("#/sae/jumprelu", "#/feature/jumprelu/0"):
        watched.go(plain, hash_)
        assert "jumprelu: explained variance 0.20" in watched.text(), hash_


def test_a_feature_links_to_neuronpedia_and_to_nowhere_else(
    open_page: OpenPage, tmp_path: Path
) -> None:
    run = ordinary()
    table = run.tables["saes/specialists"]
    evil = table.assign(
        link=[
            link if sae == "topk" else "https://www.neuronpedia.org.evil/a/b/1"
            for link, sae in zip(table["link"], table["sae"], strict=True)
        ]
    )
    others = {name: one.drop(columns="link", errors="ignore") for name, one in run.tables.items()}
    run.tables.update({**others, "saes/specialists": evil})
    address = address_of(run, tmp_path / "x")
    watched = open_page()
    links = "main a[href^=http]"
    watched.go(address, "#/feature/topk/100")
    assert watched.page.get_attribute(links, "href") == (
        "https://www.neuronpedia.org/lab/0-res/100"
    )
    assert watched.page.get_attribute(links, "rel") == "noopener noreferrer"
    watched.go(address, "#/feature/jumprelu/100")
    assert watched.page.locator(links).count() == 0


def test_every_sae_screen_survives_a_reload_and_a_narrow_window(
    open_page: OpenPage, plain: str
) -> None:
    watched = open_page(viewport={"width": 480, "height": 800})
    for name, hash_ in screens("topk", "space travel").items():
        watched.go(plain, hash_)
        before = watched.text()
        watched.page.reload()
        watched.settle()
        assert watched.text() == before, name
        assert watched.page.evaluate("location.hash") == hash_, name
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 480, name


def variants() -> dict[str, InventedComparison]:
    return {
        "empty": invent_comparison(["topk"], [], []),
        "one": invent_comparison(["topk"], ["pets"], ["A dog"]),
        "huge": invent_comparison(
            [f"sae {i}" for i in range(20)], [f"category {i}" for i in range(60)],
            ["word " * 20_000] * 3, n_specialists=20,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("size", ["empty", "one", "huge"])
def test_every_sae_screen_has_something_to_say_about_little_and_much(
    size: str, open_page: OpenPage, tmp_path: Path
) -> None:
    address = address_of(variants()[size], tmp_path / "x")
    watched = open_page()
    name, category = ("sae 3", "category 7") if size == "huge" else ("topk", "pets")
    for hash_ in screens(name, category).values():
        watched.go(address, hash_)
        assert len(watched.text()) > 20, hash_
        assert "failed" not in watched.page.inner_text("h1"), hash_
    assert watched.errors == []


def test_one_broken_part_leaves_the_others_alone(open_page: OpenPage, tmp_path: Path) -> None:
    address = address_of(ordinary(), tmp_path / "x")
    data = tmp_path / "x" / "data"
    (data / "quoted" / "0.js").write_text('whatchangedPart("quoted/0","AAAA")')
    (data / "table" / "overlap.js").unlink()
    watched = open_page()
    watched.go(address, "#/sae/topk?category=pets")
    assert "data/quoted/0.js is damaged" in watched.text()
    assert "share inside" in watched.text()
    watched.go(address, "#/?table=overlap")
    assert "data/table/overlap.js could not be loaded" in watched.text()
    assert "space travel" in watched.text()
    assert watched.errors == []


def test_a_served_comparison_appears_when_it_is_finished(open_page: OpenPage, plain: str) -> None:
    news: dict[str, Any] = {
        "state": "in progress", "stage": "extract", "detail": None, "seconds": {},
        "started_utc": None, "updated_utc": None, "revision": "",
    }  # fmt: skip
    watched = open_page(offline=False)
    with serve(pack_comparison(ordinary()), lambda: news) as address:
        watched.page.goto(address)
        watched.page.wait_for_selector("text=This run is in progress")
        seconds = wait_s(watched.page, lambda: news.update(stage="ablate"), "strong:text('ablate')")
        assert seconds < 1.0
        news.update(state="finished", revision="1")
        watched.page.wait_for_selector("h2:text('SAEs and categories')")
        watched.settle()
        served = watched.text()
    still = open_page()
    still.go(plain)
    assert still.text() == served
