"""The dashboard's server: the same page and parts as an export, made on demand, and live news.

It reads and never writes. What protects it: it listens on this machine alone unless told otherwise;
it answers only requests that name it exactly (so no other site's name can be pointed at it), and
only its own page may load its parts; it sends no CORS header; at any other address it asks for a
token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from whatchanged.dashboard.columns import as_script
from whatchanged.dashboard.shell import SCRIPT, page_script, policy, write_index
from whatchanged.errors import WhatchangedError

if TYPE_CHECKING:
    from whatchanged.dashboard.parts import Parts
    from whatchanged.dashboard.search import TextSearch

POLL_S = 0.25
HEARTBEAT_S = 15.0
# The parts last asked for, of at most about 2 MB each.
MAX_SCRIPTS_KEPT = 32
COOKIE = "whatchanged_token"

News = Mapping[str, Any]


class LatestPack:
    """The pack of the newest results: loaded when first asked for, and again when they change."""

    def __init__(self, load: Callable[[], Parts], read_news: Callable[[], News]) -> None:
        self._load, self._read_news = load, read_news
        self._lock = threading.Lock()
        self._pack: Parts | None = None
        self._scripts: dict[str, bytes] = {}
        self._search: TextSearch | None = None
        self._revision: str | None = None

    def script(self, name: str) -> bytes:
        """A part as the page loads it, made once. Raises KeyError for a name that is none."""
        with self._lock:
            pack = self._fresh()
            script = self._scripts.pop(name, None) or as_script(name, pack.part(name))
            self._scripts[name] = script
            if len(self._scripts) > MAX_SCRIPTS_KEPT:
                del self._scripts[next(iter(self._scripts))]
            return script

    def warm(self) -> None:
        """Makes what the first screens need before anyone asks; a problem is told to who asks."""
        for name in ("manifest", "verdict", "hypothesis/0"):
            with contextlib.suppress(KeyError, WhatchangedError):
                self.script(name)

    def search(self, query: str, as_: Any, *, is_case_kept: bool) -> dict[str, Any]:
        """See `TextSearch.find`. Raises KeyError where the run has no texts to search."""
        with self._lock:
            rows = self._fresh().rows
            if rows is None:
                raise KeyError("texts")
            if self._search is None:
                from whatchanged.dashboard.search import TextSearch

                self._search = TextSearch(rows)
            return self._search.find(query, as_, is_case_kept=is_case_kept)

    def _fresh(self) -> Parts:
        revision = str(self._read_news()["revision"])
        if self._pack is None or revision != self._revision:
            self._pack, self._search, self._revision = self._load(), None, revision
            self._scripts = {}
        return self._pack


def make_app(
    name: str,
    latest: LatestPack,
    read_news: Callable[[], News],
    *,
    hosts: frozenset[str],
    token: str | None = None,
) -> ASGIApp:
    """The server of one run.

    `hosts` are the values of the Host header that are answered. `read_news` gives what is new of
    the run (`state`, `stage`, `seconds`, ..., and `revision`, which changes with the results). With
    a `token`, a request must carry it: once as `?token=`, then as a cookie.
    """

    async def index(_: Request) -> Response:
        return Response(write_index(name, is_served=True), media_type="text/html")

    async def script(_: Request) -> Response:
        return Response(page_script(), media_type="text/javascript")

    def part(request: Request) -> Response:
        try:
            data = latest.script(request.path_params["name"])
        except KeyError:
            return PlainTextResponse("no such part", status_code=404)
        except WhatchangedError as error:
            return PlainTextResponse(str(error), status_code=503)
        return Response(data, media_type="text/javascript")

    def search(request: Request) -> Response:
        asked = request.query_params
        as_ = asked.get("as", "words")
        if as_ not in ("words", "whole"):
            return PlainTextResponse("expected as=words or as=whole", status_code=400)
        try:
            found = latest.search(asked.get("q", ""), as_, is_case_kept="case" in asked)
        except KeyError:
            return PlainTextResponse("this run has no texts to search", status_code=404)
        except WhatchangedError as error:
            return PlainTextResponse(str(error), status_code=503)
        return JSONResponse(found)

    async def events(request: Request) -> Response:
        return StreamingResponse(_stream(request, read_news), media_type="text/event-stream")

    routes = [
        Route("/", index),
        Route(f"/{SCRIPT}", script),
        Route("/data/{name:path}.js", part),
        Route("/api/search", search),
        Route("/events", events),
    ]
    return _Guard(Starlette(routes=routes), hosts, token)


async def _stream(request: Request, read_news: Callable[[], News]) -> AsyncIterator[str]:
    """The news as server-sent events: at once, and whenever they change."""
    told: str | None = None
    quiet_s = 0.0
    while not await request.is_disconnected():
        news = json.dumps(await asyncio.to_thread(read_news))
        if news != told:
            told, quiet_s = news, 0.0
            yield f"data: {news}\n\n"
        elif quiet_s >= HEARTBEAT_S:
            quiet_s = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL_S)
        quiet_s += POLL_S


class _Guard:
    """Refuses what is not for this server, and adds the headers that every answer carries."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        own = policy("script-src 'self'", "connect-src 'self'")
        self._headers = {
            "content-security-policy": f"{own}; frame-ancestors 'none'",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"expected an http request, found {scope['type']}")
        request = Request(scope)
        given = request.query_params.get("token")
        refusal = self._refusal(request, given)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = dict(self._headers)
                if refusal is None and self._token is not None and given is not None:
                    extra["set-cookie"] = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
                message["headers"] += [(k.encode(), v.encode()) for k, v in extra.items()]
            await send(message)

        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request, given: str | None) -> Response | None:
        if request.headers.get("host") not in self._hosts:
            return PlainTextResponse("this server does not answer to that name", status_code=421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("this server only reads", status_code=405)
        # Browsers say where a request comes from; another site may link here and nothing else.
        site = request.headers.get("sec-fetch-site", "none")
        is_visit = request.headers.get("sec-fetch-mode") == "navigate" and request.url.path == "/"
        if site not in ("same-origin", "none") and not is_visit:
            return PlainTextResponse("only this server's own page may ask for that", 403)
        if self._token is not None:
            shown = given if given is not None else request.cookies.get(COOKIE, "")
            if not secrets.compare_digest(shown.encode(), self._token.encode()):
                return PlainTextResponse("open the address with its token", status_code=401)
        return None
