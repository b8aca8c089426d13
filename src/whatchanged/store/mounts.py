"""Which file system a folder is on. The locks of LMDB and of SQLite end at the machine, so that on
a network file system one cache serves one machine at a time; objects need no lock."""

from __future__ import annotations

import re
from pathlib import Path

NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "beegfs", "afs", "9p",
     "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse"}
)  # fmt: skip


def read_mounts() -> str:
    """The text of /proc/mounts; empty where the system has none."""
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def file_system_of(folder: Path, mounts: str) -> str | None:
    """The type of the file system that holds the folder, which need not be there yet; None where
    `mounts`, the text of /proc/mounts, does not say."""
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Spaces in a mount point are written as \040.
        point = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[1]))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def warn_of_network(folder: Path, mounts: str) -> str:
    """What a user must know of a cache in this folder; empty on a disk of this machine."""
    kind = file_system_of(folder.resolve(), mounts)
    if kind not in NETWORK_TYPES:
        return ""
    return (
        f"the cache {folder} is on a network file system ({kind}), where the locks of its databases"
        " end at this machine: use it from one machine at a time, or set WHATCHANGED_CACHE to a"
        " local disk"
    )
