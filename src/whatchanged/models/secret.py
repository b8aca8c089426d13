"""Keys of paid APIs: read from the environment, and shown to nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from whatchanged.errors import MissingDependencyError


class Secret:
    """A value that no str, repr, format, copy or pickle gives away; `reveal` does.

    `name` is where it comes from, and may be shown.
    """

    __slots__ = ("_reveal", "name")

    def __init__(self, value: str, name: str) -> None:
        # In a closure, so that what prints an object's attributes finds a function.
        def reveal() -> str:
            return value

        self._reveal: Callable[[], str] = reveal
        self.name = name

    def reveal(self) -> str:
        """The value itself: for a header, and for nothing else."""
        return self._reveal()

    def redact(self, text: str) -> str:
        """The text without the value: servers quote keys in their error messages."""
        return text.replace(self._reveal(), "***")

    def __repr__(self) -> str:
        return f"Secret({self.name})"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: read it again where it is needed")


def secret_from_environment(name: str) -> Secret:
    """The key that the environment variable `name` holds, without the space around it.

    Raises MissingDependencyError where it is not set, or is blank or no printable ASCII (a header
    could not carry it).
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise MissingDependencyError(
            f"expected an API key in the environment variable {name}, found none: export {name}=..."
        )
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise MissingDependencyError(
            f"expected an API key of printable ASCII in the environment variable {name}, found "
            f"other characters: copy the key again"
        )
    return Secret(value, name)
