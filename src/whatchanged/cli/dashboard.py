"""`whatchanged dashboard`: the page of a run, served on this machine."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.cli.status import RunStatus, read_status
from whatchanged.cli.terminal import say, tell
from whatchanged.errors import InputError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from whatchanged.dashboard.parts import Parts

LOOPBACK = "127.0.0.1"


def serve_run(path: Path, *, port: int, host: str | None) -> int:
    """Serves the dashboard of a run until it is interrupted; returns 0.

    Raises InputError where the folder is no run, UsageError for an address that cannot be used, and
    MissingDependencyError without the server's packages.
    """
    if read_status(path) is None:
        raise InputError(
            f"expected a run folder at {path}, found neither progress.json nor manifest.json in it:"
            " check the path, or wait until the run has started"
        )
    try:
        import uvicorn

        from whatchanged.dashboard.server import LatestPack, make_app
    except ImportError as error:
        raise MissingDependencyError(
            f"the dashboard's server needs starlette and uvicorn ({error.name} is missing): install"
            " whatchanged[dashboard], or write a page that needs no server with whatchanged export"
        ) from None
    address = check_address(host)
    token = None if address == LOOPBACK else secrets.token_urlsafe(24)
    listener = _listen(address, port)
    bound = listener.getsockname()[1]
    latest = LatestPack(lambda: _load_pack(path), lambda: read_news(path))
    threading.Thread(target=latest.warm, daemon=True).start()
    app = make_app(
        path.resolve().name,
        latest,
        lambda: read_news(path),
        hosts=host_names(address, bound),
        token=token,
    )
    place = f"[{address}]" if ":" in address else address
    say(f"http://{place}:{bound}/" + ("" if token is None else f"?token={token}"))
    tell("Ctrl+C stops the server; the run goes on without it")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    return 0


def read_news(path: Path) -> dict[str, Any]:
    """What is new of a run, as the page shows it; `revision` changes with the results."""
    status = read_status(path)
    if status is None:
        status = RunStatus(
            path, "interrupted", None, "the run folder is gone", None, None, {}, None
        )
    try:
        finished = (path / "manifest.json").stat()
        revision = f"{finished.st_mtime_ns}-{finished.st_size}"
    except OSError:
        revision = ""
    return {
        "state": status.state,
        "stage": status.stage,
        "detail": status.detail,
        "seconds": dict(status.seconds),
        "started_utc": status.started_utc,
        "updated_utc": status.updated_utc,
        "revision": revision,
    }


def check_address(host: str | None) -> str:
    """The address to listen on: this machine's own unless another is named.

    Raises UsageError for a name, and for an address that stands for all others: readers must be
    able to write it, because the server answers to no other.
    """
    if host is None or host == "localhost":
        return LOOPBACK
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(f"expected an IP address for --host, found {host!r}") from None
    if address.is_unspecified:
        raise UsageError(
            f"--host {host} would open the server to every network: name the one address under"
            " which readers reach this machine"
        )
    return LOOPBACK if address.is_loopback else str(address)


def host_names(address: str, port: int) -> frozenset[str]:
    """The Host headers that belong to an address."""
    names = ["127.0.0.1", "localhost"] if address == LOOPBACK else [address]
    return frozenset(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        # From here on a browser that follows the address waits instead of being refused.
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {address}, port {port} ({error}): try another --port"
        ) from None
    return listener


def _load_pack(path: Path) -> Parts:
    import whatchanged
    from whatchanged.dashboard.pack import pack_run

    return pack_run(whatchanged.load(path))
