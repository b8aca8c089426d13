"""An offline run is held to its own machine, whichever library asks for more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from whatchanged.config import parse_config
from whatchanged.errors import ConfigError
from whatchanged.models.api_callers import check_apis
from whatchanged.models.offline import is_local_endpoint, is_this_machine

ASKS = """\
import json, socket, sys, tempfile, urllib.request
import httpx
from whatchanged.errors import OfflineError
from whatchanged.models.offline import keep_offline

keep_offline(True)
server = socket.create_server(("127.0.0.1", 0))

def knock(address):
    socket.create_connection(address, timeout=2).close()

def unix():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as own:
        own.bind(f"{folder}/s"); own.listen()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(f"{folder}/s")

asked = {
    "loopback": lambda: knock(server.getsockname()),
    "localhost": lambda: knock(("localhost", server.getsockname()[1])),
    "unix": unix,
    "address": lambda: knock(("192.0.2.1", 80)),
    "address, IPv6": lambda: knock(("2001:db8::1", 80)),
    "name": lambda: knock(("example.com", 80)),
    "look-up": lambda: socket.gethostbyname("example.com"),
    "datagram": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    "urllib": lambda: urllib.request.urlopen("http://example.com", timeout=2),
    "httpx": lambda: httpx.get("http://example.com", timeout=2),
}
told = {}
for name, ask in asked.items():
    try:
        ask()
        told[name] = "done"
    except Exception as error:
        seen = error
        while seen is not None and not isinstance(seen, OfflineError):
            seen = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        told[name] = "refused" if seen is not None else repr(error)
keep_offline(False)
try:
    knock(("192.0.2.1", 80))
except Exception as error:
    told["after"] = "tried" if not isinstance(error, OfflineError) else "refused"
print(json.dumps(told))
"""


def test_an_offline_process_reaches_its_own_machine_and_no_other() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKS], capture_output=True, text=True, check=True, timeout=60
    )
    here = {"loopback": "done", "localhost": "done", "unix": "done"}
    elsewhere = ("address", "address, IPv6", "name", "look-up", "datagram", "urllib", "httpx")
    expected = here | dict.fromkeys(elsewhere, "refused") | {"after": "tried"}
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("127.0.0.1", True), (b"127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("", True),
     (None, True), ("localhost", True), ("10.0.0.1", False), ("0.0.0.0", False),  # noqa: S104
     ("localhost.example.com", False), ("127.0.0.1.example.com", False)],
)  # fmt: skip
def test_only_loopback_is_this_machine(host: object, is_here: bool) -> None:
    assert is_this_machine(host) is is_here


def test_a_providers_own_address_is_another_machine() -> None:
    assert not is_local_endpoint(None)
    assert not is_local_endpoint("https://api.example.com/v1")
    assert not is_local_endpoint("no address")
    assert is_local_endpoint("http://127.0.0.1:8000/v1")


@pytest.mark.parametrize("endpoint", [None, "https://api.example.com/v1"])
def test_an_offline_config_with_a_remote_judge_is_refused_in_one_sentence(
    endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    judge = {"provider": "openai_compatible", "model": "m", "endpoint": endpoint}
    config = parse_config(
        {
            "base": {"model": "demo:base"},
            "intervention": {"model": "demo:intervention"},
            "judge": {"expensive": judge},
            "run": {"offline": True},
        },
        "c.yaml",
    )
    with pytest.raises(ConfigError, match=r"judge\.expensive\.endpoint.*run\.offline"):
        check_apis(config)
