"""Where and how a run computes: nothing of it changes a result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from whatchanged.config_blocks import Block
from whatchanged.store.shared import is_of_this_machine


class RunConfig(Block):
    """Where chunks of texts are decoded: in this process one after the other (`threads`), in
    `workers` processes beside it (`processes`; auto: one per core), or on a Ray cluster (`ray`):
    the one at `ray_address`, by default one of this machine for this run.

    Other processes leave what they computed in the cache folder, which all of them must see, or in
    the `store`: a folder or a URL that fsspec opens, beside a cache folder of each machine's own.
    `offline` refuses every connection beyond this machine.
    """

    runner: Literal["threads", "processes", "ray"] = "threads"
    workers: int | Literal["auto"] = "auto"
    ray_address: str | None = None
    store: str | None = None
    device: str = "auto"
    offline: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether other processes compute chunks."""
        return self.runner != "threads"

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if self.ray_address is not None and self.runner != "ray":
            raise ValueError(f"`ray_address` needs `runner: ray`, not {self.runner}")
        if self.workers != "auto" and (self.runner != "processes" or self.workers < 1):
            raise ValueError("`workers` is a number of at least 1, and needs `runner: processes`")
        if self.store is not None:
            if "://" not in self.store and not Path(self.store).is_absolute():
                raise ValueError(
                    f"`store` is a URL or a folder, found {self.store}: write ./{self.store} for a "
                    "folder beside this file"
                )
            if urlsplit(self.store).password is not None:
                raise ValueError(
                    "`store` holds a password, which the run folder would keep: give it where the "
                    "file system's package looks for it, in the environment or a file"
                )
            if self.offline and not is_of_this_machine(self.store):
                raise ValueError(
                    f"`offline` connects to no other machine, and `store` is {self.store}"
                )
        if self.offline and self.is_spread:
            raise ValueError(
                f"`offline` holds one process, and needs `runner: threads`, not {self.runner}"
            )
        return self
