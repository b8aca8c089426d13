"""A Hugging Face hub on this machine, as far as pushing files goes: repositories, whether they are
private, and the files of each commit as its body brought them."""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_REPO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?P<rest>/.*)?")


@dataclass
class Repository:
    """What was pushed to one repository."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


class LoopbackHub:
    """The server, on a thread of its own, as a context; it takes one token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.hub = self

    @property
    def url(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        match = _REPO.fullmatch(self.path.partition("?")[0])
        found = match and self.server.hub.repositories.get(match["repo"])
        if not match or not found:
            self._send(404, {"error": "Repository not found"})
            return
        self._send(200, {"id": match["repo"], "private": found.is_private, "sha": "0" * 40})

    def do_POST(self) -> None:
        hub, data = self.server.hub, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, {"error": "Invalid username or password."})
            return
        if self.path == "/api/repos/create":
            self._create(json.loads(data))
            return
        if self.path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
            return
        match = _REPO.fullmatch(self.path.partition("?")[0])
        found = match and hub.repositories.get(match["repo"])
        if not match or not found:
            self._send(404, {"error": "Repository not found"})
        elif match["rest"] == "/preupload/main":
            asked = [one["path"] for one in json.loads(data)["files"]]
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            self._send(200, {"files": files})
        elif match["rest"] == "/commit/main":
            self._commit(match["repo"], found, data)
        else:
            self._send(404, {"error": f"no such path {self.path}"})

    def _create(self, asked: dict[str, Any]) -> None:
        hub, name = self.server.hub, f"{asked['organization']}/{asked['name']}"
        if name in hub.repositories:
            error = "You already created this dataset repo"
            self._send(409, {"error": error, "url": f"{hub.url}/datasets/{name}"})
            return
        hub.repositories[name] = Repository(is_private=asked.get("visibility") == "private")
        self._send(200, {"url": f"{hub.url}/datasets/{name}", "name": name})

    def _commit(self, name: str, found: Repository, data: bytes) -> None:
        for line in data.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                found.messages.append(entry["value"]["summary"])
            else:
                assert entry["value"]["encoding"] == "base64"
                found.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        url = f"{self.server.hub.url}/datasets/{name}/commit/{'0' * 40}"
        self._send(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 404 and content["error"] == "Repository not found":
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(data)
