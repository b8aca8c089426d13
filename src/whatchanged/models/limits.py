"""How long one call to an API may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to connect, seconds between two pieces of the reply, and seconds in all.

    The last one holds however slowly the pieces come; models that reason before they answer send
    their first piece late.
    """

    connect_s: float = 10.0
    read_s: float = 90.0
    total_s: float = 180.0
