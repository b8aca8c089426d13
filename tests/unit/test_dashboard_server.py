"""The dashboard's server: what it answers, to whom, and what it costs to ask for help."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

starlette = pytest.importorskip("starlette", reason="the dashboard's server needs starlette")
pytest.importorskip("uvicorn", reason="the dashboard's server needs uvicorn")

from starlette.testclient import TestClient  # noqa: E402

from benchmarks.dashboard_run import invent_run, pack_invented  # noqa: E402
from whatchanged.cli.dashboard import check_address, host_names, read_news  # noqa: E402
from whatchanged.dashboard import server  # noqa: E402
from whatchanged.dashboard.columns import as_script  # noqa: E402
from whatchanged.dashboard.search import TextSearch  # noqa: E402
from whatchanged.dashboard.server import LatestPack, make_app  # noqa: E402
from whatchanged.errors import InputError, UsageError  # noqa: E402

PACK = pack_invented(invent_run(60, 3, n_findings=1, n_words=8))
NEWS = {"state": "finished", "stage": None, "detail": None, "seconds": {}, "revision": "1"}


def client_of(token: str | None = None, **headers: str) -> TestClient:
    app = make_app(
        "r", LatestPack(lambda: PACK, lambda: NEWS), lambda: NEWS,
        hosts=host_names("127.0.0.1", 8000), token=token,
    )  # fmt: skip
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=headers)


@pytest.fixture
def client() -> TestClient:
    return client_of()


def test_the_server_gives_the_same_parts_as_an_export(client: TestClient) -> None:
    for name in ("manifest", "texts/0", "hypothesis/0"):
        assert client.get(f"/data/{name}.js").content == as_script(name, PACK.part(name))


@pytest.mark.parametrize(
    "path", ["/data/texts/99.js", "/data/../secret.js", "/etc/passwd", "/docs"]
)
def test_what_is_no_part_of_the_page_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


# Ways to leave a folder, or to be sent elsewhere, in front of what is wanted there.
PREFIXES = ("/", "/data/", "/data/texts/", "//", "/data//")
CLIMBS = ("../", "..%2f", "%2e%2e/", "%252e%252e%252f", "..\\", "....//", "%c0%ae%c0%ae/", "./../")
WANTED = (
    "etc/passwd", "proc/self/environ", "pyproject.toml", "http://192.0.2.1/x",
    "file:///etc/passwd", "manifest.json%00.js",
)  # fmt: skip


def status_of(path: str) -> int:
    """What the server answers to a path that no client has tidied up."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1:8000")], "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    app = make_app(
        "r", LatestPack(lambda: PACK, lambda: NEWS), lambda: NEWS,
        hosts=host_names("127.0.0.1", 8000), token=None,
    )  # fmt: skip
    asyncio.run(app(scope, receive, send))
    (status,) = statuses
    return status


def test_no_path_leads_out_of_the_page_or_to_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*address: Any) -> None:
        raise AssertionError(f"the server asked for {address}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    paths = [
        prefix + climb * 4 + wanted for prefix in PREFIXES for climb in CLIMBS for wanted in WANTED
    ]
    assert len(paths) == 240
    assert status_of("/data/manifest.js") == 200
    assert {path: status for path in paths if (status := status_of(path)) != 404} == {}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:8001", "localhost.evil.example:8000", ""]
)
def test_another_name_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 421
    assert client.get("/data/manifest.js", headers={"host": host}).status_code == 421


def test_its_own_names_are_answered(client: TestClient) -> None:
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200


def test_only_reading_is_allowed(client: TestClient) -> None:
    assert client.post("/").status_code == 405
    assert client.delete("/data/manifest.js").status_code == 405


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_here_and_load_nothing(client: TestClient, site: str) -> None:
    script = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert client.get("/data/manifest.js", headers=script).status_code == 403
    visit = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=visit).status_code == 200
    assert client.get("/api/search?q=ba", headers=visit).status_code == 403


@pytest.mark.parametrize("path", ["/", "/page.js", "/data/manifest.js", "/nothing"])
def test_every_answer_carries_its_headers_and_no_cors(client: TestClient, path: str) -> None:
    headers = client.get(path, headers={"origin": "https://evil.example"}).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_token_is_asked_for_everywhere_and_kept_as_a_cookie() -> None:
    client = client_of(token="right")  # noqa: S106
    for path in ("/", "/data/manifest.js", "/events", "/?token=wrong", "/?token=%C3%A9"):
        assert client.get(path).status_code == 401
    first = client.get("/?token=right")
    assert first.status_code == 200
    assert "HttpOnly; SameSite=Strict" in first.headers["set-cookie"]
    assert client.get("/data/manifest.js").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "300.1.1.1"])  # noqa: S104
def test_an_address_that_readers_cannot_write_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="--host"):
        check_address(host)


def test_this_machine_is_the_default_and_another_address_is_kept() -> None:
    assert check_address(None) == check_address("localhost") == check_address("::1") == "127.0.0.1"
    assert check_address("192.168.1.5") == "192.168.1.5"
    assert host_names("192.168.1.5", 80) == {"192.168.1.5:80"}
    assert host_names("fe80::1", 80) == {"[fe80::1]:80"}


def test_a_pack_is_loaded_once_until_the_results_change() -> None:
    news = dict(NEWS)
    loads: list[str] = []

    def load() -> Any:
        loads.append(str(news["revision"]))
        return PACK

    latest = LatestPack(load, lambda: news)
    latest.script("manifest")
    latest.search("ba", "words", is_case_kept=False)
    assert loads == ["1"]
    news["revision"] = "2"
    latest.script("manifest")
    assert loads == ["1", "2"]


class Noting:
    """A pack that notes which parts are made, and has none under the name `damaged`."""

    def __init__(self, damaged: str = "") -> None:
        self.made: list[str] = []
        self._damaged = damaged

    def part(self, name: str) -> bytes:
        self.made.append(name)
        if name == self._damaged:
            raise InputError("damaged")
        return PACK.part(name)


def test_what_the_first_screens_need_is_made_before_anyone_asks() -> None:
    pack = Noting(damaged="verdict")
    LatestPack(lambda: pack, lambda: NEWS).warm()  # type: ignore[arg-type, return-value]
    assert pack.made == ["manifest", "verdict", "hypothesis/0"]


def test_a_part_is_made_once_until_the_results_change() -> None:
    news, pack = dict(NEWS), Noting()
    latest = LatestPack(lambda: pack, lambda: news)  # type: ignore[arg-type, return-value]
    first = latest.script("verdict")
    assert latest.script("verdict") == first
    assert pack.made == ["verdict"]
    news["revision"] = "2"
    latest.script("verdict")
    assert pack.made == ["verdict", "verdict"]


def test_only_the_parts_last_asked_for_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_SCRIPTS_KEPT", 2)
    pack = Noting()
    latest = LatestPack(lambda: pack, lambda: NEWS)  # type: ignore[arg-type, return-value]
    for name in ("verdict", "manifest", "verdict", "hypothesis/0", "verdict", "manifest"):
        latest.script(name)
    assert pack.made == ["verdict", "manifest", "hypothesis/0", "manifest"]


def test_results_that_are_not_there_yet_are_told_in_words() -> None:
    def load() -> Any:
        raise InputError("the run is unfinished")

    app = make_app("r", LatestPack(load, lambda: NEWS), lambda: NEWS, hosts=frozenset({"h:1"}))
    answer = TestClient(app, base_url="http://h:1").get("/data/manifest.js")
    assert (answer.status_code, answer.text) == (503, "the run is unfinished")


def found(query: str, as_: Any = "words", *, is_case_kept: bool = False) -> list[str]:
    rows = SEARCH.find(query, as_, is_case_kept=is_case_kept)["row"]
    return [str(PACK.rows.texts["text"].iloc[row]) for row in rows]


SEARCH = TextSearch(PACK.rows)
TEXTS = [str(text) for text in PACK.rows.texts["text"]]


def test_search_finds_letters_words_and_cases() -> None:
    assert found("quokka") == found("QUOKKA") == [t for t in TEXTS if "quokka" in t]
    assert found("QUOKKA", is_case_kept=True) == []
    assert found("uokk", "whole") == []
    assert found("quokka", "whole") == found("quokka")
    assert found("") == []


def test_signs_are_searched_as_they_are_written() -> None:
    assert found("q.okka", "whole") == found("(", "whole") == found("[") == []


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[Path]:
    news = {"stage": "decode", "detail": "round 1", "seconds": {"embed": 1.5}}
    content = {**news, "pid": os.getpid(), "started_utc": None, "updated_utc": None}
    (tmp_path / "progress.json").write_text(json.dumps(content))
    yield tmp_path


def test_news_say_how_far_a_run_is_and_change_with_its_results(progress: Path) -> None:
    news = read_news(progress)
    assert (news["state"], news["stage"], news["detail"]) == ("in progress", "decode", "round 1")
    assert news["revision"] == ""
    (progress / "manifest.json").write_text("{}")
    assert read_news(progress)["state"] == "finished"
    assert read_news(progress)["revision"] != ""


def test_help_and_the_server_start_quickly_and_load_nothing_heavy() -> None:
    code = (
        "import sys; from whatchanged.cli import main; main(['--help']); "
        "import whatchanged.cli.dashboard, whatchanged.dashboard.server; "
        "print([m for m in ('pandas', 'torch', 'prefect', 'scipy') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "whatchanged", "--help"], check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - started)
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == "[]"
    # Other tests run at the same time: three times the promise of half a second.
    assert min(seconds) < 1.5
