"""Every error that this library raises on purpose.

    WhatchangedError                   exit code 1
    ├── UsageError                     2   the caller asked for something impossible
    │   ├── ConfigError                2   a config file or an override is invalid
    │   ├── InputError                 2   a prompt file, a model folder or a run folder is unusable
    │   └── OfflineError               2   `run.offline` is set and something asked for the network
    ├── MissingDependencyError         5   a package, a key or weights are not there
    ├── BudgetReachedError             4   the money is spent; the run can be resumed
    ├── StorageError                   1   the disk refused a write (full, read-only, over a quota)
    ├── ArtifactError                  1   a stored artifact cannot be used; it is computed again
    │   ├── ArtifactMissingError       1
    │   └── ArtifactDamagedError       1   its digest differs from the one written with it
    └── TransientError                 1   something outside failed and may work when tried again

A message says what was expected, what was found, and what to do.
"""

from __future__ import annotations


class WhatchangedError(Exception):
    """Anything that this library raises on purpose; `exit_code` is the command line's answer."""

    exit_code = 1


class UsageError(WhatchangedError):
    """The caller asked for something impossible."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file or an override is invalid."""


class InputError(UsageError):
    """A prompt file, a model folder or a run folder cannot be used."""


class OfflineError(UsageError, ConnectionError):
    """Something asked for the network where `run.offline` is set; to libraries, a connection that
    failed."""


class MissingDependencyError(WhatchangedError):
    """A package, a key or model weights are not there."""

    exit_code = 5


class BudgetReachedError(WhatchangedError):
    """The budget is spent; the run can be resumed with a larger one."""

    exit_code = 4


class StorageError(WhatchangedError):
    """The disk refused a write. Nothing that was there before is lost."""


class ArtifactError(WhatchangedError):
    """A stored artifact cannot be used."""


class ArtifactMissingError(ArtifactError):
    """No artifact has this key."""


class ArtifactDamagedError(ArtifactError):
    """The artifact's digest differs from the one written with it."""


class TransientError(WhatchangedError):
    """Something outside failed and may work when tried again."""


def first_line(error: BaseException) -> str:
    """What another library said, cut to its first line; empty where it said nothing."""
    return (str(error).splitlines() or [""])[0]
