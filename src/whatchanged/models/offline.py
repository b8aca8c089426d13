"""`run.offline`: a process that reaches nothing but its own machine.

The watch is an audit hook (PEP 578): it sees every connection and name look-up that Python makes,
whichever library asks for it. A socket that native code opens by itself goes unseen.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import Any
from urllib.parse import urlsplit

from whatchanged.errors import OfflineError

SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
# What the process is held to; an audit hook, once in, cannot be taken out.
_held = {"is_offline": False, "is_watched": False}


def keep_offline(is_offline: bool) -> None:
    """Holds this process, from now on, to its own machine; or, with False, to nothing.

    Where it is held, a connection or a look-up of another machine raises OfflineError in the place
    that makes it. Unix sockets and loopback addresses are this machine.
    """
    _held["is_offline"] = is_offline
    if is_offline and not _held["is_watched"]:
        _held["is_watched"] = True
        sys.addaudithook(_watch)


def is_this_machine(host: Any) -> bool:
    """Whether a host name or address is of this machine. An empty one is: it names no other."""
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if not host or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local_endpoint(endpoint: str | None) -> bool:
    """Whether an API's address is on this machine; the provider's own (None) is not."""
    host = endpoint and urlsplit(endpoint).hostname
    return bool(host) and is_this_machine(host)


def host_asked_for(event: str, args: tuple[Any, ...]) -> Any:
    """The host that an audit event connects to or looks up; None where it is about no host."""
    if event in LOOK_UPS:
        return args[0]
    if event in SENDS and isinstance(args[-1], tuple):
        return args[-1][0]
    return None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _held["is_offline"]:
        return
    host = host_asked_for(event, args)
    if host is not None and not is_this_machine(host):
        raise OfflineError(
            f"expected no connection beyond this machine, because run.offline is set, found one to "
            f"{host}: take away what asks for it, or set run.offline to false"
        )
