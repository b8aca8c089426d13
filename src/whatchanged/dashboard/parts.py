"""What the page and its server need of any pack, and the part that every kind of run has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from whatchanged.dashboard.columns import encode_part

if TYPE_CHECKING:
    from whatchanged.dashboard.rows import Rows

PACK_VERSION = 1


class Parts(ABC):
    """A run as named parts, each made when it is asked for."""

    def names(self) -> list[str]:
        """The names of all parts, the manifest first."""
        return ["manifest", *self._writers]

    def part(self, name: str) -> bytes:
        """A part's bytes, not compressed. Raises KeyError for a name that is none."""
        return self._manifest() if name == "manifest" else self._writers[name]()

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """Every part by name, the manifest last: where it is, all others are."""
        for name, write in self._writers.items():
            yield name, write()
        yield "manifest", self._manifest()

    @property
    @abstractmethod
    def rows(self) -> Rows | None:
        """The texts that can be searched, None where the run has no such texts."""

    @property
    @abstractmethod
    def _writers(self) -> Mapping[str, Callable[[], bytes]]:
        """What makes each part but the manifest, by name."""

    @abstractmethod
    def _manifest(self) -> bytes:
        """The part that says what the others are."""


class DescribedRun(Protocol):
    """What says of a run how it was made."""

    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...


def encode_about(run: DescribedRun) -> bytes:
    """How a run was made: its config, summary, stages and files."""
    manifest = getattr(run, "manifest", {})
    values = {
        "config": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
        "summary": dict(run.summary),
        "stages": manifest.get("stages", {}),
        "files": {name: stated["n_bytes"] for name, stated in manifest.get("files", {}).items()},
    }
    return encode_part(values, {})
