"""A folder that several machines share, at any URL that fsspec opens: a bucket, a mount, a server.

Files are whole and never change: their names are content keys. A file is written beside its place
and moved there, so that no reader sees half of one, whatever the file system promises. Whoever
reads checks what it got.
"""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from whatchanged.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    TransientError,
    first_line,
)

_LOCAL_SCHEMES = ("", "file", "local", "memory")


class SharedFolder:
    """Files by name below `url`. Safe for any number of threads and processes of any machine.

    Of several writers of one name, the first one's file usually stays; the last one's does where
    they are at it at the very same moment. All methods raise TransientError where the far side
    cannot be reached or refuses; ConfigError for a URL that fsspec cannot read, and
    MissingDependencyError where it lacks the package for it.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"SharedFolder({self.url!r})"

    def read(self, name: str) -> bytes | None:
        """The file; None where there is none."""
        files, path = self._at(name)
        try:
            data: bytes = files.cat_file(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # of many types, the clients' own among them
            raise _failure("read", self.url, error) from None
        _known(self.url).add(name)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, unless this process knows that it is there, or finds it so."""
        if name in _known(self.url):
            return
        files, path = self._at(name)
        _, beside = self._at(f"incoming/{uuid.uuid4().hex}")
        try:
            if not files.exists(path):
                for each in (path, beside):
                    files.makedirs(each.rpartition("/")[0], exist_ok=True)
                files.pipe_file(beside, data)
                files.mv(beside, path)
        except Exception as error:  # as above
            raise _failure("write", self.url, error) from None
        _known(self.url).add(name)

    def set_aside(self, name: str) -> None:
        """Move a damaged file out of the way, to `quarantine/`."""
        _known(self.url).discard(name)
        files, path = self._at(name)
        _, aside = self._at(f"quarantine/{name.rpartition('/')[2]}.{uuid.uuid4().hex}")
        try:
            files.makedirs(aside.rpartition("/")[0], exist_ok=True)
            files.mv(path, aside)
        except FileNotFoundError:
            return
        except Exception as error:  # as above
            raise _failure("move", self.url, error) from None

    def check(self) -> None:
        """Nothing, where a file can be written and read back; else InputError."""
        name, data = f"incoming/check-{uuid.uuid4().hex}", b"whatchanged"
        try:
            self.write(name, data)
            found = self.read(name)
        except TransientError as error:
            raise InputError(f"run.store: {error}") from None
        if found != data:
            raise InputError(
                f"run.store: expected to read back what was written to {self.url}, found "
                f"{'nothing' if found is None else 'something else'}: name another folder"
            )
        self._discard(name)

    def _discard(self, name: str) -> None:
        files, path = self._at(name)
        files.rm_file(path)
        _known(self.url).discard(name)

    def _at(self, name: str) -> tuple[Any, str]:
        """The file system, and where a file of this name is in it."""
        files, root = _open(self.url)
        return files, f"{root.rstrip('/')}/{name}"


def is_of_this_machine(url: str) -> bool:
    """Whether a shared folder is a path or a URL that no network is needed for."""
    return urlsplit(url).scheme in _LOCAL_SCHEMES


def _failure(verb: str, url: str, error: Exception) -> TransientError:
    return TransientError(
        f"expected to {verb} below {url}, found {type(error).__name__}: {first_line(error)}; check "
        "the address and its credentials, and run again: nothing that was computed is lost"
    )


@cache
def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(
            f"run.store: expected the package that fsspec needs for {url}, found none "
            f"({first_line(error)})"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"run.store: expected a folder or a URL that fsspec opens, such as s3://bucket/path, "
            f"found {url!r} ({first_line(error)})"
        ) from None
    except Exception as error:  # of many types: some connect at once
        raise _failure("open a folder", url, error) from None
    return files, path


@cache
def _known(url: str) -> set[str]:
    """The names that this process has seen at a URL."""
    return set()
