"""A Ray cluster: whether it is there, and the connection of this process to it."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from whatchanged.errors import ConfigError, MissingDependencyError, first_line

_PATIENCE_S = 5.0
# A worker that dies is replaced, and its chunk computed again, at most so often.
MAX_RETRIES = 3
# The Ray client's own port, which an address without one means.
_CLIENT_PORT = 10001


def check_ray(address: str | None) -> None:
    """Nothing, where Ray is installed and something answers at the address (None: this machine).

    Raises MissingDependencyError where not, ConfigError for an address that names no host and port.
    """
    if any(importlib.util.find_spec(name) is None for name in ("ray", "prefect_ray")):
        raise MissingDependencyError(
            "run.runner: expected the packages ray and prefect-ray for the runner ray, found none: "
            "pip install 'whatchanged[ray]'"
        )
    if address in (None, "auto", "local"):
        return
    host, port = _host_and_port(str(address))
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise _no_answer(str(address), error) from None


def connect(address: str | None, variables: Mapping[str, str]) -> None:
    """Connect this process to the cluster, or start one on this machine; its workers get these
    environment variables. Nothing where it is connected. Raises MissingDependencyError where no
    cluster answers."""
    check_ray(address)
    # Ray counts what its processes use and sends it to its makers, unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(
            address,
            namespace="whatchanged",
            runtime_env={"env_vars": dict(variables)},
            log_to_driver=False,
            logging_level=logging.WARNING,
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_answer(address or "this machine", error) from None


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()


def n_gpus() -> int:
    """How many GPUs the cluster has."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    return int(resources.get("GPU", 0))


def is_death(error: BaseException) -> bool:
    """Whether Ray says of a task that its worker or its node died."""
    import ray

    # A RayTaskError is what the task itself raised.
    own = ray.exceptions.RayTaskError
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, own)


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    except ValueError:
        port = None
    if port is None or not parts.hostname:
        raise ConfigError(
            f"run.ray_address: expected host:port or ray://host:port, found {address!r}: give the "
            "address that `ray start --head` printed"
        )
    return parts.hostname, port


def _no_answer(address: str, error: BaseException) -> MissingDependencyError:
    said = first_line(error)
    return MissingDependencyError(
        f"run.ray_address: expected a Ray cluster at {address}, found none that answers "
        f"({type(error).__name__}: {said}): start it with `ray start --head`, or correct the "
        "address"
    )
